"""Decisions of the producer side, without sockets: who is told what when an engine or a consumer is early,
late or refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from prfaas_connector.local_api.messages import Hello, Message, Produce, ProducerDone, Publish
from prfaas_connector.local_api.units import Lane
from prfaas_sidecar.access import Access
from prfaas_sidecar.arena import Arena
from prfaas_sidecar.channels import Channel
from prfaas_sidecar.config import Config
from prfaas_sidecar.engine import MAX_EARLY_DONES, Connection, Engine
from prfaas_sidecar.errors import TransferError
from prfaas_sidecar.identity import Pattern, parse
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.node import Node
from prfaas_sidecar.producing import Producing
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import WireError
from prfaas_sidecar.protocol.pulls import REMEMBERED_PULLS, PullNumbers
from prfaas_sidecar.records import Records
from tests.sidecar.fake_engine import DIGEST, FINGERPRINT, everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, transfer_id

LANES = lanes_of()
TOO_LARGE = lanes_of(units=8, unit_bytes=1 << 20)


class FakeStream:
    """A ready stream that keeps what it is given."""

    ready = True

    def __init__(self) -> None:
        self.sent: list[bodies.Body] = []

    def send(self, body: bodies.Body) -> None:
        """Keep it."""
        self.sent.append(body)

    def wake(self) -> None:
        """Nothing is pulled from it by itself."""


class Bench:
    """The producer side of a node with an arena of 1 MiB, an engine and one consumer."""

    def __init__(self, node: Node, world_size: int = 1) -> None:
        self.node = node
        self.producing = Producing(node)
        self.engine = Engine(FINGERPRINT, {}, world_size)
        self.told: list[Message] = []
        self.stream = FakeStream()
        self.channel = Channel(parse(CONSUMER), secrets.token_hex(16), FINGERPRINT, {})
        self.channel.streams.append(self.peer)
        for side, rank in [("scheduler", 0), *(("worker", rank) for rank in range(world_size))]:
            self.connect(side, rank)

    @property
    def peer(self) -> PeerStream:
        """The consumer's only stream."""
        return cast(PeerStream, self.stream)

    def connect(self, side: str, rank: int) -> None:
        """A process of the engine has said hello."""
        hello = Hello(1, side, "both", rank, self.engine.world_size, 1, FINGERPRINT, {})
        connection = Connection(hello, self.told.append, lambda: None)
        self.engine.connections[connection.name] = connection

    def produce(self, name: str, lanes: tuple[Lane, ...] = LANES) -> None:
        """As the engine's socket does it."""
        self.producing.produce(self.engine, Produce(name, DIGEST, CONSUMER, lanes, 20.0))
        self.producing.produced(name)

    def open(self, name: str, pull: int, lanes: tuple[Lane, ...] = LANES) -> None:
        """The consumer asks."""
        shapes = tuple((lane.group, lane.layer, lane.shard, lane.units, lane.unit_bytes) for lane in lanes)
        request = bodies.Open(
            pull=pull,
            transfer_id=name,
            prompt_digest=DIGEST,
            lanes=shapes,
            want=everything(lanes),
            deadline_seconds=20.0,
        )
        self.producing.open(self.channel, request, self.peer)

    def refusals(self) -> list[tuple[int, str]]:
        """Pull and code of every REFUSED."""
        return [(body.pull, body.code) for body in self.stream.sent if isinstance(body, bodies.Refused)]


@pytest.fixture
def node() -> Iterator[Node]:
    """A node without listeners."""
    config = Config.model_validate(
        {
            "engine": {"socket": Path("unused.sock")},
            "arena_bytes": "1MiB",
            "insecure_plaintext_peers": True,
            "identity": PRODUCER,
            "listen": {"control": None},
        }
    )
    arena = Arena(config.arena_bytes)
    access = Access(accept=(Pattern(CONSUMER),))
    yield Node(config, parse(PRODUCER), arena, Records(100, 60), Metrics(), lambda: 0.0, access)
    arena.close()


