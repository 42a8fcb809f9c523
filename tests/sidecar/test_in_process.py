"""Two sidecars in the test's own event loop: nothing in them may block it, and they work without uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from prfaas_connector.local_api.messages import Facts
from prfaas_connector.local_api.model_files import ModelFile
from prfaas_demo.certificates import Authority, Leaf
from prfaas_sidecar import app, drain
from prfaas_sidecar.app import Sidecar
from prfaas_sidecar.config import Config
from prfaas_sidecar.logs import DroppingQueueHandler
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FakeEngine, Refusal, Side, everything, lanes_of
from tests.sidecar.harness import CONSUMER, GATEWAY, PRODUCER, transfer_id
from tests.sidecar.test_control import gateway
from tests.sidecar.test_peers_file import Volume
from tests.sidecar.wire import plain_client

LANES = lanes_of(layers=2, units=32)


def make(folder: Path, leaf: Leaf, peers: dict[str, Any], **settings: Any) -> Sidecar:
    files = leaf.write(folder, "tls")
    return Sidecar(
        Config.model_validate(
            {
                "engine": {"socket": f"{tempfile.gettempdir()}/prfaas-test-{secrets.token_hex(6)}.sock"},
                "arena_bytes": "4MiB",
                "listen": {"peer": "127.0.0.1:0", "control": "127.0.0.1:0", "health": "127.0.0.1:0"},
                "tls": {"certificate": files.certificate, "key": files.key, "ca": files.ca},
                **({} if "peers_file" in settings else {"peers": peers}),
                **settings,
            }
        )
    )


@contextlib.asynccontextmanager
async def running(folder: Path, leaf: Leaf, peers: dict[str, Any], **settings: Any) -> AsyncIterator[Sidecar]:
    sidecar = await asyncio.to_thread(make, folder, leaf, peers, **settings)
    task = asyncio.create_task(sidecar.run())
    await eventually_async(lambda: len(sidecar._listeners) == 3 or task.done())
    try:
        yield sidecar
    finally:
        sidecar._stop.set()
        await task


@pytest.fixture
def logs_as_in_production(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[logging.LogRecord]:
    """Records go to a queue, as they do in the process, and not to pytest's files."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(1000)
    logger = logging.getLogger("prfaas_sidecar")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [DroppingQueueHandler(waiting)])
    return waiting


