"""Hearing a publisher over real ZeroMQ: gaps, replays, engines that start again or make no sense."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest

from prfaas.block_chain import chain_seed, chained
from prfaas_sidecar.kv_events import follower as follower_module
from prfaas_sidecar.kv_events.follower import Follower
from prfaas_sidecar.kv_events.ledger import Ledger
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.node import Node
from tests.helpers import eventually_async
from tests.sidecar.kv_publisher import BLOCK, Publisher, removed, stored

IDS = list(range(12))
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
NAMES = chained(array("I", IDS), BLOCK, chain_seed())


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runner's own handlers write to files, which a process does not in its loop."""
    monkeypatch.setattr(logging.getLogger("prfaas_sidecar"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("prfaas_sidecar"), "handlers", [logging.NullHandler()])


@dataclass
class World:
    """A follower, and how to be its engine."""

    ledger: Ledger
    follower: Follower
    node: SimpleNamespace
    endpoint: str
    replay: str | None
    changes: int = 0

    def publisher(self, buffer_steps: int = 100) -> Publisher:
        """A run of the engine's publisher."""
        return Publisher(self.endpoint, self.replay, buffer_steps)

    def engine(self, incarnation: str) -> None:
        """The engine's connector has greeted."""
        told = (self.endpoint, self.replay or "", "")
        self.node.engine = SimpleNamespace(incarnation=incarnation, facts=SimpleNamespace(kv_events=told))

    async def knows(self, *names: int, complete: bool = True) -> None:
        """Wait until exactly these are held."""
        await eventually_async(
            lambda: (
                sorted(self.ledger.since(None).stored) == sorted(names) and self.ledger.complete is complete
            ),
            within_seconds=20,
            what=f"{len(names)} blocks, complete={complete}",
        )


@asynccontextmanager
async def world(*, replay: bool = True) -> AsyncIterator[World]:
    """A follower at work, of an engine that is not there yet."""
    name = f"ipc://@prfaas-test-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(1000, lambda: secrets.token_hex(8))
    node = SimpleNamespace(engine=None, metrics=Metrics())
    made = World(
        ledger,
        Follower(cast(Node, node), ledger, lambda: None),
        node,
        name,
        f"{name}-replay" if replay else None,
    )
    task = asyncio.create_task(made.follower.run())
    try:
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_published_before_anybody_listened_is_repeated() -> None:
    async with world() as here:
        publisher = here.publisher()
        await publisher.publish(stored([A, B], IDS[:8]), lost=True)
        here.engine("one")
        await here.knows(*NAMES[:2])
        await publisher.publish(stored([C], IDS[8:], parent=B), removed(A))
        await here.knows(*NAMES[1:])
        await publisher.close()


async def test_a_gap_is_filled() -> None:
    async with world() as here:
        publisher = here.publisher()
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        await publisher.publish(stored([B], IDS[4:8], parent=A), lost=True)
        await publisher.publish(stored([C], IDS[8:], parent=B))
        await here.knows(*NAMES)
        assert here.node.metrics.kv_event_gaps._value.get() == 0
        await publisher.close()


async def test_what_got_lost_last_is_asked_for_in_silence() -> None:
    async with world() as here:
        publisher = here.publisher()
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        await publisher.publish(stored([B], IDS[4:8], parent=A), lost=True)
        await here.knows(*NAMES[:2])
        await publisher.close()


async def test_a_gap_that_nobody_repeats_leaves_only_what_comes_after_it() -> None:
    async with world() as here:
        publisher = here.publisher(buffer_steps=1)
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        epoch = here.ledger.cursor.epoch
        await publisher.publish(stored([B], IDS[4:8], parent=A), lost=True)
        await publisher.publish(stored([C], IDS[:4]))
        await here.knows(NAMES[0], complete=False)
        assert here.ledger.cursor.epoch != epoch
        assert here.node.metrics.kv_event_gaps._value.get() == 1
        await publisher.close()


async def test_an_engine_that_starts_again_holds_nothing() -> None:
    async with world() as here:
        first = here.publisher()
        here.engine("one")
        await first.publish(stored([A, B], IDS[:8]))
        await here.knows(*NAMES[:2])
        await first.close()
        await here.knows(complete=False)
        # Its numbers go on where the first one's ended, so nothing but the connection tells them apart.
        second = here.publisher()
        await second.publish(stored([A], IDS[:4]), lost=True)
        await second.publish(stored([C], IDS[4:8], parent=A))
        await here.knows(*NAMES[:2])
        await second.close()


async def test_an_engine_that_greets_anew_is_heard_anew() -> None:
    async with world() as here:
        publisher = here.publisher()
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        epoch = here.ledger.cursor.epoch
        here.node.engine = None
        await here.knows(complete=False)
        here.engine("two")
        await here.knows(NAMES[0])
        assert here.ledger.cursor.epoch != epoch
        await publisher.close()


async def test_without_replays_only_the_first_batch_proves_that_all_is_known() -> None:
    async with world(replay=False) as here:
        publisher = here.publisher()
        here.engine("one")
        await eventually_async(lambda: here.follower.state == "Following")
        await here.knows(complete=False)
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        await publisher.close()


async def test_an_engine_that_speaks_otherwise_is_left_alone() -> None:
    async with world() as here:
        publisher = here.publisher()
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        await publisher.send(b"\xc1 nobody's msgpack")
        await eventually_async(lambda: here.follower.state == "Unreadable")
        await here.knows(complete=False)
        here.node.engine = None
        await eventually_async(lambda: here.follower.state == "NoEngine")
        await publisher.close()


async def test_a_batch_beyond_all_bounds_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "MESSAGE_BYTES_MAX", 10_000)
    async with world() as here:
        publisher = here.publisher()
        here.engine("one")
        await publisher.publish(stored([A], IDS[:4]))
        await here.knows(NAMES[0])
        epoch = here.ledger.cursor.epoch
        # ZeroMQ closes the connection, upon which all of the engine's past is asked for.
        await publisher.send(bytes(100_000))
        await eventually_async(lambda: here.ledger.cursor.epoch != epoch)
        await publisher.close()


async def test_an_engine_that_publishes_nothing_or_elsewhere() -> None:
    async with world() as here:
        here.node.engine = SimpleNamespace(incarnation="one", facts=SimpleNamespace(kv_events=()))
        await eventually_async(lambda: here.follower.state == "Off")
        elsewhere = SimpleNamespace(kv_events=("tcp://collector:5557", "", ""))
        here.node.engine = SimpleNamespace(incarnation="one", facts=elsewhere)
        await eventually_async(lambda: here.follower.state == "OutOfReach")
        assert "--kv-events-config" in here.follower.text
