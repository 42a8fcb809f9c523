"""The worker side on real tensors: what it writes to the arena, and when it says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from prfaas_connector import worker as worker_module
from prfaas_connector.device.base import DeviceCopier, Ticket
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier
from prfaas_connector.local_api.messages import Message, ProducerDone, Publish
from prfaas_connector.steps import Load, Memory, Save, StepPlan
from prfaas_connector.worker import Worker
from tests.connector.worker_setup import (
    BLOCKS,
    COPIERS,
    FailsOnce,
    FakeSidecar,
    T,
    U,
    caches,
    layout,
    loaded,
    make_worker,
    memory,
    new_arena,
    put,
    run_step,
    units,
    until_done,
)


@pytest.fixture
def sidecar() -> FakeSidecar:
    return FakeSidecar(new_arena())


@pytest.fixture(params=COPIERS)
def copier(request: pytest.FixtureRequest) -> DeviceCopier:
    return COPIERS[request.param]()


@pytest.fixture
def made(sidecar: FakeSidecar, copier: DeviceCopier) -> Iterator[tuple[Worker, dict[str, Any]]]:
    worker, tensors = make_worker(sidecar, copier)
    yield worker, tensors
    worker.close()


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
