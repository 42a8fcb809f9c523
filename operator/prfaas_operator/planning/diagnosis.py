"""Why instances are not ready: the one cause that explains most, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from prfaas.api.conditions import Reason
from prfaas.api.keys import PREFILL_POOL
from prfaas.pod_troubles import Cause, ContainerTrouble, PodCause, in_one_line
from prfaas_operator.injection.names import CARRIER, SIDECAR
from prfaas_operator.planning.capacity import names_quota
from prfaas_operator.planning.pods import is_alive, is_not_prepared
from prfaas_operator.planning.values import ObservedDeployment, ObservedPod, PoolKey

CONTAINERS_NAMED_MAX = 2
REFUSAL_MAX_CHARACTERS = 800
"""Pod Security names each container and each field."""

SUCCESSION_SECONDS = 60.0
"""A pod that is made within this time of another's loss is its successor."""

_LASTING_REASONS = {
    Cause.IMAGE: Reason.IMAGE_PULL_FAILED,
    Cause.CREATION: Reason.CONTAINER_CONFIG_FAILED,
    Cause.OUT_OF_MEMORY: Reason.OOM_KILLED,
    Cause.ENDED: Reason.CRASH_LOOPING,
    Cause.NOT_READY: Reason.SIDECAR_NOT_READY,
}
_POD_REASONS = {
    PodCause.LOST: Reason.PODS_LOST,
    PodCause.NODE_SILENT: Reason.NODE_NOT_ANSWERING,
    PodCause.NOT_PREPARED: Reason.POD_NOT_PREPARED,
    PodCause.GATED: Reason.READINESS_GATE_CLOSED,
}


