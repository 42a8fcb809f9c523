"""The worker side on real tensors: what it writes where, when it says so, and how loads end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from prfaas_connector import worker as worker_module
from prfaas_connector.arena import Arena
from prfaas_connector.device.base import DeviceCopier, Ticket
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier
from prfaas_connector.local_api.messages import Message, ProducerDone, Publish
from prfaas_connector.manifest import Group, Kind, Layout
from prfaas_connector.steps import FailedLoad, GroupCopy, Load, Memory, Save, StepPlan
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
    return Arena(descriptor, ARENA_BYTES)


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


@pytest.fixture
def sidecar() -> FakeSidecar:
    return FakeSidecar(new_arena())


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


@pytest.fixture(params=COPIERS)
def copier(request: pytest.FixtureRequest) -> DeviceCopier:
    return COPIERS[request.param]()


@pytest.fixture
def made(sidecar: FakeSidecar, copier: DeviceCopier) -> Iterator[tuple[Worker, dict[str, Any]]]:
    worker, tensors = make_worker(sidecar, copier)
    yield worker, tensors
    worker.close()


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


def test_every_layer_lies_in_its_lane(made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar) -> None:
    worker, _ = made
    copies = (units(0, {0: 3, 1: 9, 4: 5}), units(1, {0: 7}, tokens=18), units(2, {1: 11, 2: 2}))
    run_step(worker, StepPlan(saves=[Save(T, memory(sidecar), copies, (), last=True)]))
    until_done(sidecar)
    assert sidecar.published_values() == {
        (0, 0): 3, (0, 1): 9, (0, 4): 5,
        (1, 0): 103, (1, 1): 109, (1, 4): 105,
        (2, 0): 207,
        (3, 1): 311, (3, 2): 302,
    }  # fmt: skip


def test_runs_of_units_are_published_together(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, _ = made
    copies = (units(0, {0: 3, 1: 9, 4: 5}), units(1, {2: 7}, tokens=18))
    run_step(worker, StepPlan(saves=[Save(T, memory(sidecar), copies, (), last=True)]))
    until_done(sidecar)
    assert sidecar.messages == [
        Publish(T, 0, 0, 2),
        Publish(T, 0, 4, 1),
        Publish(T, 1, 0, 2),
        Publish(T, 1, 4, 1),
        Publish(T, 2, 2, 1, tokens=18),
        ProducerDone(T, 0, complete=True),
    ]


def test_layers_are_published_as_the_forward_pass_goes_on(sidecar: FakeSidecar) -> None:
    worker, tensors = make_worker(sidecar, CpuCopier())
    worker.begin_step(StepPlan(saves=[Save(T, memory(sidecar), (units(0, {0: 3}),), (), last=False)]))
    worker.save_layer("a0")
    assert sidecar.messages == [Publish(T, 0, 0, 1)]
    tensors["a1"][3] = 42.0  # written by the forward pass after the first layer was saved
    worker.save_layer("a1")
    worker.save_layer("a layer that is not shipped")
    worker.finish_step()
    assert sidecar.published_values() == {(0, 0): 3, (1, 0): 42}
    worker.close()


def test_a_step_without_saves_does_nothing(made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar) -> None:
    worker, _ = made
    run_step(worker, StepPlan())
    assert sidecar.sent == []


def test_several_transfers_in_a_step_and_several_steps(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, _ = made
    for first in range(4):
        save = Save(T, memory(sidecar), (units(0, {first: first}),), (), last=first == 3)
        other = Save(U, memory(sidecar), (units(2, {first: first}),), (), last=first == 2)
        run_step(worker, StepPlan(saves=[save, other] if first < 3 else [save]))
    until_done(sidecar, T)
    until_done(sidecar, U)
    for transfer_id in (T, U):
        own = [m for m in sidecar.messages if m.transfer_id == transfer_id]  # type: ignore[union-attr]
        assert isinstance(own[-1], ProducerDone)
        assert [type(m) for m in own].count(ProducerDone) == 1
    lanes = [(m.lane, m.first) for m in sidecar.messages if isinstance(m, Publish) and m.transfer_id == T]
    assert [first for lane, first in lanes if lane == 0] == [0, 1, 2, 3]


def test_blocks_are_cleared_in_all_layers_before_the_forward_pass(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, tensors = made
    save = Save(T, memory(sidecar), (), clears=((0, 5), (2, 6)), last=False)
    worker.begin_step(StepPlan(saves=[save]))
    for name, block in (("a0", 5), ("a1", 5), ("w0", 6)):
        assert not tensors[name][block].any()
        assert tensors[name][block - 1].any()
    assert tensors["a0"][6].any()
    worker.finish_step()


def test_a_dropped_transfer_is_done_but_not_complete(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, _ = made
    run_step(worker, StepPlan(saves=[Save(T, memory(sidecar), (units(0, {0: 3}),), (), last=False)]))
    run_step(worker, StepPlan(dropped=[T]))
    run_step(worker, StepPlan())
    assert until_done(sidecar) == ProducerDone(T, 0, complete=False)
    assert isinstance(sidecar.messages[-1], ProducerDone)


def reuse_after_the_step(
    worker: Worker, tensors: dict[str, Any], sidecar: FakeSidecar, then: Callable[[], None] = lambda: None
) -> None:
    """Zeroes all blocks between two steps, as an engine does with some that it gives to other requests."""
    save = Save(T, memory(sidecar), (units(0, {0: 3}), units(1, {0: 7}, tokens=4)), (), last=True)
    run_step(worker, StepPlan(saves=[save]))
    for cache in tensors.values():
        cache.zero_()
    then()
    worker.begin_step(StepPlan())
    worker.finish_step()
    until_done(sidecar)
    assert sidecar.published_values() == {(0, 0): 3, (1, 0): 103, (2, 0): 207}


def test_what_is_reused_after_a_step_was_read_before(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, tensors = made
    reuse_after_the_step(worker, tensors, sidecar)


def test_control_a_step_that_does_not_order_its_copies(
    sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LazyCopier, "order_before_next_work", lambda self: None)
    # Nothing but the order is to carry the copies out in time.
    reused, run = threading.Event(), worker_module._Publisher._run

    def run_later(self: Any) -> None:
        assert reused.wait(10)
        run(self)

    monkeypatch.setattr(worker_module._Publisher, "_run", run_later)
    worker, tensors = make_worker(sidecar, LazyCopier(CpuCopier()))
    with pytest.raises(AssertionError):
        reuse_after_the_step(worker, tensors, sidecar, reused.set)
    assert set(sidecar.published_values().values()) == {0.0}
    worker.close()


def test_control_publishing_what_is_still_being_copied(
    sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(self: Any, ticket: Ticket | None, message: Message) -> None:
        self._sidecar.send(message)

    monkeypatch.setattr(worker_module._Publisher, "submit", at_once)
    worker, tensors = make_worker(sidecar, LazyCopier(CpuCopier()))
    with pytest.raises(AssertionError):
        reuse_after_the_step(worker, tensors, sidecar)
    assert set(sidecar.published_values().values()) == {0.0}
    worker.close()


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


def test_what_could_not_be_copied_is_not_published(sidecar: FakeSidecar) -> None:
    worker, _ = make_worker(sidecar, FailsOnce())
    save = Save(T, memory(sidecar), (units(0, {0: 3}), units(2, {0: 4})), (), last=True)
    run_step(worker, StepPlan(saves=[save]), layers=("a0", "a1", "w0"))
    until_done(sidecar)
    assert sidecar.published_values() == {(1, 0): 103, (3, 0): 304}
    worker.close()


@pytest.mark.parametrize("rank", range(4))
def test_only_the_first_of_the_ranks_that_hold_the_same_kv_publishes(
    sidecar: FakeSidecar, copier: DeviceCopier, rank: int
) -> None:
    worker, tensors = make_worker(sidecar, copier, rank=rank, replicas=2, shards=2)
    offsets = tuple(range(0, 8 * 4096, 4096))
    where = Memory(memory(sidecar).arena_key, offsets)
    run_step(worker, StepPlan(saves=[Save(T, where, (units(0, {0: 3}),), (), last=True)]))
    assert until_done(sidecar) == ProducerDone(T, rank, complete=True)
    shard = rank // 2
    published = [message for message in sidecar.messages if isinstance(message, Publish)]
    # Lanes are ordered by layer, then shard.
    assert published == ([Publish(T, shard, 0, 1), Publish(T, 2 + shard, 0, 1)] if rank % 2 == 0 else [])
    # But every rank loads, from its shard's lanes.
    assert sidecar.arena is not None
    for lane in range(4):
        put(sidecar.arena, offsets[lane], [1000.0 + lane])
    run_step(worker, StepPlan(loads=[Load("r", T, where, (units(0, {0: 8}),))]))
    assert loaded(worker, 1) == ({"r"}, set())
    assert tensors["a0"][8].unique().tolist() == [1000.0 + shard]
    assert tensors["a1"][8].unique().tolist() == [1002.0 + shard]
    worker.close()


@pytest.mark.parametrize("arena", ["none", "another"])
def test_nothing_is_written_without_the_arena_that_was_granted(
    sidecar: FakeSidecar, copier: DeviceCopier, arena: str
) -> None:
    granted = memory(sidecar)
    sidecar.arena = None if arena == "none" else new_arena()
    worker, _ = make_worker(sidecar, copier)
    save = Save(T, granted, (units(0, {0: 3}), units(1, {0: 7}, tokens=3)), (), last=True)
    run_step(worker, StepPlan(saves=[save]))
    assert sidecar.messages == [ProducerDone(T, 0, complete=True)]
    assert sidecar.arena is None or not any(sidecar.arena.memory)
    worker.close()


class CannotAttach(CpuCopier):
    attached = 0

    def attach(self, arena: memoryview) -> None:
        self.attached += 1
        raise RuntimeError("raise the lockable memory (ulimit -l)")


def test_an_arena_that_cannot_be_pinned_costs_transfers_not_the_engine(
    sidecar: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    copier = CannotAttach()
    worker, tensors = make_worker(sidecar, copier)
    run_step(
        worker,
        StepPlan(
            saves=[Save(T, memory(sidecar), (units(0, {0: 3}),), (), last=True)],
            loads=[Load("r", U, memory(sidecar), (units(0, {0: 8}),))],
        ),
    )
    assert loaded(worker, 1) == ({"r"}, {"r"})
    assert until_done(sidecar)
    assert sidecar.published_values() == {}
    assert tensors["a0"][8].unique().tolist() == [8.0]
    assert copier.attached == 1
    assert "ulimit -l" in caplog.text
    worker.close()


def test_a_cache_of_another_shape_is_refused(sidecar: FakeSidecar) -> None:
    worker = Worker(layout(), 0, 1, CpuCopier(), sidecar)
    tensors = caches() | {"a1": torch.zeros(BLOCKS, 2, 4, 9)}
    with pytest.raises(ValueError, match="a1: a block has 288 bytes, the layout says 256"):
        worker.register(tensors)


# Loads.


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


def test_a_load_takes_each_place_to_its_block(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, tensors = made
    assert sidecar.arena is not None
    put(sidecar.arena, OFFSETS[0], [500.0, 501.0, 502.0, 503.0])
    put(sidecar.arena, OFFSETS[1], [600.0, 601.0, 602.0, 603.0])
    put(sidecar.arena, OFFSETS[2], [700.0], STATE_BYTES)
    expected = {name: cache.clone() for name, cache in caches().items()}
    expected["a0"][8], expected["a0"][2] = 501.0, 503.0
    expected["a1"][8], expected["a1"][2] = 601.0, 603.0
    expected["s0"][6] = 700.0
    run_step(worker, StepPlan(loads=[a_load(sidecar)]))
    assert loaded(worker, 1) == ({"r"}, set())
    for name, cache in tensors.items():
        assert torch.equal(cache, expected[name]), name
    assert sidecar.sent == []


def test_a_load_that_was_given_up_is_reported_failed_and_finished(
    made: tuple[Worker, dict[str, Any]],
) -> None:
    worker, _ = made
    run_step(worker, StepPlan(loads=[FailedLoad("r")]))
    assert worker.finished_loads() == ({"r"}, {"r"})
    assert worker.finished_loads() == (set(), set())


def test_a_load_from_an_arena_that_was_replaced_fails(
    made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar
) -> None:
    worker, tensors = made
    load = a_load(sidecar)
    worker.begin_step(StepPlan(loads=[load]))
    sidecar.arena = new_arena()
    worker.start_loads()
    worker.finish_step()
    assert loaded(worker, 1) == ({"r"}, {"r"})
    for name, cache in caches().items():
        assert torch.equal(tensors[name], cache)


def test_a_load_that_fails_does_not_fail_the_next(sidecar: FakeSidecar) -> None:
    worker, tensors = make_worker(sidecar, FailsOnce())
    beyond = Load("far", T, Memory(memory(sidecar).arena_key, (ARENA_BYTES,) * 4), (units(0, {0: 3}),))
    for plan in ([a_load(sidecar, "lost")], [beyond, a_load(sidecar, "good")]):
        run_step(worker, StepPlan(loads=list(plan)))
    assert loaded(worker, 3) == ({"lost", "far", "good"}, {"lost", "far"})
    assert tensors["a0"][8].unique().tolist() == [0.0]
    worker.close()


def test_many_loads_are_each_reported_once(made: tuple[Worker, dict[str, Any]], sidecar: FakeSidecar) -> None:
    worker, _ = made
    for number in range(40):
        wanted = FailedLoad(f"r{number}") if number % 5 == 0 else a_load(sidecar, f"r{number}")
        run_step(worker, StepPlan(loads=[wanted]))
    finished, failed = loaded(worker, 40)
    assert finished == {f"r{number}" for number in range(40)}
    assert failed == {f"r{number}" for number in range(0, 40, 5)}


def test_what_was_reported_is_never_added_to(sidecar: FakeSidecar) -> None:
    worker, _ = make_worker(sidecar, CpuCopier())
    before = worker.finished_loads()
    run_step(worker, StepPlan(loads=[FailedLoad("r")]))
    assert before == (set(), set()), "the engine holds this set: the id would be reported twice"
    assert worker.finished_loads() == ({"r"}, {"r"})
    worker.close()


def test_closing_ends_the_threads(sidecar: FakeSidecar) -> None:
    before = set(threading.enumerate())
    worker, _ = make_worker(sidecar, LazyCopier(CpuCopier()))
    save = Save(T, memory(sidecar), (units(0, {0: 3}),), (), last=True)
    run_step(worker, StepPlan(saves=[save], loads=[a_load(sidecar)]))
    loaded(worker, 1)
    worker.close()
    assert set(threading.enumerate()) <= before
    worker, _ = make_worker(sidecar, CpuCopier())
    worker.close()
