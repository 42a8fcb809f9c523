"""Decisions of the producer side, without sockets: who is told what when an engine or a consumer is early,
late or refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from prfaas_connector.local_api.messages import Hello, Message, Produce
from prfaas_connector.local_api.units import Lane
from prfaas_sidecar.arena import Arena
from prfaas_sidecar.channels import Channel
from prfaas_sidecar.config import Config
from prfaas_sidecar.engine import Connection, Engine
from prfaas_sidecar.errors import TransferError
from prfaas_sidecar.identity import parse
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.node import Node
from prfaas_sidecar.producing import Producing
from prfaas_sidecar.protocol import bodies
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
    yield Node(config, parse(PRODUCER), arena, Records(100, 60), Metrics(), lambda: 0.0)
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
