from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.api.conditions import Kstatus, Reason, kstatus
from prfaas.api.v1alpha1 import ChargedTo
from prfaas_operator.injection.results import Refusal, Refusals
from prfaas_operator.planning.actions import ApplyChild, MarkPods, Plan, ScaleChild
from prfaas_operator.planning.values import ChildKind, FoundReference, SpecProblem
from tests.operator.planning.pool_world import NOW, World, observed, settled, spec


def kstatus_of(world: World) -> Kstatus:
    status = world.pool.status
    return kstatus(
        status.conditions, observed_generation=status.observed_generation, generation=world.pool.generation
    )


def test_a_new_pool_gets_certificate_peers_and_budget_before_its_pods() -> None:
    world = World(observed())
    plan = world.step()
    assert [type(action).__name__ for action in plan.actions] == [
        "IssueCertificate",
        "ApplyChild",
        "ApplyChild",
        "ApplyChild",
    ]
    assert [action.kind for action in plan.actions if isinstance(action, ApplyChild)] == [
        ChildKind.CONFIG_MAP,
        ChildKind.BUDGET,
        ChildKind.DEPLOYMENT,
    ]
    assert world.condition("Ready") == ("False", "Starting")
    assert kstatus_of(world) is Kstatus.IN_PROGRESS
    assert world.events == [], "the conditions say it"


def test_a_settled_pool_needs_nothing() -> None:
    world = settled()
    assert world.ready == 2
    assert world.condition("Ready") == ("True", "Serving")
    assert kstatus_of(world) is Kstatus.CURRENT
    plan = world.plan()
    assert plan.is_empty
    assert plan.requeue_after_seconds == pytest.approx(20 * 86400, abs=600)
    injections = world.injector.injections
    world.plan()
    assert world.injector.injections == injections, "an unchanged pass renders no template"
    status = world.pool.status
    assert (status.replicas, status.ready_replicas, status.desired_replicas) == (2, 2, 2)
    assert status.selector == "prfaas.io/pool=long,prfaas.io/pool-kind=PrefillPool"
    assert status.kv is not None
    assert status.kv.charged_to is ChargedTo.ENGINE
    assert status.limited_by is None


def test_children_belong_to_the_pool_and_are_labelled() -> None:
    for action in World(observed()).plan().actions:
        manifest = getattr(action, "manifest", None)
        assert manifest is not None
        metadata = manifest["metadata"]
        assert metadata["namespace"] == "serving"
        assert metadata["ownerReferences"][0]["uid"] == "uid-long"
        assert metadata["labels"]["prfaas.io/pool"] == "long"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "prfaas"
    deployment = World(observed()).plan().actions[-1]
    assert isinstance(deployment, ApplyChild)
    body = deployment.manifest["spec"]
    labels = body["template"]["metadata"]["labels"]
    assert body["selector"]["matchLabels"].items() <= labels.items()
    assert labels["prfaas.io/revision"] == "engine-1"
    assert labels["llm-d.ai/role"] == "prefill"


def test_a_deleted_pool_is_left_to_the_garbage_collector() -> None:
    assert World(observed(deleted=True)).plan() == Plan()


def test_a_rollout_keeps_its_bounds_drains_and_ends() -> None:
    world = settled(replicas=3)
    world.accelerators = 3
    world.change(replicas=3, image="engine:2")
    marked_then_scaled: list[str] = []
    for _ in range(200):
        plan = world.step()
        marked_then_scaled += [
            type(action).__name__
            for action in plan.actions
            if isinstance(action, MarkPods)
            or (isinstance(action, ScaleChild) and action.replicas < action.replicas_before)
        ]
        assert world.ready >= 2
        world.cluster()
        world.now += timedelta(seconds=plan.requeue_after_seconds or 1)
        if plan.is_empty:
            break
    world.settle()
    assert world.deployments() == {"engine-1": 0, "engine-2": 3}
    assert marked_then_scaled == ["MarkPods", "ScaleChild"] * 3
    assert kstatus_of(world) is Kstatus.CURRENT
    assert world.pool.status.current_revision == world.pool.status.update_revision == "engine-2"


def test_a_rollout_says_what_it_waits_for() -> None:
    world = settled(replicas=3)
    world.change(replicas=3, image="engine:2")
    world.step()
    assert world.condition("Reconciling") == ("True", "RollingOut")
    assert world.condition("Ready") == ("True", "Serving")
    assert "0 of 3 instances are of revision engine-2" in world.message("Reconciling")