class _Weight(IntEnum):
    """Which of several causes is told."""

    LASTING = 0
    REJECTED = 1
    CONTAINER = 2
    POD = 3
    LOST = 4


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause.

    Attributes:
        lasting: waiting mends nothing, and a rollout to these instances cannot go on.
    """

    reason: Reason
    message: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class _Symptom:
    weight: _Weight
    reason: Reason
    who: str
    text: str
    remedy: str

    @property
    def order(self) -> tuple[int, bool, str]:
        return self.weight, self.reason is not Reason.OOM_KILLED, self.who


def diagnose(
    pods: Sequence[ObservedPod],
    deployments: Iterable[ObservedDeployment],
    *,
    pool: PoolKey,
    engine: str,
    revision: str | None,
    now: datetime,
) -> Diagnosis | None:
    """What keeps instances from being ready; None while they may just be starting.

    Args:
        engine: name of the engine's container.
        revision: the newest one, whose lasting troubles stop the rollout. None: it is not known, and any may
            be it.
    """
    waiting = [pod for pod in pods if is_alive(pod) and not pod.ready]
    symptoms = [
        *(each for pod in waiting for each in _of_pod(pod, pool, engine, revision, now)),
        *_rejections(deployments, revision),
        *_losses(pods, waiting),
    ]
    if not symptoms:
        return None
    first = min(symptoms, key=lambda each: each.order)
    alike = {each.who for each in symptoms if (each.weight, each.reason) == (first.weight, first.reason)}
    more = f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""
    lasting = first.weight <= _Weight.REJECTED
    return Diagnosis(first.reason, f"{first.who}{more}{first.text}. {first.remedy}.", lasting)


def _of_pod(
    pod: ObservedPod, pool: PoolKey, engine: str, revision: str | None, now: datetime
) -> Iterator[_Symptom]:
    who = f"Pod {pod.name}"
    # One that is lasting explains the others, which wait for it.
    troubles = sorted(pod.troubles, key=lambda trouble: not trouble.lasting)
    if troubles:
        first = troubles[0]
        lasting = first.lasting and revision in (None, pod.revision)
        reason = _LASTING_REASONS[first.cause]
        if reason is Reason.CRASH_LOOPING and not first.lasting:
            reason = Reason.RESTARTING
        text = "; ".join(trouble.text for trouble in troubles[:CONTAINERS_NAMED_MAX])
        weight = _Weight.LASTING if lasting else _Weight.CONTAINER
        yield _Symptom(weight, reason, who, f": {text}", _remedy(pod, first, pool, engine))
    elif pod.trouble is not None and (
        pod.trouble.cause is not PodCause.NOT_PREPARED or is_not_prepared(pod, now)
    ):
        reason = _POD_REASONS[pod.trouble.cause]
        yield _Symptom(_Weight.POD, reason, who, f" {pod.trouble.text}", _pod_remedy(pod, pool))


def _rejections(deployments: Iterable[ObservedDeployment], revision: str | None) -> Iterator[_Symptom]:
    for each in deployments:
        if is_rejected(each) and each.revision == revision:
            yield _Symptom(
                _Weight.REJECTED,
                Reason.PODS_REJECTED,
                f"Deployment {each.name}",
                f": the API server refuses its pods: {in_one_line(each.failure, REFUSAL_MAX_CHARACTERS)}",
                "Correct spec.workload.template, or the rule of the cluster that forbids such pods",
            )


def is_rejected(deployment: ObservedDeployment) -> bool:
    """The API server takes the Deployment and not its pods, and no quota is the reason."""
    return deployment.failure != "" and deployment.replicas > 0 and not names_quota(deployment.failure)


def _losses(pods: Sequence[ObservedPod], waiting: Sequence[ObservedPod]) -> Iterator[_Symptom]:
    """Pods that were taken away, as far as one that is not ready has come in their place."""
    if not waiting:
        return
    earliest = min(pod.created_at for pod in waiting) - timedelta(seconds=SUCCESSION_SECONDS)
    for pod in pods:
        lost = pod.trouble
        if lost is None or lost.cause is not PodCause.LOST or (lost.at or pod.created_at) < earliest:
            continue
        yield _Symptom(
            _Weight.LOST,
            Reason.PODS_LOST,
            f"Pod {pod.name}",
            f" {lost.text}",
            "Another is starting in its place; if this goes on, look at that node and at the pods' requests "
            "and priority",
        )


def _remedy(pod: ObservedPod, trouble: ContainerTrouble, pool: PoolKey, engine: str) -> str:
    container = trouble.container
    is_ours = container in (SIDECAR, CARRIER)
    not_the_engine = "It is prfaas's own container and not the engine: " if is_ours else ""
    match trouble.cause:
        case Cause.IMAGE if is_ours:
            return (
                f"{not_the_engine}check images and pull secrets in the operator's configuration "
                "(chart: image and pools)"
            )
        case Cause.IMAGE:
            return "Check the image's name, its registry and imagePullSecrets"
        case Cause.CREATION:
            return f"{not_the_engine or 'Create what it lacks, or correct spec.workload.template: '}" + (
                f"kubectl describe pod {pod.name} -n {pool.namespace} has the kubelet's words"
            )
        case Cause.OUT_OF_MEMORY if container == SIDECAR:
            return f"{not_the_engine}raise the memory limit in spec.sidecar.resources"
        case Cause.OUT_OF_MEMORY if container == engine and pool.kind == PREFILL_POOL:
            return (
                "Raise its memory limit in spec.workload.template, which has to hold the arena as well, or "
                "lower spec.kv.arena"
            )
        case Cause.OUT_OF_MEMORY:
            return "Raise its memory limit in spec.workload.template"
        case Cause.NOT_READY:
            return (
                f"{not_the_engine}kubectl logs {pod.name} -n {pool.namespace} -c {container} says what it "
                "waits for"
            )
        case Cause.ENDED:
            return (
                f"{not_the_engine or 'Read its last words: '}kubectl logs {pod.name} -n {pool.namespace} "
                f"-c {container} --previous"
            )


def _pod_remedy(pod: ObservedPod, pool: PoolKey) -> str:
    match pod.trouble.cause if pod.trouble is not None else None:
        case PodCause.NODE_SILENT:
            return (
                f"Look at it: kubectl describe node {pod.node}. Kubernetes starts a successor elsewhere when "
                "it gives the node up, usually after five minutes"
            )
        case PodCause.GATED:
            return "The controller that sets the gate (spec.readinessGates) has the last word"
        case _:
            return f"kubectl describe pod {pod.name} -n {pool.namespace} names what fails"
