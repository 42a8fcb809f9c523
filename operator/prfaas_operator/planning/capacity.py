"""Whether the cluster has room: pods without a node, and how long an instance takes to become ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import CapacityStatus, ConditionStatus
from prfaas.pod_troubles import scheduler_words
from prfaas_operator.planning.pods import is_alive, is_ending, waits_for_node
from prfaas_operator.planning.values import ObservedDeployment, ObservedPod


@dataclass(frozen=True, slots=True)
class Capacity:
    """What was found.

    Attributes:
        limited: ScalingLimited=True when something waits, else None.
        waiting_revisions: revisions with a pod that waits.
    """

    status: CapacityStatus | None
    limited: Finding | None
    waiting_revisions: frozenset[str]


def measure(
    pods: Sequence[ObservedPod],
    deployments: Sequence[ObservedDeployment],
    before: CapacityStatus | None,
    now: datetime,
) -> Capacity:
    """Look at a pool's pods. The last measured times are kept when no pod shows newer ones."""
    waiting = sorted(
        (pod for pod in pods if waits_for_node(pod, now)), key=lambda pod: (pod.created_at, pod.name)
    )
    # A successor that waits for the accelerators of a pod that ends gets them: that is no lack.
    if sum(is_ending(pod, now) for pod in pods) >= len(waiting):
        waiting = []
    refused = next((each for each in deployments if names_quota(each.failure)), None)
    last, middle = _start_times(pods, before)
    status = CapacityStatus(
        pending_replicas=len(waiting),
        pending_since=waiting[0].created_at if waiting else None,
        last_pending_to_ready_seconds=last,
        median_pending_to_ready_seconds=middle,
    )
    revisions = {pod.revision for pod in waiting}
    limited = _limited_by_pods(waiting)
    if limited is None and refused is not None:
        revisions.add(refused.revision)
        limited = Finding(
            ConditionType.SCALING_LIMITED,
            ConditionStatus.TRUE,
            Reason.QUOTA_PENDING,
            f"The API server refuses more pods: {scheduler_words(refused.failure)}. Raise the quota, "
            "or ask for fewer.",
        )
    return Capacity(status if status != CapacityStatus() else None, limited, frozenset(revisions))


def _limited_by_pods(waiting: Sequence[ObservedPod]) -> Finding | None:
    if not waiting:
        return None
    first = waiting[0]
    since = f"{first.created_at:%Y-%m-%dT%H:%M:%SZ}"
    who = f"{len(waiting)} instance(s) without a node, the first since {since} (pod {first.name})"
    if first.gates:
        return Finding(
            ConditionType.SCALING_LIMITED,
            ConditionStatus.TRUE,
            Reason.QUOTA_PENDING,
            f"{who}: held by scheduling gate {', '.join(first.gates)}. Look at the queue that sets it; no "
            "more instances are added while one waits.",
        )
    words = scheduler_words(first.pending_message) or first.pending_reason
    return Finding(
        ConditionType.SCALING_LIMITED,
        ConditionStatus.TRUE,
        Reason.NO_CAPACITY,
        f"{who}: {words}. Add nodes or free accelerators, or ask for less; no more instances are added while "
        "one waits.",
    )


def names_quota(failure: str) -> bool:
    """Whether a quota keeps a Deployment from its pods. Other refusals are no lack of room."""
    return "exceeded quota" in failure


def _start_times(pods: Sequence[ObservedPod], before: CapacityStatus | None) -> tuple[int | None, int | None]:
    """(of the youngest, median) in seconds from creation to ready. A pod that restarted measures something
    else.
    """
    samples = sorted(
        (pod.created_at, int((pod.ready_changed_at - pod.created_at).total_seconds()))
        for pod in pods
        if is_alive(pod) and pod.ready and pod.restarts == 0 and pod.ready_changed_at is not None
    )
    if not samples:
        if before is None:
            return None, None
        return before.last_pending_to_ready_seconds, before.median_pending_to_ready_seconds
    return max(0, samples[-1][1]), max(0, int(median(seconds for _, seconds in samples)))
