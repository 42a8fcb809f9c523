"""Pods as a real kubelet, scheduler or node controller leaves them, and what is said of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from prfaas.pod_troubles import (
    WORDS_MAX_CHARACTERS,
    Cause,
    PodCause,
    container_troubles,
    in_one_line,
    pod_trouble,
)

Json = dict[str, Any]
ENGINE = {
    "name": "engine",
    "image": "registry.example.org/vllm@sha256:aa",
    "resources": {"limits": {"memory": "3Gi"}},
}
SIDECAR = {"name": "prfaas-sidecar", "image": "sidecar:1", "restartPolicy": "Always"}
CARRIER = {"name": "prfaas-connector", "image": "connector:1"}
RUNNING = {"running": {"startedAt": "2026-03-01T12:00:00Z"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}


def ended(reason: str, code: int, *, ran_seconds: int = 40, **changes: Any) -> Json:
    minutes, seconds = divmod(ran_seconds, 60)
    hours, minutes = divmod(minutes, 60)
    began, finished = "2026-03-01T00:00:00Z", f"2026-03-01T{hours:02}:{minutes:02}:{seconds:02}Z"
    told = {"reason": reason, "exitCode": code, "startedAt": began, "finishedAt": finished, **changes}
    return {"terminated": told}


def state(
    name: str, current: Json, *, last: Json | None = None, restarts: int = 0, ready: bool = False
) -> Json:
    return {
        "name": name,
        "state": current,
        "lastState": last or {},
        "restartCount": restarts,
        "ready": ready,
    }


def pod(*states: Json, engine: Json | None = None, **status: Any) -> Json:
    regular = [each for each in states if each["name"] == "engine"]
    return {
        "metadata": {"name": "long-1", "creationTimestamp": "2026-03-01T12:00:00Z"},
        "spec": {
            "nodeName": "gpu-1",
            "initContainers": [SIDECAR, CARRIER],
            "containers": [{**ENGINE, **(engine or {})}],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [each for each in states if each["name"] != "engine"],
            "containerStatuses": regular,
            **status,
        },
    }


OOM = "container `engine` OOMKilled (limit 3Gi), restarted 2 times"


@pytest.mark.parametrize(
    ("current", "last"),
    [
        (BACK_OFF, ended("OOMKilled", 137)),
        (RUNNING, ended("OOMKilled", 137)),
        (ended("OOMKilled", 137), None),
    ],
    ids=["backing off", "runs again", "has just ended"],
)
def test_out_of_memory_reads_the_same_in_each_state_of_its_loop(current: Json, last: Json | None) -> None:
    (found,) = container_troubles(pod(state("engine", current, last=last, restarts=2)))
    assert (found.cause, found.text, found.lasting) == (Cause.OUT_OF_MEMORY, OOM, True)


def test_what_is_over_no_longer_lasts_and_is_not_forgotten() -> None:
    sidecar = state("prfaas-sidecar", RUNNING)
    again = state("engine", RUNNING, last=ended("OOMKilled", 137), restarts=2, ready=True)
    unready, before = container_troubles(pod(sidecar, again))
    assert (unready.cause, unready.over) == (Cause.NOT_READY, False)
    assert (before.text, before.lasting, before.over) == (OOM, False, True)


def test_out_of_memory_without_a_limit_is_the_nodes() -> None:
    (found,) = container_troubles(pod(state("engine", ended("OOMKilled", 137)), engine={"resources": {}}))
    assert found.text == "container `engine` OOMKilled (it has no limit: its node ran out of memory)"
    assert not found.lasting


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (ended("Error", 1), "container `engine` ended with exit code 1, restarted 3 times"),
        (ended("Error", 139), "container `engine` ended with exit code 139 (SIGSEGV), restarted 3 times"),
        (ended("Completed", 0), "container `engine` ended with exit code 0 (Completed), restarted 3 times"),
        (
            ended("Error", 3, message="no\n license. "),
            "container `engine` ended with exit code 3: no license, restarted 3 times",
        ),
    ],
)
def test_a_crash_loop_has_exit_code_and_last_words(told: Json, text: str) -> None:
    (found,) = container_troubles(pod(state("engine", BACK_OFF, last=told, restarts=3)))
    assert (found.cause, found.text, found.lasting) == (Cause.ENDED, text, True)


@pytest.mark.parametrize("policy", ["File", "FallbackToLogsOnError"])
def test_a_command_that_is_not_there_reads_the_same_between_tries(policy: str) -> None:
    why = 'exec: "vllm": executable file not found in $PATH'
    message = (
        f"failed to create containerd task: runc create failed: unable to start container process: {why}"
    )
    tries = {"waiting": {"reason": "RunContainerError", "message": message}}
    failed = ended("StartError", 128, message=f"{message}: unknown")
    engine = {"terminationMessagePolicy": policy}
    (trying,) = container_troubles(pod(state("engine", tries, last=failed, restarts=3), engine=engine))
    (waiting,) = container_troubles(pod(state("engine", BACK_OFF, last=failed, restarts=3), engine=engine))
    assert trying.text == f"container `engine`: RunContainerError: {why}"
    assert trying.cause is waiting.cause is Cause.CREATION
    quoted = trying.text if policy == "File" else "container `engine`: RunContainerError"
    assert waiting.text == quoted


def test_words_that_may_come_from_the_log_are_never_quoted() -> None:
    told = ended("Error", 1, message="prompt: my secret question")
    engine = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    (found,) = container_troubles(pod(state("engine", BACK_OFF, last=told, restarts=3), engine=engine))
    assert found.text == "container `engine` ended with exit code 1, restarted 3 times"


@pytest.mark.parametrize(
    ("restarts", "current", "ran_seconds", "lasting"),
    [
        (0, ended("Error", 1), 40, False),
        (1, BACK_OFF, 40, False),
        (2, BACK_OFF, 40, True),
        (2, RUNNING, 40, True),
        # It served for hours before: one crash, whatever happened in earlier weeks.
        (9, RUNNING, 4 * 3600, False),
    ],
)
def test_a_loop_is_told_from_a_crash(restarts: int, current: Json, ran_seconds: int, lasting: bool) -> None:
    last = ended("Error", 1, ran_seconds=ran_seconds)
    (found,) = container_troubles(pod(state("engine", current, last=last, restarts=restarts)))
    assert found.lasting is lasting


IMAGE = "registry.example.org/vllm@sha256:aa"
WORDS = "dial tcp: read udp 10.0.0.2:53: i/o timeout"
TRIED = (
    f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": dial tcp: read udp '
    "10.0.0.9:{port}->10.0.0.2:53: i/o timeout"
)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", TRIED.format(port=4711)),
        (
            "ImagePullBackOff",
            f'Back-off pulling image "{IMAGE}": ErrImagePull: {TRIED.format(port=4712)}',
        ),
    ],
)
def test_an_image_that_cannot_be_pulled_is_named_in_the_same_words_between_tries(
    reason: str, message: str
) -> None:
    waits = {"waiting": {"reason": reason, "message": message}}
    (found,) = container_troubles(pod(state("engine", waits)))
    assert found.text == (
        "container `engine`: image registry.example.org/vllm@sha256:aa cannot be pulled "
        f"(ErrImagePull: {WORDS})"
    )
    assert (found.cause, found.lasting) == (Cause.IMAGE, True)


@pytest.mark.parametrize(
    ("reason", "message", "text"),
    [
        (
            "CreateContainerConfigError",
            "couldn't find key token in Secret serving/hub",
            "container `engine`: CreateContainerConfigError: couldn't find key token in Secret serving/hub",
        ),
        ("InvalidImageName", "", "cannot be pulled (InvalidImageName)"),
        ("SomethingNewError", "odd", "container `engine`: SomethingNewError: odd"),
    ],
)
def test_a_container_that_cannot_be_made(reason: str, message: str, text: str) -> None:
    waits = {"waiting": {"reason": reason, "message": message}}
    (found,) = container_troubles(pod(state("engine", waits)))
    assert found.text.endswith(text)
    assert found.lasting


def test_what_is_well_is_no_trouble() -> None:
    creating = {"waiting": {"reason": "ContainerCreating"}}
    initializing = {"waiting": {"reason": "PodInitializing"}}
    assert container_troubles(pod(state("prfaas-sidecar", creating), state("engine", initializing))) == ()
    loading = pod(
        state("prfaas-sidecar", RUNNING),
        state("prfaas-connector", ended("Completed", 0), last=ended("Error", 1), restarts=1),
        state("engine", RUNNING),
    )
    assert container_troubles(loading) == ()
    assert container_troubles({"metadata": {"name": "new"}}) == ()


def test_the_sidecars_trouble_is_told_from_the_engines() -> None:
    (found,) = container_troubles(
        pod(
            state("prfaas-sidecar", BACK_OFF, last=ended("Error", 2), restarts=5),
            state("engine", {"waiting": {"reason": "PodInitializing"}}),
        )
    )
    assert found.text == "container `prfaas-sidecar` ended with exit code 2, restarted 5 times"
    (found,) = container_troubles(pod(state("prfaas-sidecar", RUNNING), state("engine", RUNNING, ready=True)))
    assert (found.cause, found.text) == (
        Cause.NOT_READY,
        "container `prfaas-sidecar` is not ready, the others are",
    )


# --- the pod as a whole


def condition(type_: str, status: str, reason: str = "", message: str = "") -> Json:
    at = "2026-03-01T12:00:00Z"
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at,
    }


FAILED = {"phase": "Failed", "containerStatuses": []}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            {
                **FAILED,
                "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold: 100Mi, available: 90Mi. ",
                "conditions": [condition("DisruptionTarget", "True", "TerminationByKubelet")],
            },
            "was ended by its node gpu-1: Evicted: The node was low on resource: memory. "
            "Threshold: 100Mi, available: 90Mi",
        ),
        (
            {**FAILED, "reason": "UnexpectedAdmissionError", "message": "Allocate failed: no devices left"},
            "was ended by its node gpu-1: UnexpectedAdmissionError: Allocate failed: no devices left",
        ),
        (
            {**FAILED, "conditions": [condition("DisruptionTarget", "True", "PreemptionByScheduler")]},
            "made way for a pod of higher priority",
        ),
        (
            {**FAILED, "conditions": [condition("DisruptionTarget", "True", "DeletionByPodGC")]},
            "was deleted because node gpu-1 is gone",
        ),
        (
            {**FAILED, "conditions": [condition("DisruptionTarget", "True", "NewInSomeVersion")]},
            "was disrupted",
        ),
    ],
    ids=["evicted", "refused by its node", "preempted", "node gone", "unknown disruption"],
)
def test_lost(status: Json, text: str) -> None:
    found = pod_trouble(pod(**status))
    assert found is not None
    assert (found.cause, found.text) == (PodCause.LOST, text)
    assert found.at is not None


def test_a_pod_that_is_taken_away_and_has_not_ended_yet() -> None:
    taken = pod(conditions=[condition("DisruptionTarget", "True", "DeletionByTaintManager")])
    assert pod_trouble(taken) is None  # planned, and not begun
    taken["metadata"]["deletionTimestamp"] = "2026-03-01T12:02:30Z"
    found = pod_trouble(taken)
    assert found is not None
    assert found.text == "was deleted from node gpu-1, which is lost or has a taint"


def test_a_pod_that_somebody_deletes_is_no_trouble() -> None:
    deleted = pod(conditions=[condition("Ready", "False"), condition("ContainersReady", "True")])
    deleted["metadata"]["deletionTimestamp"] = "2026-03-01T12:02:30Z"
    assert pod_trouble(deleted) is None


def test_a_node_that_does_not_answer() -> None:
    found = pod_trouble(pod(conditions=[condition("Ready", "False"), condition("ContainersReady", "True")]))
    assert found is not None
    assert (found.cause, found.text) == (PodCause.NODE_SILENT, "is on node gpu-1, which does not answer")
    gate = condition("Ready", "False", "ReadinessGatesNotReady", 'gate "x/y" is not "True"')
    found = pod_trouble(pod(conditions=[gate, condition("ContainersReady", "True")]))
    assert found is not None
    assert (found.cause, found.text) == (
        PodCause.GATED,
        'waits for a readiness gate (gate "x/y" is not "True")',
    )


def test_a_node_that_has_not_mounted_what_the_pod_needs() -> None:
    conditions = [condition("PodScheduled", "True"), condition("PodReadyToStartContainers", "False")]
    names = ("prfaas-run", "prfaas-tls", "prfaas-peers", "models", "usr", "kube-api-access-x2x4f")
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in names]
    waiting = pod(phase="Pending", conditions=conditions, engine={"volumeMounts": mounts})
    waiting["spec"]["volumes"] = [
        {"name": "usr", "hostPath": {"path": "/usr"}},
        {"name": "prfaas-run", "emptyDir": {}},
        {"name": "not-mounted", "secret": {"secretName": "other"}},
        {"name": "kube-api-access-x2x4f", "projected": {"sources": []}},
        {"name": "prfaas-tls", "secret": {"secretName": "long-prefill-tls"}},
        {"name": "prfaas-peers", "configMap": {"name": "long-prefill-peers", "optional": True}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
    ]
    found = pod_trouble(waiting)
    assert found is not None
    assert (found.cause, found.text) == (
        PodCause.NOT_PREPARED,
        "waits for node gpu-1 to get its volumes and network ready (it mounts Secret long-prefill-tls, "
        "PersistentVolumeClaim models, hostPath volume usr)",
    )
    prepared = copy.deepcopy(waiting)
    prepared["status"]["conditions"][1]["status"] = "True"
    assert pod_trouble(prepared) is None
    older_cluster = copy.deepcopy(waiting)
    del older_cluster["status"]["conditions"][1]
    assert pod_trouble(older_cluster) is None


def test_words_of_others_are_one_bounded_printable_line() -> None:
    assert in_one_line("a\n\tb\x1b[31m c.  ") == "a b [31m c"
    assert len(in_one_line("x" * 10_000)) == WORDS_MAX_CHARACTERS
