"""A child that somebody else keeps changing is put back at a bounded rate, and the condition says who."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from prfaas_operator.planning.actions import ApplyChild
from prfaas_operator.planning.repairs import AT_ONCE, LONGEST_PAUSE, WINDOW, pause_seconds
from prfaas_operator.runtime.repairs import CHILDREN_REMEMBERED, Repairs
from tests.operator.planning.pool_world import NOW, World, settled


def seconds_ago(*ages: float) -> tuple[datetime, ...]:
    return tuple(NOW - timedelta(seconds=age) for age in ages)


@pytest.mark.parametrize(
    ("repairs", "pause"),
    [
        ((), 0),
        ((2, 1), 0),
        ((3, 2, 1), 29),
        ((40, 35, 30), 0),
        ((100, 50, 20, 0), 60),
        ((100, 90, 80, 50, 20, 0), 240),
        ((1700, 1600, 1500, 1000, 500, 400, 300, 200, 100, 0), LONGEST_PAUSE.total_seconds()),
        ((WINDOW.total_seconds() + 1, 2, 1), 0),
    ],
)
def test_pauses_grow_with_repairs(repairs: tuple[float, ...], pause: float) -> None:
    assert pause_seconds(seconds_ago(*repairs), NOW) == pytest.approx(pause)


def test_a_writer_that_never_stops_is_answered_at_a_bounded_rate() -> None:
    times: list[datetime] = []
    now = NOW
    while now < NOW + timedelta(days=1):
        if pause_seconds(times, now) == 0:
            times.append(now)
        now += timedelta(seconds=1)
    hourly = [
        sum(0 <= (each - NOW).total_seconds() - 3600 * hour < 3600 for each in times) for hour in range(24)
    ]
    assert hourly[0] <= AT_ONCE + 12
    assert max(hourly[1:]) <= 12
    assert min(hourly) >= 3, "it is never given up"


def drifted(kind: str, **more: object) -> World:
    world = settled()
    [deployment] = world.pool.deployments
    assert world.pool.peers is not None
    foreign = {"actual_owned_fields": "other", "taken_over_by": "argocd-controller"}
    if kind == "Deployment":
        world.pool = replace(world.pool, deployments=(replace(deployment, **foreign),), **more)  # type: ignore[arg-type]
    else:
        peers = replace(world.pool.peers, content={"peers.yaml": "gateways: []"}, **foreign)  # type: ignore[arg-type]
        world.pool = replace(world.pool, peers=peers, **more)  # type: ignore[arg-type]
    return world


def name_of(kind: str, world: World) -> str:
    child = world.pool.deployments[0] if kind == "Deployment" else world.pool.peers
    assert child is not None
    return f"{kind} {child.name}"


@pytest.mark.parametrize("kind", ["Deployment", "ConfigMap"])
def test_a_child_is_left_for_a_while_after_many_repairs(kind: str) -> None:
    world = drifted(kind)
    [action] = world.plan().actions
    assert isinstance(action, ApplyChild)
    assert action.drift
    assert "argocd-controller" in action.why
    world.pool = replace(world.pool, repair_pauses={name_of(kind, world): 90.0})
    plan = world.step()
    assert plan.actions == ()
    assert plan.requeue_after_seconds == pytest.approx(90.0)
    assert world.condition("Stalled") == ("True", "ChildContested")
    assert world.condition("Ready") == ("True", "Serving")
    assert "argocd-controller" in world.message("Stalled")
    assert name_of(kind, world) in world.message("Stalled")
    assert world.events == ["ChildContested"]
    assert world.plan().actions == ()
    assert world.plan().status is None, "a pause that gets shorter is nothing to write"
    world.pool = replace(world.pool, repair_pauses={})
    assert len(world.plan().actions) == 1
    world.settle()
    assert world.condition("Stalled") == ("False", "NotStalled")


def test_times_of_repairs_are_kept_by_child_and_bounded() -> None:
    repairs = Repairs()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(AT_ONCE):
        repairs.add("ns", "ConfigMap", "a", now)
    repairs.add("ns", "ConfigMap", "b", now)
    repairs.add("other", "ConfigMap", "a", now)
    asked = [("ConfigMap", "a"), ("ConfigMap", "b"), ("Deployment", "a")]
    assert repairs.pauses("ns", asked, now) == {"ConfigMap a": 30.0}
    assert repairs.pauses("other", asked, now) == {}
    assert repairs.pauses("ns", asked, now + WINDOW) == {}
    for number in range(CHILDREN_REMEMBERED):
        repairs.add("ns", "ConfigMap", f"more-{number}", now)
    assert repairs.pauses("ns", asked, now) == {}
