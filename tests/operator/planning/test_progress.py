"""Which change of a status may wait a moment, and which events a pool has on its way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prfaas_operator.planning.actions import Event, EventType
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.progress import (
    BUSY_KEYS,
    BUSY_QUIET_SECONDS,
    QUIET_SECONDS,
    can_wait,
    patience_seconds,
)
from prfaas_operator.planning.values import ObservedPod
from tests.operator.planning.pool_world import SETTINGS, World, observed, settled, spec


def starting(replicas: int = 3) -> World:
    """Its Deployment is there, its pods are loading, and its status says so."""
    world = World(observed(spec=spec(replicas=replicas)))
    world.step()
    while len(world.pool.pods) < replicas:
        world.cluster()
        world.step()
    assert all(not pod.ready for pod in world.pool.pods)
    return world


def make_ready(world: World, count: int) -> None:
    pods: list[ObservedPod] = list(world.pool.pods)
    for number in range(count):
        pods[number] = replace(pods[number], ready=True, ready_changed_at=world.now)
    world.pool = replace(world.pool, pods=tuple(pods))


def test_the_first_status_never_waits() -> None:
    world = World(observed())
    plan = world.plan()
    assert not can_wait(world.pool.status, plan)
    assert not can_wait(world.pool.status, replace(plan, actions=(), events=()))


def test_with_a_backlog_the_first_status_waits_unless_it_tells_of_trouble() -> None:
    world = World(observed())
    plan = world.plan()
    assert plan.actions
    assert patience_seconds(world.pool.status, plan, BUSY_KEYS - 1) == 0
    assert patience_seconds(world.pool.status, plan, BUSY_KEYS) == BUSY_QUIET_SECONDS

    trouble = Event(EventType.WARNING, "NoCapacity", "no node has room")
    assert patience_seconds(world.pool.status, replace(plan, events=(trouble,)), BUSY_KEYS) == 0
    stalled = replace(world.pool, spec=None, problems=())
    assert patience_seconds(stalled.status, plan_pool(stalled, SETTINGS, world.now), BUSY_KEYS) == 0


def test_with_a_backlog_progress_waits_longer_and_the_end_does_not_wait() -> None:
    world = starting()
    make_ready(world, 3)
    assert patience_seconds(world.pool.status, world.plan(), 0) == QUIET_SECONDS
    assert patience_seconds(world.pool.status, world.plan(), BUSY_KEYS) == BUSY_QUIET_SECONDS
    world.report("a" * 64)
    assert patience_seconds(world.pool.status, world.plan(), BUSY_KEYS) == 0


def test_instances_that_become_ready_one_after_the_other_may_wait() -> None:
    world = starting()
    make_ready(world, 1)
    plan = world.plan()
    assert plan.status is not None
    assert plan.status.ready_replicas == 1
    assert can_wait(world.pool.status, plan)


def test_ready_engines_wait_for_their_fingerprints_and_the_end_does_not_wait() -> None:
    world = starting()
    make_ready(world, 3)
    assert can_wait(world.pool.status, world.plan())
    world.report("a" * 64)
    plan = world.plan()
    assert plan.status is not None
    assert plan.events == (), "that it is ready is said by its conditions"
    assert not can_wait(world.pool.status, plan)


def test_what_is_for_the_worse_does_not_wait() -> None:
    world = settled()
    pods = tuple(replace(pod, ready=False, ready_changed_at=world.now) for pod in world.pool.pods)
    world.pool = replace(world.pool, pods=pods)
    plan = world.plan()
    assert plan.status is not None
    assert not can_wait(world.pool.status, plan)


@pytest.mark.parametrize("changes", [{"generation": 2}, {"annotations": {}}], ids=["generation", "nothing"])
def test_another_generation_does_not_wait(changes: dict[str, object]) -> None:
    world = starting()
    make_ready(world, 1)
    world.pool = replace(world.pool, **changes)  # type: ignore[arg-type]
    assert can_wait(world.pool.status, world.plan()) is ("generation" not in changes)


def test_a_pool_that_starts_has_no_event_and_a_trouble_has_two() -> None:
    world = settled()
    assert world.events == []
    world.report("a" * 64)
    world.step()
    first, second = world.pool.pods
    told = world.pool.reports or {}
    other = replace(told[second.name], fingerprint="b" * 64)
    world.pool = replace(world.pool, reports={**told, second.name: other})
    world.step()
    assert world.events == ["FingerprintMismatch"]
    world.pool = replace(world.pool, reports={**told, first.name: told[first.name]})
    world.step()
    assert world.events == ["FingerprintMismatch", "FingerprintsAgree"]


def test_a_rollout_has_events() -> None:
    world = settled()
    world.change(image="engine:2")
    world.settle()
    assert "RevisionCreated" in world.events
    assert "Scaled" in world.events