def test_a_revision_that_cannot_start_stops_and_a_rollback_takes_the_old_deployment() -> None:
    world = settled(replicas=3)
    world.failing_images = {"engine-2"}
    world.change(replicas=3, image="engine:2")
    world.settle()
    assert world.ready == 2
    assert world.condition("Stalled") == ("True", "CrashLooping")
    assert "exit code 1, restarted 4 times" in world.message("Stalled")
    assert world.condition("Ready") == ("True", "Serving")
    assert world.pool.status.limited_by == "CrashLooping"
    injections = world.injector.injections
    world.change(replicas=3)
    world.settle()
    assert world.injector.injections == injections
    assert world.deployments() == {"engine-1": 3, "engine-2": 0}
    assert kstatus_of(world) is Kstatus.CURRENT


def test_few_old_revisions_are_kept() -> None:
    world = settled()
    for number in range(2, 8):
        world.change(image=f"engine:{number}")
        world.settle()
    assert sorted(world.deployments()) == ["engine-4", "engine-5", "engine-6", "engine-7"]


def test_scaling_down_marks_first_and_reverses() -> None:
    world = settled(replicas=3)
    world.change(replicas=2)
    plan = world.step()
    assert [type(action).__name__ for action in plan.actions] == ["MarkPods"]
    assert plan.requeue_after_seconds == 2.0
    assert world.condition("Reconciling") == ("True", "Scaling")
    world.change(replicas=3)
    plan = world.step()
    [unmark] = plan.actions
    assert isinstance(unmark, MarkPods)
    assert [mark.drain_since for mark in unmark.marks] == [None]
    world.settle()
    assert world.ready == 3


def test_no_capacity_is_said_and_nothing_is_added() -> None:
    world = settled()
    world.accelerators = 3
    world.change(replicas=5)
    world.settle()
    assert world.condition("ScalingLimited") == ("True", "NoCapacity")
    assert "3 Insufficient nvidia.com/gpu" in world.message("ScalingLimited")
    assert "preemption" not in world.message("ScalingLimited")
    assert world.pool.status.limited_by == "NoCapacity"
    assert world.pool.status.capacity is not None
    assert world.pool.status.capacity.pending_replicas == 2
    world.change(replicas=9)
    world.settle()
    assert world.deployments() == {"engine-1": 5}
    world.accelerators = 9
    world.settle()
    assert world.deployments() == {"engine-1": 9}
    assert world.condition("ScalingLimited") == ("False", "NotLimited")


def test_one_instance_has_no_budget_and_a_users_budget_replaces_ours() -> None:
    assert settled(replicas=1).pool.budget is None
    world = settled()
    assert world.pool.budget is not None
    world.change(replicas=1)
    world.settle()
    assert world.pool.budget is None


def test_a_spec_that_cannot_be_read_is_said_once_and_touches_nothing() -> None:
    world = settled()
    before = world.pool.deployments
    problems = (SpecProblem("spec.kv.arena", "not a quantity"),)
    world.pool = replace(world.pool, spec=None, problems=problems, generation=2)
    world.events.clear()
    plan = world.step()
    assert not plan.actions
    assert world.pool.deployments == before
    assert world.condition("Accepted") == ("False", "InvalidSpec")
    assert "spec.kv.arena: not a quantity" in world.message("Stalled")
    assert world.condition("Ready") == ("True", "Serving")
    assert world.events == ["InvalidSpec"]
    assert world.plan().is_empty


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"engine": {"type": "SGLang"}}, "EngineNotSupported", "spec.engine.type"),
        (
            {
                "workload": {
                    "leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": {"containers": []}}}
                }
            },
            "NotImplemented",
            "spec.workload.leaderWorkerTemplate",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_field(
    changes: dict[str, object], reason: str, words: str
) -> None:
    world = World(observed(spec=spec(**changes)))
    plan = world.step()
    assert not plan.actions
    assert world.condition("Accepted") == ("False", reason)
    assert world.condition("Stalled") == ("True", reason)
    assert words in world.message("Accepted")
    assert [event.reason for event in plan.events if event.type == "Warning"] == [reason]
    assert world.plan().is_empty


def test_a_refused_template_leaves_the_revision_that_runs_and_its_size_can_change() -> None:
    world = settled()
    world.injector.refusals = Refusals(
        (Refusal("spec.engine.container", Reason.ENGINE_CONTAINER_MISSING, "there is none: name one"),)
    )
    world.change(image="engine:2")
    world.settle()
    assert world.condition("Accepted") == ("False", "EngineContainerMissing")
    assert "The pods that are there go on" in world.message("Stalled")
    world.change(image="engine:2", replicas=3)
    world.settle()
    assert world.deployments() == {"engine-1": 3}
    assert world.condition("Ready") == ("True", "Serving")


def test_a_missing_secret_keeps_the_new_revision_back() -> None:
    containers = [
        {"name": "engine", "image": "engine:2", "envFrom": [{"secretRef": {"name": "token"}}]},
    ]
    world = settled()
    world.change(workload={"template": {"spec": {"containers": containers}}})
    world.settle()
    assert world.condition("ResolvedRefs") == ("False", "SecretNotFound")
    assert "Secret token" in world.message("ResolvedRefs")
    assert world.deployments() == {"engine-1": 2}
    world.pool = replace(world.pool, found=(FoundReference("Secret", "token"),))
    world.settle()
    assert world.deployments() == {"engine-1": 0, "engine-2": 2}


