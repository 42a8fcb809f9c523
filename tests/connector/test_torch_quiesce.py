"""A connection that ends: nothing touches the arena once the worker has quiesced."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch", reason="runs in the engine's environment: make test")

from prfaas_connector.arena import Arena  # noqa: E402
from prfaas_connector.device.cpu import CpuCopier  # noqa: E402
from prfaas_connector.local_api.messages import Publish  # noqa: E402
from prfaas_connector.steps import Load, Memory, Save, StepPlan  # noqa: E402
from tests.connector.worker_setup import (  # noqa: E402
    ARENA_BYTES,
    OFFSETS,
    FakeSidecar,
    T,
    make_worker,
    memory,
    new_arena,
    units,
)
from tests.helpers import eventually  # noqa: E402


class HeldCopier(CpuCopier):
    """Copies stop in the middle until they are let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.detached: list[memoryview] = []

    def scatter(self, *arguments: object) -> object:  # type: ignore[override]
        self.began.set()
        assert self.go_on.wait(10)
        return super().scatter(*arguments)  # type: ignore[arg-type]

    def detach(self, arena: memoryview) -> None:
        self.detached.append(arena)


def test_it_waits_for_a_load_that_is_under_way() -> None:
    sidecar, copier = FakeSidecar(new_arena()), HeldCopier()
    worker, _ = make_worker(sidecar, copier)
    worker.begin_step(StepPlan(loads=[Load("r", T, memory(sidecar), (units(0, {0: 3}),))]))
    worker.start_loads()
    assert copier.began.wait(10)
    sidecar.arena = None
    quiet = threading.Thread(target=worker.quiesce)
    quiet.start()
    quiet.join(0.05)
    assert quiet.is_alive(), "it returned while a copy was reading the arena"
    copier.go_on.set()
    quiet.join(10)
    assert not quiet.is_alive()
    assert len(copier.detached) == 1
    assert eventually(lambda: worker.finished_loads()[0]) == {"r"}
    worker.close()


def test_what_was_planned_before_does_nothing_afterwards() -> None:
    sidecar = FakeSidecar(new_arena())
    worker, _ = make_worker(sidecar, CpuCopier())
    old = memory(sidecar)
    before = bytes(sidecar.arena.memory) if sidecar.arena is not None else b""
    sidecar.arena = None
    worker.quiesce()
    worker.begin_step(
        StepPlan(
            saves=[Save(T, old, (units(0, {0: 3}),), (), last=False)],
            loads=[Load("r", T, old, (units(0, {0: 3}),))],
        )
    )
    worker.save_layer("a0")
    worker.start_loads()
    worker.finish_step()
    reports: list[tuple[set[str], set[str]]] = []

    def reported() -> bool:
        reports.append(worker.finished_loads())
        return bool(reports[-1][0])

    eventually(reported)
    assert reports[-1] == ({"r"}, {"r"})
    assert not [message for message in sidecar.messages if isinstance(message, Publish)]
    assert before == bytes(ARENA_BYTES)
    worker.close()


def test_the_same_memory_under_another_incarnation_is_not_the_same() -> None:
    sidecar = FakeSidecar(new_arena())
    assert sidecar.arena is not None
    worker, _ = make_worker(sidecar, CpuCopier())
    stale = Memory("an earlier incarnation", OFFSETS)
    worker.begin_step(StepPlan(loads=[Load("r", T, stale, (units(0, {0: 3}),))]))
    worker.start_loads()
    finished: set[str] = set()
    failed: set[str] = set()

    def reported() -> bool:
        done, bad = worker.finished_loads()
        finished.update(done)
        failed.update(bad)
        return bool(finished)

    eventually(reported)
    assert finished == failed == {"r"}
    worker.close()


def test_arenas_know_their_incarnation() -> None:
    one, other = new_arena(), new_arena()
    assert isinstance(one, Arena)
    assert one.key != other.key