async def test_a_transfer_and_a_stranger_block_nothing(
    tmp_path: Path, authority: Authority, logs_as_in_production: queue.Queue[logging.LogRecord]
) -> None:
    dial = [{"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}]
    async with (
        running(tmp_path / "p", authority.leaf(PRODUCER), {"accept": [CONSUMER]}) as producer,
        running(tmp_path / "c", authority.leaf(CONSUMER), {"dial": dial}) as consumer,
    ):
        prefill = await FakeEngine.connect(producer.config.engine.socket)
        decode = await FakeEngine.connect(consumer.config.engine.socket)
        address = f"127.0.0.1:{producer._listeners[0].port}"
        await plain_client(address, b"GET / HTTP/1.1\r\n\r\n")
        name = transfer_id()
        produced = await prefill.produce(name, LANES, CONSUMER)
        consumed = await decode.consume(name, LANES, address, PRODUCER)
        prefill.produce_all(produced, LANES, step=8)
        assert (await decode.ended(name)).code == "complete"
        assert decode.check(consumed, LANES, everything(LANES), decode.landed(name)) == 64
        decode.release(name)
        await eventually_async(lambda: producer.node.arena.used_bytes + consumer.node.arena.used_bytes == 0)
        await decode.close()
        await prefill.close()
    said = [logs_as_in_production.get_nowait().message for _ in range(logs_as_in_production.qsize())]
    assert "connection refused" in said


async def test_a_process_that_greets_while_its_engine_dies_begins_the_next_run(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on, real = asyncio.Event(), asyncio.Event(), asyncio.open_unix_connection

    async def slow(**options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        accepted = options["sock"].getsockname() == str(path)
        if accepted:
            held.set()
            await go_on.wait()
        return await real(**options)

    async with running(tmp_path, authority.leaf(PRODUCER), {}) as sidecar:
        path, node = sidecar.config.engine.socket, sidecar.node
        scheduler = await Side.connect(path, "scheduler")
        await eventually_async(lambda: node.engine is not None)
        monkeypatch.setattr(asyncio, "open_unix_connection", slow)
        greeting = asyncio.create_task(Side.connect(path, "worker"))
        await held.wait()
        await scheduler.close()
        await eventually_async(lambda: node.engine is None)
        go_on.set()
        worker = await greeting
        await eventually_async(
            lambda: node.engine is not None and list(node.engine.connections) == ["rank 0"]
        )
        next_scheduler = await Side.connect(path, "scheduler")
        assert sidecar.not_ready() is None
        await next_scheduler.close()
        await eventually_async(worker.closed.is_set)
        await worker.close()


@pytest.mark.usefixtures("logs_as_in_production")
async def test_files_that_change_model_files_and_a_drain_block_nothing(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PEERS_SECONDS", 0.02)
    monkeypatch.setattr(drain, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.02)
    volume = await asyncio.to_thread(Volume, tmp_path / "volume")
    async with (
        running(tmp_path / "p", authority.leaf(PRODUCER), {"accept": [CONSUMER]}) as producer,
        running(
            tmp_path / "c", authority.leaf(CONSUMER), {}, peers_file=str(volume.path), drain_token="t" * 16
        ) as consumer,
        gateway(tmp_path, authority) as client,
    ):
        prefill = await FakeEngine.connect(producer.config.engine.socket)
        decode = await FakeEngine.connect(consumer.config.engine.socket)
        address = f"127.0.0.1:{producer._listeners[0].port}"
        dial = [{"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}]
        await asyncio.to_thread(volume.put, {"dial": dial, "gateways": [GATEWAY]})
        await eventually_async(lambda: consumer.node.access.dial)
        name = transfer_id()
        prefill.produce_all(await prefill.produce(name, LANES, CONSUMER), LANES)
        await decode.consume(name, LANES, address, PRODUCER)
        assert (await decode.ended(name)).code == "complete"
        decode.release(name)

        folder = consumer.config.engine.model_folder
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread((folder / "tokenizer.json").write_bytes, b"{}" * 500_000)
        decode.scheduler.send(Facts(1, 1, ("m",), (ModelFile("tokenizer.json", 1_000_000, "0" * 64),), ""))
        await eventually_async(lambda: consumer.node.engine is not None and consumer.node.engine.facts)
        control, health = (f"127.0.0.1:{listener.port}" for listener in consumer._listeners[1:])
        answer = await client.get(f"https://{control}/v1/model-files/tokenizer.json")
        assert (answer.status, len(await answer.read())) == (200, 1_000_000)

        # Nobody may be dialled any more: the warm link goes, and a new transfer does not begin.
        assert consumer._consuming.streams
        await asyncio.to_thread(volume.put, {})
        await eventually_async(lambda: not consumer._consuming.streams)
        with pytest.raises(Refusal) as refusal:
            await decode.consume(transfer_id(), LANES, address, PRODUCER)
        assert refusal.value.code == "PeerNotAllowed"

        drained = await client.get(f"http://{health}/drain?seconds=30&token={'t' * 16}")
        assert await drained.text() == "drained\n"
        assert (await (await client.get(f"http://{health}/status")).json())["draining"] is True
        await decode.close()
        await prefill.close()
        await asyncio.to_thread(shutil.rmtree, folder)


def test_logs_are_dropped_rather_than_waited_for() -> None:
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = DroppingQueueHandler(waiting)

    def log() -> None:
        handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "m", None, None))

    for _ in range(3):
        log()
    assert not hasattr(waiting.get_nowait(), "fields")
    log()
    assert vars(waiting.get_nowait())["fields"] == {"dropped_before": 2}
