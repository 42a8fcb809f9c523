from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from prfaas_operator.planning.actions import ApplyChild, FailedAction
from prfaas_operator.planning.failure import RETRY_SECONDS, fold
from tests.operator.planning.pool_world import NOW, World, observed, settled


def refuse(
    world: World, *, retryable: bool, message: str = "spec.containers[0].image: Required value"
) -> list[str]:
    """A pass whose last action fails. Returns the reasons of its events."""
    plan = world.plan()
    failed = FailedAction(plan.actions[-1], "Invalid", message, retryable)
    after = fold(plan, world.pool, failed, world.now)
    assert after.actions == ()
    if after.status is not None:
        world.pool = replace(world.pool, status=after.status)
    return [event.reason for event in after.events]


def test_a_template_that_the_server_refuses_is_said_once_and_the_pool_goes_on() -> None:
    world = settled()
    world.change(image="engine:2")
    assert isinstance(world.plan().actions[0], ApplyChild)
    plan = world.plan()
    failed = FailedAction(plan.actions[0], "Invalid", "image: Required value", retryable=False)
    first = fold(plan, world.pool, failed, world.now)
    assert first.status is not None
    assert [event.reason for event in first.events] == ["TemplateRejected"]
    world.pool = replace(world.pool, status=first.status)
    assert world.condition("Accepted") == ("False", "TemplateRejected")
    assert world.condition("Stalled") == ("True", "TemplateRejected")
    assert world.condition("Ready") == ("True", "Serving")
    assert "image: Required value" in world.message("Stalled")
    assert world.pool.status.limited_by == "TemplateRejected"
    world.now += timedelta(minutes=2)
    again = fold(world.plan(), world.pool, failed, world.now)
    assert again.is_empty
    assert again.requeue_after_seconds


def test_what_may_succeed_later_is_tried_again() -> None:
    world = World(observed())
    assert refuse(world, retryable=True, message="too many requests") == []
    assert world.condition("Reconciling") == ("True", "Retrying")
    assert "too many requests" in world.message("Reconciling")
    assert refuse(world, retryable=True, message="too many requests") == []
    plan = world.plan()
    after = fold(plan, world.pool, FailedAction(plan.actions[0], "TooManyRequests", "later", True), NOW)
    assert after.requeue_after_seconds is not None
    assert after.requeue_after_seconds <= RETRY_SECONDS
    world.settle()
    assert world.condition("Ready") == ("True", "Serving")
