"""An engine without a model: a real client of the local API, as producer and consumer, over the Unix
socket."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
from prfaas_connector.local_api.units import Lane, Ranges, count

FINGERPRINT = "f" * 64
DIGEST = "d" * 64
_WAIT_SECONDS = 20.0
M = TypeVar("M", bound=Message)


class Refusal(Exception):  # noqa: N818 - it is the sidecar's answer, not an error of the test
    """The sidecar refused."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.code}: {refused.message}")
        self.code = refused.code
        self.message = refused.message


class Side:
    """One connection: the scheduler side or one rank."""

    def __init__(self, hello: Hello, welcome: Welcome, descriptor: int, sock: socket.socket) -> None:
        self.hello = hello
        self.arena = mmap.mmap(descriptor, welcome.arena_bytes)
        os.close(descriptor)
        self.received: list[Message] = []
        self.closed = asyncio.Event()
        self._sock = sock
        self._news = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        path: Path,
        side: str,
        rank: int = 0,
        world_size: int = 1,
        fingerprint: str = FINGERPRINT,
        fingerprint_fields: dict[str, str] | None = None,
        protocol: int = PROTOCOL,
    ) -> Side:
        """Say hello; raises Refusal."""
        fields = fingerprint_fields if fingerprint_fields is not None else {"model": "fake"}
        hello = Hello(protocol, side, "both", rank, world_size, os.getpid(), fingerprint, fields)
        connected = await asyncio.to_thread(_greet, path, hello)
        this = cls(*connected)
        reader, this._writer = await asyncio.open_unix_connection(sock=connected[3])
        this._task = asyncio.create_task(this._read(reader))
        return this

    def send(self, *messages: Message) -> None:
        """Say something."""
        assert self._writer is not None
        for message in messages:
            self._writer.write(pack(message))

    async def wait(self, kind: type[M], matches: Callable[[M], bool] = lambda _: True) -> M:
        """The first message of a kind, received already or yet to come, within a bound."""
        found = await self.wait_for(lambda message: isinstance(message, kind) and matches(message))
        assert isinstance(found, kind)
        return found

    async def wait_for(self, matches: Callable[[Message], bool]) -> Message:
        """The same for messages of several kinds."""
        async with asyncio.timeout(_WAIT_SECONDS), self._news:
            while True:
                for message in self.received:
                    if matches(message):
                        return message
                if self.closed.is_set():
                    raise ConnectionError(f"the sidecar closed; before that it said {self.received}")
                await self._news.wait()

    async def close(self) -> None:
        """Go away, as a process that dies."""
        if self._writer is not None:
            self._writer.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(BufferError):
            self.arena.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unpacker = Unpacker()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                async with self._news:
                    self.received += unpacker.feed(data)
                    self._news.notify_all()
        self.closed.set()
        async with self._news:
            self._news.notify_all()