def test_a_consumer_that_waits_is_told_that_the_arena_is_full(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.open(name, 0, TOO_LARGE)
    with pytest.raises(TransferError) as refusal:
        bench.produce(name, TOO_LARGE)
    assert refusal.value.code == "ArenaFull"
    assert bench.refusals() == [(0, "ArenaFull")]


def test_a_consumer_that_asks_after_the_refusal_is_told_at_once(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    with pytest.raises(TransferError):
        bench.produce(name, TOO_LARGE)
    bench.open(name, 0, TOO_LARGE)
    assert bench.refusals() == [(0, "ArenaFull")]


def test_an_id_that_is_used_twice_does_not_harm_its_running_transfer(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.produce(name)
    with pytest.raises(TransferError) as refusal:
        bench.produce(name)
    assert refusal.value.code == "TransferExists"
    assert node.records.early_call(name, 0.0) is None
    bench.open(name, 0)
    assert bench.refusals() == []
    assert bodies.Opened(pull=0) in bench.stream.sent


def test_nothing_is_reserved_before_all_ranks_are_connected(node: Node) -> None:
    bench = Bench(node, world_size=2)
    del bench.engine.connections["rank 1"]
    with pytest.raises(TransferError) as refusal:
        bench.produce(transfer_id())
    assert refusal.value.code == "EngineGone"
    assert node.arena.used_bytes == 0
    bench.connect("worker", 1)
    bench.produce(transfer_id())
    assert node.arena.used_bytes > 0


@pytest.mark.parametrize("complete", [True, False])
def test_a_rank_that_is_done_before_the_announcement_is_not_waited_for(node: Node, complete: bool) -> None:
    bench, name = Bench(node, world_size=2), transfer_id()
    bench.producing.rank_done(bench.engine, ProducerDone(name, 1, complete))
    bench.produce(name)
    assert node.arena.reservations()[0].holders() == ["rank 0", "transfer"]
    bench.producing.rank_done(bench.engine, ProducerDone(name, 0, True))
    record = node.records.get(name)
    assert record is not None
    assert record.code == (None if complete else "PrefillFailed")
    assert (node.arena.used_bytes == 0) is not complete


def test_all_ranks_may_be_done_before_the_announcement(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.open(name, 0)
    bench.producing.rank_done(bench.engine, ProducerDone(name, 0, False))
    bench.produce(name)
    assert [body.code for body in bench.stream.sent if isinstance(body, bodies.End)] == ["PrefillFailed"]
    assert node.arena.used_bytes == 0


def test_what_ranks_say_of_unknown_transfers_is_remembered_up_to_a_bound(node: Node) -> None:
    engine = Bench(node).engine
    for number in range(MAX_EARLY_DONES + 1):
        engine.remember_done(f"{number:032x}", 0, complete=True)
    assert engine.take_dones(f"{0:032x}") == []
    assert engine.take_dones(f"{1:032x}") == [(0, True)]
    assert engine.take_dones(f"{1:032x}") == []


def test_a_rank_that_is_done_with_an_ended_transfer_is_not_remembered(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.produce(name)
    bench.producing.cancel(name, "Cancelled")
    for _ in range(2):
        bench.producing.rank_done(bench.engine, ProducerDone(name, 0, True))
    assert node.arena.used_bytes == 0
    assert bench.engine.take_dones(name) == []


def test_opens_may_arrive_in_any_order(node: Node) -> None:
    bench, names = Bench(node), [transfer_id(), transfer_id()]
    for name in names:
        bench.produce(name)
    bench.open(names[1], 1)
    bench.open(names[0], 0)
    assert bench.refusals() == []
    assert sorted(bench.channel.pulls) == [0, 1]
    with pytest.raises(WireError):
        bench.open(names[0], 0)


@pytest.mark.parametrize("announced", [True, False])
def test_an_open_that_a_later_one_has_overtaken_is_dropped(node: Node, announced: bool) -> None:
    bench, name = Bench(node), transfer_id()
    if announced:
        bench.produce(name)
    bench.open(name, 1)
    bench.open(name, 0)
    if not announced:
        bench.produce(name)
    assert list(bench.channel.pulls) == [1]
    assert bodies.Opened(pull=0) not in bench.stream.sent


def test_nothing_is_sent_to_a_consumer_whose_cancel_overtook_its_open(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.produce(name)
    bench.producing.publish(bench.engine, Publish(name, 0, 0, 8))
    bench.producing.farewell(bench.channel, 0, "Cancelled")
    bench.open(name, 0)
    assert bench.producing.next_frame(bench.channel, bench.peer) is None
    assert bench.producing.running == 0
    record = node.records.get(name)
    assert record is not None
    assert record.code == "Cancelled"


def test_a_cancel_that_overtook_the_second_open_ends_the_first_pull(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.produce(name)
    bench.open(name, 0)
    bench.producing.publish(bench.engine, Publish(name, 0, 0, 8))
    bench.producing.farewell(bench.channel, 1, "Cancelled")
    bench.open(name, 1)
    assert bench.channel.pulls == {}
    assert bench.producing.running == 0


def test_a_cancel_that_overtook_its_open_leaves_nobody_waiting(node: Node) -> None:
    bench, name = Bench(node), transfer_id()
    bench.producing.farewell(bench.channel, 0, "Cancelled")
    bench.open(name, 0)
    bench.produce(name)
    assert bench.channel.pulls == {}
    assert bodies.Opened(pull=0) not in bench.stream.sent


def test_pulls_that_were_given_up_are_remembered_up_to_a_bound() -> None:
    numbers = PullNumbers()
    for pull in range(REMEMBERED_PULLS + 1):
        numbers.give_up(pull, "Cancelled")
    assert numbers.open(0) is None
    assert numbers.open(1) == "Cancelled"
    numbers.give_up(1, "complete")
    with pytest.raises(WireError):
        numbers.open(1)
