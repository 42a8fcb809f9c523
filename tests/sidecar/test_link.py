"""What a link says while its peer is not there."""

from __future__ import annotations

import asyncio
import logging
import queue
from typing import cast

import pytest

from prfaas_sidecar.config import LinkSection
from prfaas_sidecar.identity import parse
from prfaas_sidecar.logs import DroppingQueueHandler
from prfaas_sidecar.net import link as link_module
from prfaas_sidecar.net.link import Link, Target
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import VERSION, DataHeader
from prfaas_sidecar.protocol.session import Event, Landing
from prfaas_sidecar.tasks import Tasks
from tests.sidecar.fake_engine import FINGERPRINT
from tests.sidecar.harness import PRODUCER


class Patient:
    """A transfer that only waits."""

    attached_at = 0.0
    reopen_code = "LinkLost"

    def open_body(self, pull: int, now: float) -> bodies.Open | None:
        """It asks for nothing."""
        return None

    def place(self, header: DataHeader) -> Landing:
        """Nothing comes."""
        raise AssertionError

    def received(self, event: Event) -> None:
        """Nothing comes."""
        raise AssertionError

    def fail(self, code: str, message: str) -> None:
        """It goes on waiting."""


class Greeted:
    """A stream whose peer has greeted."""

    ready = True


async def test_a_peer_that_is_not_there_is_said_once_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts, now = asyncio.Semaphore(0), 0.0
    log: queue.Queue[logging.LogRecord] = queue.Queue()

    async def unreachable(target: Target) -> None:
        attempts.release()
        raise OSError("nobody listens")

    async def some_attempts() -> None:
        async with asyncio.timeout(20):
            for _ in range(12):
                await attempts.acquire()

    def said() -> list[str]:
        return [record.message for record in log.queue if "the peer" in record.message]

    monkeypatch.setattr(link_module, "_connect", unreachable)
    monkeypatch.setattr(link_module, "_FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(link_module, "_LAST_RETRY_SECONDS", 0.001)
    logger = logging.getLogger("prfaas_sidecar")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [DroppingQueueHandler(log)])
    monkeypatch.setattr(link_module._log, "isEnabledFor", lambda _: True)
    tasks = Tasks(lambda name, error: None)
    target = Target("127.0.0.1", 1, parse(PRODUCER))
    hello = bodies.Hello(
        versions=(VERSION, VERSION),
        channel="c" * 32,
        identity="x",
        fingerprint="f" * 64,
        fingerprint_fields={},
    )
    link = Link(target, lambda _: hello, None, LinkSection(), lambda: now, tasks, lambda _: None)
    link.attach(Patient())
    await some_attempts()
    assert said() == ["no stream to the peer"]
    now = 10.0
    await some_attempts()
    assert said() == ["no stream to the peer"] * 2

    stream = cast(PeerStream, Greeted())
    ack = bodies.HelloAck(version=VERSION, identity=PRODUCER, fingerprint=FINGERPRINT)
    link.streams.append(stream)
    link._greeted(stream, ack)
    await some_attempts()
    assert said()[2:] == ["streams to the peer again", "some streams to the peer fail"]
    # Other streams that come up change nothing, as long as the link was up.
    link.streams.append(stream)
    link._greeted(stream, ack)
    await some_attempts()
    assert len(said()) == 4
    link.streams.clear()
    link.close()
    await tasks.close()
