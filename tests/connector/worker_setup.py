"""A worker on real tensors, a sidecar that only listens, and steps to run. Shared by the tests of saves and
loads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import torch

from prfaas_connector.arena import Arena
from prfaas_connector.device.base import DeviceCopier, Ticket
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier
from prfaas_connector.local_api.messages import Message, ProducerDone, Publish
from prfaas_connector.manifest import Group, Kind, Layout
from prfaas_connector.steps import GroupCopy, Load, Memory, StepPlan
from prfaas_connector.worker import Worker
from tests.helpers import eventually

ARENA_BYTES = 1 << 16
BLOCKS = 16
BLOCK_SHAPE, BLOCK_BYTES = (2, 4, 8), 2 * 4 * 8 * 4
STATE_SHAPE, STATE_BYTES = (1, 1, 100), 400
T, U = "1" * 32, "2" * 32


def layout(shards: int = 1) -> Layout:
    return Layout(
        (
            Group(Kind.ATTENTION, 4, 0, (("a0", BLOCK_BYTES), ("a1", BLOCK_BYTES))),
            Group(Kind.STATE, 4, 0, (("s0", STATE_BYTES),)),
            Group(Kind.WINDOW, 4, 8, (("w0", BLOCK_BYTES),)),
        ),
        shards,
    )


def caches() -> dict[str, Any]:
    """Every block of every layer is filled with a number of its own."""
    made = {}
    for number, (name, shape) in enumerate(
        {"a0": BLOCK_SHAPE, "a1": BLOCK_SHAPE, "s0": STATE_SHAPE, "w0": BLOCK_SHAPE}.items()
    ):
        values = torch.arange(BLOCKS, dtype=torch.float32) + 100 * number
        made[name] = values.view(BLOCKS, 1, 1, 1).expand(BLOCKS, *shape).clone()
    return made


def new_arena() -> Arena:
    descriptor = os.memfd_create("test-arena", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, ARENA_BYTES)
    return Arena(descriptor, ARENA_BYTES, secrets.token_hex(8))


class FakeSidecar:
    """Keeps every message with what the arena held at the moment it was sent."""

    def __init__(self, arena: Arena | None) -> None:
        self.arena = arena
        self.sent: list[tuple[Message, bytes]] = []

    def send(self, message: Message) -> bool:
        self.sent.append((message, bytes(self.arena.memory) if self.arena is not None else b""))
        return True

    @property
    def messages(self) -> list[Message]:
        return [message for message, _ in self.sent]

    def published_values(self) -> dict[tuple[int, int], float]:
        """(lane, unit) -> the number that its block in the arena was filled with when it was published."""
        found: dict[tuple[int, int], float] = {}
        for message, held in self.sent:
            if isinstance(message, Publish):
                size = STATE_BYTES if LANE_NAMES[message.lane] == "s0" else BLOCK_BYTES
                for unit in range(message.first, message.first + message.count):
                    at = OFFSETS[message.lane] + unit * size
                    values = torch.frombuffer(bytearray(held[at : at + size]), dtype=torch.float32)
                    assert (values == values[0]).all(), "a torn block was published"
                    assert (message.lane, unit) not in found, "published twice"
                    found[message.lane, unit] = float(values[0])
        return found


LANE_NAMES = ("a0", "a1", "s0", "w0")
OFFSETS = (0, 8192, 16384, 32768)


def memory(sidecar: FakeSidecar) -> Memory:
    assert sidecar.arena is not None
    return Memory(sidecar.arena.key, OFFSETS)


def make_worker(
    sidecar: FakeSidecar, copier: DeviceCopier, rank: int = 0, replicas: int = 1, shards: int = 1
) -> tuple[Worker, dict[str, Any]]:
    worker = Worker(layout(shards), rank, replicas, copier, sidecar)
    tensors = caches()
    worker.register(tensors)
    return worker, tensors


COPIERS: dict[str, Callable[[], DeviceCopier]] = {"cpu": CpuCopier, "lazy": lambda: LazyCopier(CpuCopier())}


def units(group: int, blocks: dict[int, int], tokens: int | None = None) -> GroupCopy:
    """A copy of unit -> block id; a producer's places are its units."""
    return GroupCopy(group, tuple(blocks), tuple(blocks), tuple(blocks.values()), tokens)


def run_step(worker: Worker, plan: StepPlan, layers: Sequence[str] = ("a0", "w0", "a1")) -> None:
    worker.begin_step(plan)
    for name in layers:
        worker.save_layer(name)
    worker.start_loads()
    worker.finish_step()


def until_done(sidecar: FakeSidecar, transfer_id: str = T) -> ProducerDone:
    def done() -> list[ProducerDone]:
        return [
            message
            for message in sidecar.messages
            if isinstance(message, ProducerDone) and message.transfer_id == transfer_id
        ]

    eventually(done)
    (only,) = done()
    return only


def put(arena: Arena, offset: int, values: Sequence[float], size: int = BLOCK_BYTES) -> None:
    for place, value in enumerate(values):
        data = torch.full((size // 4,), value, dtype=torch.float32).numpy().tobytes()
        arena.memory[offset + place * size : offset + (place + 1) * size] = data


def loaded(worker: Worker, number: int) -> tuple[set[str], set[str]]:
    """(finished, failed) once so many loads were reported; each id at most once."""
    finished: list[str] = []
    failed: list[str] = []

    def enough() -> bool:
        some, bad = worker.finished_loads()
        finished.extend(some)
        failed.extend(bad)
        return len(finished) >= number

    eventually(enough)
    assert worker.finished_loads() == (set(), set())
    assert len(set(finished)) == len(finished) == number
    assert set(failed) <= set(finished)
    return set(finished), set(failed)


def a_load(sidecar: FakeSidecar, request_id: str = "r", *, blocks: tuple[int, int] = (8, 2)) -> Load:
    copies = (
        GroupCopy(0, units=(5, 7), places=(1, 3), block_ids=blocks),
        GroupCopy(1, units=(2,), places=(0,), block_ids=(6,), tokens=20),
        GroupCopy(2, units=(), places=(), block_ids=()),
    )
    return Load(request_id, T, memory(sidecar), copies)


class FailingTicket:
    def done(self) -> bool:
        return False

    def wait(self) -> None:
        raise RuntimeError("the device is lost")


class FailsOnce(CpuCopier):
    """The first copy in each direction fails, one while it is under way and one at once."""

    def __init__(self) -> None:
        self.failed: set[str] = set()

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        if "out" not in self.failed:
            self.failed.add("out")
            return FailingTicket()
        return super().gather(cache, block_ids, arena, offset)

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        if "in" not in self.failed:
            self.failed.add("in")
            raise RuntimeError("the device is lost")
        return super().scatter(cache, block_ids, arena, offset)