class FakeEngine:
    """A scheduler side and its ranks."""

    def __init__(self, scheduler: Side, workers: list[Side]) -> None:
        self.scheduler = scheduler
        self.workers = workers

    @classmethod
    async def connect(cls, path: Path, world_size: int = 1, fingerprint: str = FINGERPRINT) -> FakeEngine:
        """All processes say hello."""
        fields = {"model": "fake" if fingerprint == FINGERPRINT else "other"}
        scheduler = await Side.connect(path, "scheduler", 0, world_size, fingerprint, fields)
        workers = [
            await Side.connect(path, "worker", rank, world_size, fingerprint, fields)
            for rank in range(world_size)
        ]
        return cls(scheduler, workers)

    async def close(self) -> None:
        """All processes go away."""
        for side in (self.scheduler, *self.workers):
            await side.close()

    async def produce(
        self,
        transfer_id: str,
        lanes: tuple[Lane, ...],
        consumer: str,
        digest: str = DIGEST,
        deadline_seconds: float = 20.0,
    ) -> Accepted:
        """Announce a transfer; raises Refusal."""
        self.scheduler.send(Produce(transfer_id, digest, consumer, lanes, deadline_seconds))
        return await self._answer(transfer_id)

    def fill(self, accepted: Accepted, lanes: tuple[Lane, ...], lane: int, first: int, units: int) -> None:
        """Write recognisable KV into the arena."""
        start = accepted.offsets[lane] + first * lanes[lane].unit_bytes
        data = b"".join(
            pattern(accepted.transfer_id, lanes[lane], unit) for unit in range(first, first + units)
        )
        self.workers[0].arena[start : start + len(data)] = data

    def publish(self, transfer_id: str, lane: int, first: int, units: int, tokens: int | None = None) -> None:
        """Say that units are complete."""
        self.workers[0].send(Publish(transfer_id, lane, first, units, tokens))

    def produce_all(self, accepted: Accepted, lanes: tuple[Lane, ...], *, step: int | None = None) -> None:
        """Fill and publish everything, layer after layer, ``step`` units at a time, and be done."""
        most = max((lane.units for lane in lanes), default=0)
        width = step or most or 1
        for first in range(0, most, width):
            for index, lane in enumerate(lanes):
                units = min(width, lane.units - first)
                if units > 0:
                    self.fill(accepted, lanes, index, first, units)
                    self.publish(accepted.transfer_id, index, first, units)
        self.done(accepted.transfer_id)

    def done(self, transfer_id: str, *, complete: bool = True) -> None:
        """All ranks have written their last."""
        for worker in self.workers:
            worker.send(ProducerDone(transfer_id, worker.hello.rank, complete))

    def abort(self, transfer_id: str, code: str = "PrefillFailed") -> None:
        """The request is gone."""
        self.scheduler.send(Abort(transfer_id, code))

    async def wanted(self, transfer_id: str) -> tuple[Ranges, ...]:
        """What the consumer asked for."""
        return (await self.scheduler.wait(Wanted, lambda each: each.transfer_id == transfer_id)).want

    async def consume(
        self,
        transfer_id: str,
        lanes: tuple[Lane, ...],
        producer_address: str,
        producer: str,
        want: tuple[Ranges, ...] | None = None,
        digest: str = DIGEST,
        deadline_seconds: float = 20.0,
        server_name: str | None = None,
    ) -> Accepted:
        """Ask for a transfer; raises Refusal."""
        wanted = want if want is not None else everything(lanes)
        self.scheduler.send(
            Consume(
                transfer_id, digest, producer_address, producer, lanes, wanted, deadline_seconds, server_name
            )
        )
        return await self._answer(transfer_id)

    async def ended(self, transfer_id: str) -> Ended:
        """The end of a transfer."""
        return await self.scheduler.wait(Ended, lambda each: each.transfer_id == transfer_id)

    async def progressed(
        self, transfer_id: str, matches: Callable[[Progress], bool] = lambda _: True
    ) -> Progress:
        """Progress of a transfer."""
        return await self.scheduler.wait(
            Progress, lambda each: each.transfer_id == transfer_id and matches(each)
        )

    def landed(self, transfer_id: str) -> tuple[Ranges, ...]:
        """The latest progress that was told, without waiting."""
        told = [
            each.landed
            for each in self.scheduler.received
            if isinstance(each, Progress) and each.transfer_id == transfer_id
        ]
        return told[-1] if told else ()

    def check(
        self,
        accepted: Accepted,
        lanes: tuple[Lane, ...],
        want: tuple[Ranges, ...],
        landed: tuple[Ranges, ...],
    ) -> int:
        """Compare every landed unit of every lane with what was produced; returns how many were compared."""
        compared = 0
        for offset, lane in zip(accepted.offsets, lanes, strict=True):
            before = 0
            for start, end in want[lane.group]:
                for unit in range(start, end):
                    if any(a <= unit < b for a, b in (landed[lane.group] if landed else ())):
                        at = offset + (before + unit - start) * lane.unit_bytes
                        found = self.workers[0].arena[at : at + lane.unit_bytes]
                        assert found == pattern(accepted.transfer_id, lane, unit), (lane, unit)
                        compared += 1
                before += end - start
        return compared

    def release(self, transfer_id: str, taken_tokens: int = 0) -> None:
        """Nobody reads any more."""
        self.scheduler.send(Release(transfer_id, taken_tokens))

    async def _answer(self, transfer_id: str) -> Accepted:
        answer = await self.scheduler.wait_for(
            lambda each: isinstance(each, Accepted | Refused) and each.transfer_id == transfer_id
        )
        self.scheduler.received.remove(answer)
        if isinstance(answer, Refused):
            raise Refusal(answer)
        assert isinstance(answer, Accepted)
        return answer


def lanes_of(layers: int = 2, units: int = 8, unit_bytes: int = 4096, group: int = 0) -> tuple[Lane, ...]:
    """Lanes of one attention group."""
    return tuple(Lane(group, layer, 0, units, unit_bytes) for layer in range(layers))


def everything(lanes: tuple[Lane, ...]) -> tuple[Ranges, ...]:
    """Want-list of all units."""
    groups = 1 + max((lane.group for lane in lanes), default=-1)
    units = {lane.group: lane.units for lane in lanes}
    return tuple(((0, units[group]),) if units.get(group) else () for group in range(groups))


def pattern(transfer_id: str, lane: Lane, unit: int) -> bytes:
    """KV of one unit: every unit of every transfer differs."""
    seed = f"{transfer_id}/{lane.group}/{lane.layer}/{lane.shard}/{unit}/".encode()
    return (seed * (lane.unit_bytes // len(seed) + 1))[: lane.unit_bytes]


def total_units(want: tuple[Ranges, ...]) -> int:
    """Units of all groups."""
    return sum(count(ranges) for ranges in want)


def _greet(path: Path, hello: Hello) -> tuple[Hello, Welcome, int, socket.socket]:
    with contextlib.ExitStack() as owned:
        sock = owned.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(_WAIT_SECONDS)
        sock.connect(str(path))
        sock.sendall(pack(hello))
        unpacker, descriptors = Unpacker(), list[int]()
        messages: list[Message] = []
        while not messages:
            data, arrived, _, _ = socket.recv_fds(sock, 1 << 16, 4)
            descriptors += arrived
            assert data, "the sidecar closed before its welcome"
            messages = unpacker.feed(data)
        answer = messages[0]
        if isinstance(answer, Refused):
            raise Refusal(answer)
        assert isinstance(answer, Welcome)
        assert len(descriptors) == 1
        owned.pop_all()
    sock.setblocking(False)
    return hello, answer, descriptors[0], sock
