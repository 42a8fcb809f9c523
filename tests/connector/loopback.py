"""A sidecar of the simplest kind: one process, one arena, KV copied from the producer's extents to the
consumer's.

It speaks the local API for real, over Unix sockets, so connector tests need no network. The same scenarios
run against the real sidecar in tests/engine.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from prfaas_connector.local_api.framing import Unpacker, pack
from prfaas_connector.local_api.messages import (
    PROTOCOL,
    Abort,
    Accepted,
    Consume,
    Ended,
    Hello,
    Message,
    Produce,
    ProducerDone,
    Progress,
    Publish,
    Refused,
    Release,
    Wanted,
    Welcome,
)
from prfaas_connector.local_api.units import Ranges, count, intersect, normalise, position


@dataclass
class _Connection:
    channel: socket.socket
    unpacker: Unpacker = field(default_factory=Unpacker)
    hello: Hello | None = None
    greeted: bool = False


@dataclass
class _Transfer:
    produce: Produce | None = None
    producer: _Connection | None = None
    produced_at: tuple[int, ...] = ()
    consume: Consume | None = None
    consumer: _Connection | None = None
    consumed_at: tuple[int, ...] = ()
    published: dict[int, Ranges] = field(default_factory=dict)
    landed: dict[int, Ranges] = field(default_factory=dict)
    positions: dict[int, dict[int, int]] = field(default_factory=dict)
    landed_bytes: int = 0
    done_ranks: set[int] = field(default_factory=set)
    ended: str | None = None
    released_tokens: int | None = None


class LoopbackSidecar:
    """Serves any number of engines at one socket path.

    Attributes:
        cut_after_units: deliver this many units of each lane and then end the transfer with LinkLost; None:
            deliver all.
        hold: while set, nothing is delivered.
        refuse: code with which every produce and consume is refused, or None.
    """

    def __init__(self, path: Path, arena_bytes: int = 512 << 20) -> None:
        self.path = path
        self.arena_bytes = arena_bytes
        self.cut_after_units: int | None = None
        self.refuse: str | None = None
        self.transfers: dict[str, _Transfer] = {}
        self.log: list[Message] = []
        self._next_offset = 0
        self._descriptor = os.memfd_create("loopback-arena", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, arena_bytes)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._run, name="loopback-sidecar", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drops every connection, as a killed sidecar would."""
        self._closing.set()
        self._thread.join(5)
        os.close(self._descriptor)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            while not self._closing.is_set():
                for key, _ in selector.select(timeout=0.05):
                    if key.data is None:
                        channel, _ = self._listener.accept()
                        connection = _Connection(channel)
                        self._connections.append(connection)
                        selector.register(channel, selectors.EVENT_READ, connection)
                        continue
                    connection = key.data
                    data = connection.channel.recv(1 << 18)
                    if not data:
                        selector.unregister(connection.channel)
                        connection.channel.close()
                        self._connections.remove(connection)
                        continue
                    for message in connection.unpacker.feed(data):
                        with self._lock:
                            self.log.append(message)
                            self._handle(connection, message)
        self._listener.close()
        for connection in self._connections:
            connection.channel.close()

    def _handle(self, connection: _Connection, message: Message) -> None:
        match message:
            case Hello():
                connection.hello = message
                socket.send_fds(
                    connection.channel, [pack(Welcome(PROTOCOL, self.arena_bytes))], [self._descriptor]
                )
            case Produce() | Consume() if self.refuse is not None:
                self._send(connection, Refused(message.transfer_id, self.refuse, "as the test asked"))
            case Produce():
                transfer = self._transfer(message.transfer_id)
                transfer.produce, transfer.producer = message, connection
                transfer.produced_at = self._allocate(
                    [lane.units * lane.unit_bytes for lane in message.lanes]
                )
                self._send(connection, Accepted(message.transfer_id, transfer.produced_at))
                if transfer.consume is not None:
                    self._send(connection, Wanted(message.transfer_id, transfer.consume.want))
            case Consume():
                transfer = self._transfer(message.transfer_id)
                transfer.consume, transfer.consumer = message, connection
                sizes = [count(message.want[lane.group]) * lane.unit_bytes for lane in message.lanes]
                transfer.consumed_at = self._allocate(sizes)
                self._send(connection, Accepted(message.transfer_id, transfer.consumed_at))
                if transfer.producer is not None:
                    self._send(transfer.producer, Wanted(message.transfer_id, message.want))
                self._deliver(message.transfer_id)
            case Publish():
                transfer = self._transfer(message.transfer_id)
                units = (message.first, message.first + message.count)
                before = transfer.published.get(message.lane, ())
                transfer.published[message.lane] = normalise((*before, units))
                if message.tokens is not None:
                    transfer.positions.setdefault(message.lane, {})[message.first] = message.tokens
                self._deliver(message.transfer_id)
            case ProducerDone():
                transfer = self._transfer(message.transfer_id)
                transfer.done_ranks.add(message.rank)
                self._deliver(message.transfer_id)
            case Abort():
                self._end(message.transfer_id, message.code)
            case Release():
                self._transfer(message.transfer_id).released_tokens = message.taken_tokens
            case _:
                raise AssertionError(f"an engine sent {message.TYPE}")

    def _deliver(self, transfer_id: str) -> None:
        transfer = self._transfer(transfer_id)
        if transfer.consume is None or transfer.produce is None or transfer.ended is not None:
            return
        memory = memoryview(self._mapping())
        for index, lane in enumerate(transfer.consume.lanes):
            want = transfer.consume.want[lane.group]
            deliver = intersect(transfer.published.get(index, ()), want)
            if self.cut_after_units is not None:
                deliver = intersect(deliver, ((0, self.cut_after_units),))
            for start, end in deliver:
                for unit in range(start, end):
                    if any(first <= unit < stop for first, stop in transfer.landed.get(index, ())):
                        continue
                    source = transfer.produced_at[index] + unit * lane.unit_bytes
                    target = transfer.consumed_at[index] + position(want, unit) * lane.unit_bytes
                    memory[target : target + lane.unit_bytes] = memory[source : source + lane.unit_bytes]
                    transfer.landed_bytes += lane.unit_bytes
                    transfer.landed[index] = normalise((*transfer.landed.get(index, ()), (unit, unit + 1)))
        groups = range(len(transfer.consume.want))
        landed: list[Ranges] = []
        positions: list[dict[int, int]] = []
        for group in groups:
            lanes = [index for index, lane in enumerate(transfer.consume.lanes) if lane.group == group]
            common = transfer.landed.get(lanes[0], ())
            for index in lanes[1:]:
                common = intersect(common, transfer.landed.get(index, ()))
            landed.append(common)
            positions.append(transfer.positions.get(lanes[0], {}))
        assert transfer.consumer is not None
        progress = Progress(transfer_id, tuple(landed), tuple(positions), transfer.landed_bytes)
        self._send(transfer.consumer, progress)
        assert transfer.producer is not None
        assert transfer.producer.hello is not None
        if len(transfer.done_ranks) == transfer.producer.hello.world_size:
            self._end(transfer_id, "complete" if self.cut_after_units is None else "LinkLost")

    def _end(self, transfer_id: str, code: str) -> None:
        transfer = self._transfer(transfer_id)
        if transfer.ended is None:
            transfer.ended = code
            if transfer.consumer is not None:
                self._send(transfer.consumer, Ended(transfer_id, code, ""))

    def _mapping(self) -> memoryview:
        import mmap

        if not hasattr(self, "_memory"):
            self._memory = memoryview(mmap.mmap(self._descriptor, self.arena_bytes))
        return self._memory

    def _allocate(self, sizes: list[int]) -> tuple[int, ...]:
        offsets = []
        for size in sizes:
            offsets.append(self._next_offset)
            self._next_offset += -(-size // 4096) * 4096
        if self._next_offset > self.arena_bytes:
            raise AssertionError("the loopback arena is full")
        return tuple(offsets)

    def _transfer(self, transfer_id: str) -> _Transfer:
        return self.transfers.setdefault(transfer_id, _Transfer())

    def _send(self, connection: _Connection, message: Message) -> None:
        connection.channel.sendall(pack(message))
