"""What a plan must survive: clocks that jump, partners that end, and specs that are refused half way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from prfaas.api.conditions import Reason
from prfaas_operator.injection import Settings
from prfaas_operator.injection.results import Refusal, Refusals
from prfaas_operator.planning.actions import ApplyChild, FailedAction, ScaleChild
from prfaas_operator.planning.drain import GATEWAYS_SEE_SECONDS, plan_drain
from prfaas_operator.planning.failure import fold
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.values import ChildKind, ObservedPod, SpecProblem
from prfaas_operator.runtime.planning_adapter import Planning
from tests.operator.planning.pool_world import NOW, SETTINGS, World, observed, settled


def marked(name: str, **changes: object) -> ObservedPod:
    values = {"ready": True, "node": "n", "phase": "Running", "ready_changed_at": NOW, **changes}
    return ObservedPod(name, f"uid-{name}", "r", NOW, **values)  # type: ignore[arg-type]


def test_a_mark_of_a_clock_that_was_set_back_is_made_anew() -> None:
    """Else the pod would get no request, and the Deployment would not shrink, for the whole jump."""
    pods = [marked("a"), marked("b", drain_since=NOW + timedelta(hours=1))]
    drain = plan_drain(pods, 1, NOW)
    assert [(mark.name, mark.drain_since) for mark in drain.marks] == [("b", NOW)]
    assert (drain.may_shrink, drain.wait_seconds) == (False, GATEWAYS_SEE_SECONDS)


def test_clocks_of_two_leaders_may_differ_a_little() -> None:
    pods = [marked("a"), marked("b", drain_since=NOW + timedelta(seconds=1))]
    drain = plan_drain(pods, 1, NOW)
    assert (drain.marks, drain.wait_seconds) == ((), GATEWAYS_SEE_SECONDS + 1)


def planning(settings: Settings = SETTINGS) -> Planning:
    return Planning(settings, gateway_namespace="prfaas", gateway_name="gateway")


def test_a_partner_that_is_being_deleted_is_not_waited_for() -> None:
    """The server raises its generation with the deletion, and no status follows any more."""
    world = settled()
    status = world.pool.status
    key = replace(world.pool.key, kind="DecodePool", name="chat")
    ending = replace(world.pool, key=key, deleted=True, generation=world.pool.generation + 1, status=status)
    rolling = World(replace(world.pool, partners=(planning().partner(ending),)), accelerators=2)
    rolling.change(image="engine:2")
    rolling.settle()
    assert rolling.deployments() == {"engine-1": 0, "engine-2": 2}


def test_a_deleted_partner_keeps_its_identity_among_the_peers() -> None:
    """What it has begun goes on until its pods have ended."""
    assert planning().partner(replace(observed(), deleted=True)).identity.endswith("/pool/PrefillPool/long")


def test_a_refused_spec_half_way_gives_back_pods_that_were_about_to_end() -> None:
    """They would get no request until somebody corrects the spec."""
    world = settled(replicas=3, rollout={"maxUnavailable": 1})
    world.change(replicas=3, image="engine:2", rollout={"maxUnavailable": 1})
    while not any(pod.drain_since for pod in world.pool.pods if pod.deletion_ends_at is None) or (
        len([each for each in world.pool.deployments if each.replicas]) < 2
    ):
        world.step()
        world.cluster()
        world.now += timedelta(seconds=1)
    world.change(replicas=3, image="engine:3", rollout={"maxUnavailable": 1})
    world.injector.refusals = Refusals((Refusal("spec.x", Reason.FIELD_CONFLICT, "no"),))
    before = world.deployments()
    for _ in range(5):
        world.step()
        world.now += timedelta(seconds=3)
    assert world.deployments() == before
    assert [
        pod.name for pod in world.pool.pods if pod.drain_since is not None and pod.deletion_ends_at is None
    ] == []


def test_a_spec_that_cannot_be_read_does_not_let_the_certificate_end() -> None:
    world = settled()
    problem = SpecProblem("spec.engine.type", "unknown")
    world.pool = replace(world.pool, spec=None, problems=(problem,), generation=2)
    world.step()
    plan = world.plan()
    assert plan.actions == ()
    assert plan.requeue_after_seconds == pytest.approx(20 * 86400, abs=600)
    world.now += timedelta(days=21)
    assert [type(action).__name__ for action in world.step().actions] == ["IssueCertificate"]
    assert world.plan().is_empty


def test_a_spec_that_could_never_be_read_makes_nothing() -> None:
    pool = observed(spec=None, problems=(SpecProblem("spec.engine.type", "unknown"),))
    assert plan_pool(pool, SETTINGS, NOW).actions == ()


@pytest.mark.parametrize("code", ["Conflict", "NotFound"])
def test_who_was_overtaken_looks_again_and_tells_nobody(code: str) -> None:
    """Versions of Deployments move with every pod: that is not news for a condition."""
    world = settled()
    world.change(replicas=4)
    plan = world.plan()
    after = fold(plan, world.pool, FailedAction(plan.actions[0], code, "modified", True), NOW)
    assert after.is_empty
    assert after.requeue_after_seconds


def test_a_pool_that_is_made_anew_waits_for_what_the_earlier_one_left() -> None:
    """`kubectl replace --force`, or a chart that is installed again: the garbage collector needs a moment."""
    world = settled()
    certificate, peers = world.pool.certificate, world.pool.peers
    assert certificate is not None
    assert peers is not None
    left = {
        "certificate": replace(certificate, ours=False),
        "peers": replace(peers, ours=False),
        "deployments": tuple(replace(each, ours=False) for each in world.pool.deployments),
        "leftovers": ("Secret long-prefill-tls",),
    }
    anew = World(observed(uid="uid-2", **left), now=world.now)
    plan = anew.step()
    assert plan.actions == ()
    assert plan.events == ()
    assert plan.requeue_after_seconds == 10
    assert anew.condition("Stalled")[0] == "False"
    assert anew.condition("Accepted")[0] == "True"
    assert anew.condition("Reconciling") == ("True", "Retrying")
    assert "Secret long-prefill-tls" in anew.message("Reconciling")
    none = {"certificate": None, "peers": None, "deployments": (), "leftovers": ()}
    anew.pool = replace(anew.pool, **none)
    anew.settle()
    assert anew.condition("Ready") == ("True", "Serving")


def test_a_deployment_whose_engines_load_for_an_hour_is_not_called_stuck() -> None:
    """After Kubernetes' ten minutes GitOps tools show it as degraded, and alerts page."""
    plan = plan_pool(observed(), SETTINGS, NOW)
    [made] = [
        action.manifest
        for action in plan.actions
        if isinstance(action, ApplyChild) and action.kind is ChildKind.DEPLOYMENT
    ]
    [engine] = made["spec"]["template"]["spec"]["containers"]
    probe = engine["startupProbe"]
    assert made["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_what_runs_can_be_scaled_while_the_server_refuses_a_new_template() -> None:
    """An autoscaler must not be ignored because somebody has pushed a template that is not valid."""
    world = settled(replicas=2)
    world.change(replicas=4, image="engine:2")
    plan = world.plan()
    [made] = [action for action in plan.actions if isinstance(action, ApplyChild)]
    refused = fold(plan, world.pool, FailedAction(made, "Invalid", "image: no", retryable=False), NOW)
    assert refused.status is not None
    world.pool = replace(world.pool, status=refused.status)
    again = world.plan()
    assert [type(action).__name__ for action in again.actions] == ["ScaleChild", "ApplyChild"]
    scale, apply = again.actions
    assert isinstance(scale, ScaleChild)
    assert (scale.name, scale.replicas) == ("long-engine-1", 4)
    assert isinstance(apply, ApplyChild)
    assert apply.manifest["spec"]["replicas"] == 0
    # The rule that refused it is gone: all of that succeeds, and the rollout goes on.
    world.settle()
    assert world.deployments() == {"engine-1": 0, "engine-2": 4}
    assert world.condition("Accepted")[0] == "True"
