"""Whole passes over pools whose pods are in trouble: from the API's JSON to conditions and events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from prfaas_operator.planning.actions import EventType, ScaleChild
from prfaas_operator.planning.fingerprints import FIELDS_NAMED_MAX, difference
from prfaas_operator.planning.pods import PREPARATION_SECONDS
from prfaas_operator.planning.values import EngineReport, ObservedPod
from prfaas_operator.runtime import facts
from prfaas_operator.runtime.observer import observed_pod
from tests.operator.planning.pool_world import NOW, World, observed, settled, spec

Json = dict[str, Any]


def at(seconds: float = 0.0) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def killed(reason: str = "OOMKilled", code: int = 137) -> Json:
    told = {"reason": reason, "exitCode": code, "startedAt": at(-60), "finishedAt": at(-5)}
    return {"terminated": told}


def container(
    name: str, state: Json, *, restarts: int = 0, last: Json | None = None, ready: bool = False
) -> Json:
    return {
        "name": name,
        "state": state,
        "lastState": last or {},
        "restartCount": restarts,
        "ready": ready,
    }


RUNS: Json = {"running": {"startedAt": at()}}
OOM_LOOP = container("engine", RUNS, restarts=2, last=killed())
SIDECAR_LOOP = container("prfaas-sidecar", RUNS, restarts=7, last=killed("Error", 1))


def made(like: ObservedPod, *states: Json, **status: Any) -> ObservedPod:
    """A pod of the world as the API server shows it with these containers."""
    body = {
        "metadata": {
            "namespace": "serving",
            "name": like.name,
            "uid": like.uid,
            "resourceVersion": "7",
            "creationTimestamp": like.created_at.isoformat(),
            "labels": {"prfaas.io/revision": like.revision},
        },
        "spec": {
            "nodeName": "gpu-1",
            "initContainers": [{"name": "prfaas-sidecar", "image": "sidecar:1", "restartPolicy": "Always"}],
            "containers": [{"name": "engine", "image": "vllm:1", "resources": {"limits": {"memory": "3Gi"}}}],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [each for each in states if each["name"].startswith("prfaas-")],
            "containerStatuses": [each for each in states if not each["name"].startswith("prfaas-")],
            **status,
        },
    }
    return observed_pod(facts.pod(body).value, "engine")


def starting(replicas: int = 1, kind: Any = "PrefillPool") -> World:
    """A pool whose pods exist and are not ready."""
    world = World(observed(kind, spec=spec(replicas=replicas)))
    world.step()
    world.cluster()
    world.step()
    pods = tuple(replace(pod, ready=False, ready_changed_at=None, node="gpu-1") for pod in world.pool.pods)
    world.pool = replace(world.pool, pods=pods)
    assert len(pods) == replicas
    return world


def with_trouble(world: World, *states: Json, count: int = 1, **status: Any) -> None:
    pods = world.pool.pods
    hit = tuple(made(pod, *states, **status) for pod in pods[:count])
    world.pool = replace(world.pool, pods=(*hit, *pods[count:]))


def test_an_engine_out_of_memory_is_read_from_every_place() -> None:
    world = starting()
    with_trouble(world, OOM_LOOP)
    plan = world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "OOMKilled")
    assert world.condition("Ready") == ("False", "OOMKilled")
    assert world.condition("Stalled") == ("True", "OOMKilled")
    name = world.pool.pods[0].name
    assert world.message("Ready") == (
        f"0 of 1 instances are ready. Pod {name}: container `engine` OOMKilled (limit 3Gi), restarted 2 "
        "times. Raise its memory limit in spec.workload.template, which has to hold the arena as well, or "
        "lower spec.kv.arena."
    )
    assert world.pool.status.limited_by == "OOMKilled"
    (event,) = [event for event in plan.events if event.reason == "OOMKilled"]
    assert event.type is EventType.WARNING
    assert "container `engine` OOMKilled (limit 3Gi), restarted 2 times" in event.message
    # The next look at the same trouble is no news, in whatever state of its loop the container is.
    waits = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    with_trouble(world, container("engine", waits, restarts=2, last=killed()))
    again = world.step()
    assert again.status is None
    assert again.events == ()


def test_one_kill_is_told_and_does_not_stall() -> None:
    world = starting()
    with_trouble(world, container("engine", RUNS, restarts=1, last=killed()))
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "OOMKilled")
    assert world.condition("Stalled") == ("False", "NotStalled")
    with_trouble(world, container("engine", RUNS, restarts=1, last=killed("Error", 1)))
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "Restarting")


def test_a_trouble_that_turns_out_to_last_is_a_second_event() -> None:
    world = starting()
    with_trouble(world, container("engine", killed()))
    (first,) = world.step().events
    with_trouble(world, OOM_LOOP)
    (second,) = world.step().events
    assert (first.reason, second.reason) == ("OOMKilled", "OOMKilled")
    assert "restarted" not in first.message
    assert second.message.startswith("Stalled=True: Pod ")
    assert "OOMKilled (limit 3Gi), restarted 2 times" in second.message


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            container("engine", RUNS, restarts=3, last=killed("Error", 1)),
            "CrashLooping",
            "ended with exit code 1, restarted 3 times. Read its last words: kubectl logs {pod} -n serving "
            "-c engine --previous.",
        ),
        (
            container("engine", {"waiting": {"reason": "ImagePullBackOff", "message": ""}}),
            "ImagePullFailed",
            "image vllm:1 cannot be pulled (ErrImagePull). Check the image's name",
        ),
        (
            container(
                "engine",
                {
                    "waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": "couldn't find key token in Secret serving/hub",
                    }
                },
            ),
            "ContainerConfigFailed",
            "couldn't find key token in Secret serving/hub. Create what it lacks",
        ),
        (
            SIDECAR_LOOP,
            "CrashLooping",
            "container `prfaas-sidecar` ended with exit code 1, restarted 7 times. It is prfaas's own "
            "container and not the engine: kubectl logs {pod} -n serving -c prfaas-sidecar --previous.",
        ),
        (
            container("prfaas-sidecar", RUNS, restarts=2, last=killed()),
            "OOMKilled",
            "raise the memory limit in spec.sidecar.resources.",
        ),
        (
            container("prfaas-sidecar", {"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            "ImagePullFailed",
            "check images and pull secrets in the operator's configuration",
        ),
    ],
)
def test_what_cannot_start_stalls_with_cause_and_remedy(state: Json, reason: str, words: str) -> None:
    world = starting(replicas=3)
    with_trouble(world, state, count=2)
    world.step()
    assert world.condition("Stalled") == ("True", reason)
    name = min(pod.name for pod in world.pool.pods[:2])
    assert world.message("Stalled").startswith(f"Pod {name} (and 1 more like it): container `")
    assert words.format(pod=name) in world.message("Stalled")


def test_a_sidecar_that_is_not_ready_beside_a_ready_engine() -> None:
    world = starting()
    with_trouble(world, container("prfaas-sidecar", RUNS), container("engine", RUNS, ready=True))
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "SidecarNotReady")
    assert world.condition("Stalled")[0] == "False"


def test_an_engine_that_has_recovered_is_not_to_blame_for_its_sidecar() -> None:
    world = starting()
    recovered = container("engine", RUNS, restarts=4, last=killed(), ready=True)
    with_trouble(world, container("prfaas-sidecar", RUNS), recovered)
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "SidecarNotReady")
    assert "OOMKilled" not in world.message("WorkloadsAvailable")


def test_one_that_fails_among_enough_is_stalled_and_an_event() -> None:
    world = settled(replicas=2)
    with_trouble(world, SIDECAR_LOOP)
    plan = world.step()
    assert world.condition("WorkloadsAvailable") == ("True", "Available")
    assert "container `prfaas-sidecar` ended" in world.message("WorkloadsAvailable")
    assert world.condition("Ready") == ("True", "Serving")
    assert [event.reason for event in plan.events] == ["CrashLooping"]
    assert world.pool.status.limited_by == "CrashLooping"


def test_a_rollout_stops_at_a_sidecar_that_cannot_start_and_keeps_the_old() -> None:
    world = settled(replicas=3)
    world.change(replicas=3, image="engine:2")
    for _ in range(30):
        world.step()
        world.cluster()
        world.now += timedelta(seconds=1)
        pods = tuple(
            made(pod, SIDECAR_LOOP) if pod.revision == "engine-2" and pod.deletion_ends_at is None else pod
            for pod in world.pool.pods
        )
        world.pool = replace(world.pool, pods=pods)
    assert world.condition("Stalled") == ("True", "CrashLooping")
    assert "The rollout has stopped; the old revision serves on." in world.message("Stalled")
    assert world.ready >= 2


def test_an_old_revisions_trouble_does_not_stop_the_new() -> None:
    world = settled(replicas=2)
    with_trouble(world, OOM_LOOP)
    world.change(replicas=2, image="engine:2")
    plan = world.step()
    assert world.condition("Stalled")[0] == "False"
    assert plan.actions


# --- not the containers


def test_a_volume_that_is_not_mounted_is_told_after_a_minute() -> None:
    world = starting()
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at()},
        {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": at()},
    ]
    with_trouble(world, phase="Pending", conditions=conditions)
    plan = world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "Starting")
    assert plan.requeue_after_seconds is not None
    assert plan.requeue_after_seconds <= PREPARATION_SECONDS
    world.now += timedelta(seconds=PREPARATION_SECONDS)
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", "PodNotPrepared")
    assert "waits for node gpu-1 to get its volumes and network ready" in world.message("WorkloadsAvailable")
    assert world.condition("Stalled")[0] == "False"


def test_a_node_that_does_not_answer() -> None:
    world = starting()
    conditions = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": at()},
    ]
    with_trouble(world, container("engine", RUNS, ready=True), conditions=conditions)
    world.step()
    assert world.condition("Ready") == ("False", "NodeNotAnswering")
    assert "kubectl describe node gpu-1" in world.message("Ready")


def evicted(like: ObservedPod, seconds: float) -> ObservedPod:
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "TerminationByKubelet",
        "lastTransitionTime": at(seconds),
    }
    return made(
        replace(like, name=f"{like.name}-before", uid="gone", created_at=NOW - timedelta(days=1)),
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        conditions=[disruption],
    )


@pytest.mark.parametrize(("seconds", "reason"), [(-2.0, "PodsLost"), (-7200.0, "Starting")])
def test_an_eviction_explains_its_successor_and_nothing_later(seconds: float, reason: str) -> None:
    world = starting()
    world.pool = replace(world.pool, pods=(*world.pool.pods, evicted(world.pool.pods[0], seconds)))
    world.step()
    assert world.condition("WorkloadsAvailable") == ("False", reason)
    if reason == "PodsLost":
        assert "Evicted: The node was low on resource: memory" in world.message("WorkloadsAvailable")


def test_pods_that_an_admission_rule_refuses() -> None:
    world = starting()
    refusal = 'pods "long-1" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation'
    deployments = tuple(replace(each, failure=refusal) for each in world.pool.deployments)
    world.pool = replace(world.pool, pods=(), deployments=deployments)
    plan = world.step()
    assert world.condition("Ready") == ("False", "PodsRejected")
    assert world.condition("Stalled") == ("True", "PodsRejected")
    assert refusal in world.message("Stalled")
    assert not any(isinstance(action, ScaleChild) for action in plan.actions)
    quota = 'pods "long-1" is forbidden: exceeded quota: gpus, requested: 1, used: 8, limited: 8'
    deployments = tuple(replace(each, failure=quota) for each in deployments)
    world.pool = replace(world.pool, deployments=deployments)
    world.step()
    assert world.condition("Stalled")[0] == "False"
    assert world.condition("ScalingLimited") == ("True", "QuotaPending")


# --- fingerprints


def test_engines_of_one_pool_that_differ_are_told_apart_by_field() -> None:
    world = settled(replicas=3)
    one, two, three = (pod.name for pod in world.pool.pods)
    common = {"model": "org/chat@1", "groups": "4"}
    reports = {
        one: EngineReport(True, "a" * 64, fingerprint_fields={**common, "dtype": "bfloat16"}),
        two: EngineReport(True, "a" * 64),
        three: EngineReport(True, "b" * 64, fingerprint_fields={**common, "dtype": "float16", "isa": "amx"}),
    }
    world.pool = replace(world.pool, reports=reports)
    world.step()
    assert world.condition("KVCompatible") == ("False", "FingerprintMismatch")
    assert (
        "2 with aaaaaaaaaaaa…, 1 with bbbbbbbbbbbb…; they differ in dtype (bfloat16 in aaaaaaaaaaaa…, "
        "float16 in bbbbbbbbbbbb…), isa (nothing in aaaaaaaaaaaa…, amx in bbbbbbbbbbbb…). Pin"
    ) in world.message("KVCompatible")


def test_a_sidecar_that_tells_no_fields_leaves_the_fingerprints() -> None:
    world = settled(replicas=2)
    one, two = (pod.name for pod in world.pool.pods)
    world.pool = replace(
        world.pool, reports={one: EngineReport(True, "a" * 64), two: EngineReport(True, "b" * 64)}
    )
    world.step()
    assert "1 with aaaaaaaaaaaa…, 1 with bbbbbbbbbbbb…. Pin" in world.message("KVCompatible")


def test_at_most_a_few_fields_are_named() -> None:
    many = {f"f{number}": "1" for number in range(FIELDS_NAMED_MAX + 2)}
    told = difference(many, {}, one_has="here", other_has="there")
    assert told == ""
    told = difference(many, {"f0": "1"}, one_has="here", other_has="there")
    assert told.startswith("; they differ in f1 (1 here, nothing there), f2 ")
    assert told.endswith(" and 1 more")


def test_a_refusal_reads_the_same_at_each_try() -> None:
    def seen(pod: str) -> str:
        message = f'pods "{pod}" is forbidden: error looking up service account "team-alpha"'
        body = {
            "metadata": {"name": "long-1a2b", "uid": "u", "resourceVersion": "1"},
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": message}]},
        }
        return facts.deployment(body).value.failure

    assert seen("long-1a2b-7599d7dd76-dtq6m") == seen("long-1a2b-7599d7dd76-67ws6")
    assert seen("long-1a2b-7599d7dd76-dtq6m") == (
        'pods "long-1a2b-7599d7dd76-…" is forbidden: error looking up service account "team-alpha"'
    )