def test_a_child_of_somebody_else_is_not_touched() -> None:
    world = settled()
    assert world.pool.peers is not None
    world.pool = replace(world.pool, peers=replace(world.pool.peers, ours=False, content={}))
    plan = world.step()
    assert not plan.actions
    assert world.condition("Accepted") == ("False", "ChildNotOwned")


def test_drift_is_put_back_with_an_event() -> None:
    world = settled()
    [deployment] = world.pool.deployments
    world.pool = replace(
        world.pool,
        deployments=(replace(deployment, actual_owned_fields="other", taken_over_by="kubectl-set"),),
    )
    plan = world.step()
    [action] = plan.actions
    assert isinstance(action, ApplyChild)
    assert action.manifest["spec"]["replicas"] == 2
    assert "kubectl-set" in action.why
    assert "DriftRepaired" in world.events
    assert world.plan().is_empty


def test_drift_stays_where_putting_it_back_would_bring_another_sidecar() -> None:
    world = settled()
    world.injector.version = "2"
    [deployment] = world.pool.deployments
    world.pool = replace(world.pool, deployments=(replace(deployment, actual_owned_fields="other"),))
    plan = world.step()
    assert not plan.actions
    assert "stays so until the next rollout" in world.message("Accepted")
    assert world.plan().is_empty


def test_a_new_operator_changes_no_pod() -> None:
    world = settled()
    world.injector.version = "2"
    assert world.plan().is_empty


def test_a_hold_comes_first_and_ends() -> None:
    world = settled()
    until = (NOW + timedelta(hours=2)).isoformat()
    hold = f'{{"replicas": 4, "until": "{until}", "reason": "launch"}}'
    world.pool = replace(world.pool, annotations={"prfaas.io/hold": hold})
    world.step()
    world.cluster()
    world.step()
    assert world.pool.status.desired_replicas == 4
    assert world.condition("ScalingActive") == ("True", "Held")
    assert "launch" in world.message("ScalingActive")
    assert world.pool.status.hold is not None
    world.now = NOW + timedelta(hours=3)
    world.settle()
    assert world.ready == 2
    assert world.pool.status.hold is None


def test_a_hold_that_cannot_be_read_is_ignored_and_said() -> None:
    world = settled()
    world.pool = replace(world.pool, annotations={"prfaas.io/hold": '{"replicas": 4}'})
    world.settle()
    assert world.condition("Accepted") == ("False", "AnnotationInvalid")
    assert "until" in world.message("Accepted")
    assert world.condition("Stalled") == ("False", "NotStalled")
    assert world.ready == 2


def test_without_an_authority_pods_wait() -> None:
    world = World(observed(authority_id=""))
    world.step()
    assert not world.pool.deployments
    assert world.condition("Reconciling") == ("True", "Retrying")
    assert "prfaas-ca" in world.message("Reconciling")


def test_engines_of_one_revision_that_disagree_are_named() -> None:
    world = settled()
    world.report("f" * 64)
    world.settle()
    assert world.condition("KVCompatible") == ("True", "FingerprintsAgree")
    assert world.pool.status.kv is not None
    assert world.pool.status.kv.fingerprint == "f" * 64
    first = world.pool.pods[0].name
    reports = dict(world.pool.reports or {})
    reports[first] = replace(reports[first], fingerprint="e" * 64)
    world.pool = replace(world.pool, reports=reports)
    world.settle()
    assert world.condition("KVCompatible") == ("False", "FingerprintMismatch")
    assert world.condition("Ready") == ("True", "Serving")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2), st.integers(0, 2), st.integers(0, 12))
def test_whatever_changes_half_way_it_settles(
    first: int, second: int, unavailable: int, surge: int, moves: int
) -> None:
    rollout = {"maxUnavailable": unavailable if unavailable or surge else 1, "maxSurge": surge}
    world = settled(replicas=first, rollout=rollout)
    world.accelerators = max(first, second) + surge
    world.change(replicas=second, image="engine:2", rollout=rollout)
    for _ in range(moves):
        world.step()
        world.cluster()
        world.now += timedelta(seconds=2)
    world.change(replicas=second, image="engine:3", rollout=rollout)
    world.settle()
    assert world.ready == second
    assert world.deployments()["engine-3"] == second
    assert sum(world.deployments().values()) == second
    assert world.plan().is_empty


def test_pods_without_a_node_are_not_called_loading() -> None:
    world = World(observed())
    world.accelerators = 0
    world.settle()
    assert world.condition("WorkloadsAvailable") == ("False", "Starting")
    assert "all wait for a node" in world.message("WorkloadsAvailable")
