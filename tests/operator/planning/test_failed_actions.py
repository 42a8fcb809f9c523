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


RBAC = (
    'deployments.apps is forbidden: User "system:serviceaccount:prfaas-system:prfaas-operator" cannot patch '
    'resource "deployments" in API group "apps" in the namespace "serving"'
)


def test_rights_that_the_operator_lacks_are_not_called_a_bad_template() -> None:
    world = settled()
    world.change(image="engine:2")
    failed = FailedAction(world.plan().actions[0], "Forbidden", RBAC, retryable=False)
    after = fold(world.plan(), world.pool, failed, world.now)
    assert after.status is not None
    assert [event.reason for event in after.events] == ["OperatorForbidden"]
    world.pool = replace(world.pool, status=after.status)
    assert world.condition("Accepted") == ("False", "OperatorForbidden")
    assert world.condition("Stalled") == ("True", "OperatorForbidden")
    assert world.pool.status.limited_by == "OperatorForbidden"
    assert 'cannot patch resource "deployments"' in world.message("Stalled")
    assert "ServiceAccount" in world.message("Stalled")
    assert "spec.workload.template" not in world.message("Stalled")
    # What runs is scaled all the same, as with a template that was refused.
    world.change(image="engine:2", replicas=3)
    assert next(type(action).__name__ for action in world.plan().actions) == "ApplyChild"


def test_a_quota_or_an_admission_rule_is_no_lack_of_rights() -> None:
    world = settled()
    world.change(image="engine:2")
    words = 'deployments.apps "x" is forbidden: exceeded quota: small, requested: count/deployments.apps=1'
    failed = FailedAction(world.plan().actions[0], "Forbidden", words, retryable=False)
    after = fold(world.plan(), world.pool, failed, world.now)
    assert [event.reason for event in after.events] == ["TemplateRejected"]
