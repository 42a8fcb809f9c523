"""A sidecar of the simplest kind: one process, one arena, KV copied from the producer's extents to the
consumer's.

It speaks the local API for real, over Unix sockets, so connector tests need no network. It also watches the
contract (docs/contracts.md, "Connector and sidecar"): `violations` names what an engine must not have done.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import secrets
import selectors
import socket
import termios
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
    Facts,
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
from prfaas_connector.local_api.units import Ranges, count, intersect, normalise, position, subtract


@dataclass
class _Connection:
    channel: socket.socket
    unpacker: Unpacker = field(default_factory=Unpacker)
    hello: Hello | None = None


@dataclass
class Transfer:
    """Both sides of one transfer id."""

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
        refuse: code with which every produce and consume is refused, or None.
        silent: answer no produce and no consume, as a sidecar would that hangs.
    """

    def __init__(self, path: Path, arena_bytes: int = 64 << 20) -> None:
        self.arena_bytes = arena_bytes
        self.cut_after_units: int | None = None
        self.refuse: str | None = None
        self.silent = False
        self.transfers: dict[str, Transfer] = {}
        self.log: list[Message] = []
        self.violations: list[str] = []
        self._held = False
        self._next_offset = 0
        self.incarnation = secrets.token_hex(8)
        self._descriptor = os.memfd_create("loopback-arena", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, arena_bytes)
        self._memory = memoryview(mmap.mmap(self._descriptor, arena_bytes))
        path.unlink(missing_ok=True)
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

    def hold(self) -> None:
        """Delivers nothing until `deliver`."""
        with self._lock:
            self._held = True

    def deliver(self) -> None:
        """Delivers what was held, and goes on."""
        with self._lock:
            self._held = False
            for transfer_id in self.transfers:
                self._deliver(transfer_id)

    def has_read_everything(self) -> bool:
        """Whether no connection holds bytes that have not been handled."""
        with self._lock:
            unread = array.array("i", [0])
            for connection in self._connections:
                fcntl.ioctl(connection.channel, termios.FIONREAD, unread)
                if unread[0]:
                    return False
            return True

    def said(self, kind: type[Message]) -> list[Message]:
        """What engines have said of one kind, in order."""
        with self._lock:
            return [message for message in self.log if isinstance(message, kind)]

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            while not self._closing.is_set():
                for key, _ in selector.select(timeout=0.02):
                    if key.data is None:
                        connection = _Connection(self._listener.accept()[0])
                        self._connections.append(connection)
                        selector.register(connection.channel, selectors.EVENT_READ, connection)
                    elif not self._read(key.data):
                        selector.unregister(key.data.channel)
                        key.data.channel.close()
                        self._connections.remove(key.data)
        self._listener.close()
        for connection in self._connections:
            connection.channel.close()
        os.close(self._descriptor)

    def _read(self, connection: _Connection) -> bool:
        with self._lock:
            try:
                data = connection.channel.recv(1 << 18)
            except ConnectionResetError:
                data = b""
            for message in connection.unpacker.feed(data):
                self.log.append(message)
                self._handle(connection, message)
            if not data:
                for transfer_id, transfer in self.transfers.items():
                    if connection in (transfer.producer, transfer.consumer):
                        self._end(transfer_id, "EngineGone")
        return bool(data)

    def _handle(self, connection: _Connection, message: Message) -> None:
        match message:
            case Hello():
                connection.hello = message
                welcome = pack(Welcome(PROTOCOL, self.arena_bytes, self.incarnation))
                socket.send_fds(connection.channel, [welcome], [self._descriptor])
            case Facts() if connection.hello is not None and connection.hello.side == "scheduler":
                return
            case Produce() | Consume() if self.silent:
                return
            case Produce() | Consume() if self.refuse is not None:
                self._send(connection, Refused(message.transfer_id, self.refuse, "as the test asked"))
            case Produce():
                self._produce(connection, message)
            case Consume():
                self._consume(connection, message)
            case Publish():
                self._publish(message)
            case ProducerDone():
                transfer = self._transfer(message.transfer_id)
                if message.rank in transfer.done_ranks:
                    self.violations.append(f"rank {message.rank} is done twice: {message}")
                transfer.done_ranks.add(message.rank)
                if not message.complete:
                    self._end(message.transfer_id, "PrefillFailed")
                self._deliver(message.transfer_id)
            case Abort():
                self._end(message.transfer_id, message.code)
            case Release():
                transfer = self._transfer(message.transfer_id)
                if transfer.released_tokens is not None:
                    self.violations.append(f"released twice: {message}")
                transfer.released_tokens = message.taken_tokens
            case _:
                self.violations.append(f"an engine said {message}")

    def _produce(self, connection: _Connection, message: Produce) -> None:
        transfer = self._transfer(message.transfer_id)
        offsets = self._allocate([lane.units * lane.unit_bytes for lane in message.lanes])
        if transfer.produce is not None or offsets is None:
            code = "ArenaFull" if offsets is None else "TransferExists"
            self._send(connection, Refused(message.transfer_id, code, ""))
            return
        transfer.produce, transfer.producer, transfer.produced_at = message, connection, offsets
        self._send(connection, Accepted(message.transfer_id, offsets))
        if transfer.consume is not None:
            self._send(connection, Wanted(message.transfer_id, transfer.consume.want))

    def _consume(self, connection: _Connection, message: Consume) -> None:
        transfer = self._transfer(message.transfer_id)
        offsets = self._allocate(
            [count(message.want[lane.group]) * lane.unit_bytes for lane in message.lanes]
        )
        if transfer.consume is not None or offsets is None:
            code = "ArenaFull" if offsets is None else "TransferExists"
            self._send(connection, Refused(message.transfer_id, code, ""))
            return
        transfer.consume, transfer.consumer, transfer.consumed_at = message, connection, offsets
        self._send(connection, Accepted(message.transfer_id, offsets))
        if transfer.producer is not None:
            self._send(transfer.producer, Wanted(message.transfer_id, message.want))
        if transfer.produce is not None and transfer.produce.lanes != message.lanes:
            self.violations.append("the two sides announced different lanes")
        if transfer.ended is not None:
            self._send(connection, Ended(message.transfer_id, transfer.ended, ""))
        self._deliver(message.transfer_id)

    def _publish(self, message: Publish) -> None:
        transfer = self._transfer(message.transfer_id)
        units = ((message.first, message.first + message.count),)
        before = transfer.published.get(message.lane, ())
        if transfer.produce is None or transfer.done_ranks:
            self.violations.append(f"published outside of the transfer's time: {message}")
        elif subtract(units, ((0, transfer.produce.lanes[message.lane].units),)):
            self.violations.append(f"published beyond the lane: {message}")
        if intersect(before, units):
            self.violations.append(f"published twice: {message}")
        transfer.published[message.lane] = normalise((*before, *units))
        if message.tokens is not None:
            transfer.positions.setdefault(message.lane, {})[message.first] = message.tokens
        self._deliver(message.transfer_id)

    def _deliver(self, transfer_id: str) -> None:
        transfer = self._transfer(transfer_id)
        if self._held or transfer.consume is None or transfer.produce is None or transfer.ended is not None:
            return
        for index, lane in enumerate(transfer.consume.lanes):
            want = transfer.consume.want[lane.group]
            before = transfer.landed.get(index, ())
            deliver = intersect(transfer.published.get(index, ()), want)
            if self.cut_after_units is not None:
                deliver = intersect(deliver, ((0, self.cut_after_units),))
            for start, end in subtract(deliver, before):
                for unit in range(start, end):
                    source = transfer.produced_at[index] + unit * lane.unit_bytes
                    target = transfer.consumed_at[index] + position(want, unit) * lane.unit_bytes
                    self._memory[target : target + lane.unit_bytes] = self._memory[
                        source : source + lane.unit_bytes
                    ]
                    transfer.landed_bytes += lane.unit_bytes
            transfer.landed[index] = normalise((*before, *deliver))
        self._report(transfer_id, transfer)
        hello = transfer.producer.hello if transfer.producer is not None else None
        if hello is not None and len(transfer.done_ranks) == hello.world_size:
            self._end(transfer_id, "complete" if self.cut_after_units is None else "LinkLost")

    def _report(self, transfer_id: str, transfer: Transfer) -> None:
        assert transfer.consume is not None
        assert transfer.consumer is not None
        landed: list[Ranges] = []
        positions: list[dict[int, int]] = []
        for group in range(len(transfer.consume.want)):
            lanes = [index for index, lane in enumerate(transfer.consume.lanes) if lane.group == group]
            common = transfer.landed.get(lanes[0], ())
            for index in lanes[1:]:
                common = intersect(common, transfer.landed.get(index, ()))
            landed.append(common)
            known = transfer.positions.get(lanes[0], {})
            positions.append(
                {unit: at for unit, at in known.items() if intersect(common, ((unit, unit + 1),))}
            )
        progress = Progress(transfer_id, tuple(landed), tuple(positions), transfer.landed_bytes)
        self._send(transfer.consumer, progress)

    def _end(self, transfer_id: str, code: str) -> None:
        transfer = self._transfer(transfer_id)
        if transfer.ended is None:
            transfer.ended = code
            if transfer.consumer is not None:
                self._send(transfer.consumer, Ended(transfer_id, code, ""))

    def _allocate(self, sizes: list[int]) -> tuple[int, ...] | None:
        offsets, offset = [], self._next_offset
        for size in sizes:
            offsets.append(offset)
            offset += -(-size // 64) * 64
        if offset > self.arena_bytes:
            return None
        self._next_offset = offset
        return tuple(offsets)

    def _transfer(self, transfer_id: str) -> Transfer:
        return self.transfers.setdefault(transfer_id, Transfer())

    def _send(self, connection: _Connection, message: Message) -> None:
        try:
            connection.channel.sendall(pack(message))
        except OSError:
            return  # its end is noticed when it is read
