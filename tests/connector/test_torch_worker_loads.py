"""The worker side on real tensors: loads, and how each is reported exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prfaas_connector.device.base import DeviceCopier
from prfaas_connector.device.cpu import CpuCopier
from prfaas_connector.device.lazy import LazyCopier
from prfaas_connector.steps import FailedLoad, Load, Memory, Save, StepPlan
from prfaas_connector.worker import Worker
from tests.connector.worker_setup import (
    ARENA_BYTES,
    COPIERS,
    OFFSETS,
    STATE_BYTES,
    FailsOnce,
    FakeSidecar,
    T,
    a_load,
    caches,
    loaded,
    make_worker,
    memory,
    new_arena,
    put,
    run_step,
    units,
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
