"""Which pods end when a Deployment shrinks, and when it may shrink.

A victim is marked first. Gateways see the mark and send nothing new; the deletion cost makes the ReplicaSet
controller choose the same pods. After `GATEWAYS_SEE_SECONDS` replicas drop, and each victim's preStop waits
for what still runs there. A decision that is reversed removes the marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prfaas_operator.planning.actions import PodMark
from prfaas_operator.planning.values import ObservedPod

GATEWAYS_SEE_SECONDS = 2.0

# Clocks of two leaders may differ that much; a mark that is set further ahead would be waited for until then.
CLOCK_SKEW_SECONDS = 5.0

_PHASE_RANK = {"Pending": 0, "Unknown": 1}


@dataclass(frozen=True, slots=True)
class Drain:
    """What to do about a Deployment that is to have fewer pods, or no longer is.

    Attributes:
        marks: to set and to remove.
        may_shrink: gateways have had time to see the marks of all victims.
        wait_seconds: when to look again, None when there is nothing to wait for.
    """

    marks: tuple[PodMark, ...] = ()
    may_shrink: bool = True
    wait_seconds: float | None = None


def plan_drain(pods: Sequence[ObservedPod], replicas: int, now: datetime) -> Drain:
    """For one Deployment's pods and the replicas that it is to have."""
    alive = [pod for pod in pods if pod.deletion_ends_at is None]
    victims = choose_victims(alive, max(0, len(alive) - replicas))
    chosen = {pod.uid for pod in victims}
    # A pod without a node serves nobody and goes first anyway.
    marks = [PodMark(pod.name, pod.uid, now) for pod in victims if pod.node and not _is_marked(pod, now)]
    marks += [
        PodMark(pod.name, pod.uid, None)
        for pod in alive
        if pod.drain_since is not None and pod.uid not in chosen
    ]
    wait = max((_unseen_seconds(pod, now) for pod in victims), default=0.0)
    if wait > 0:
        return Drain(tuple(marks), may_shrink=False, wait_seconds=wait)
    return Drain(tuple(marks))


def choose_victims(alive: Sequence[ObservedPod], count: int) -> list[ObservedPod]:
    """The pods that the ReplicaSet controller would delete, given that victims bear its deletion cost.

    Its order: without a node, pending, not ready, lower deletion cost, and then what became ready or was made
    last.
    """
    return sorted(alive, key=_deletion_order)[:count]


def _deletion_order(pod: ObservedPod) -> tuple[object, ...]:
    youth = -(pod.ready_changed_at or pod.created_at).timestamp() if pod.ready else 0.0
    return (
        bool(pod.node),
        _PHASE_RANK.get(pod.phase, 2),
        pod.ready,
        pod.drain_since is None,
        youth,
        -pod.restarts,
        -pod.created_at.timestamp(),
        pod.name,
    )


def _is_marked(pod: ObservedPod, now: datetime) -> bool:
    """Marked, and not by a clock that was set back since."""
    return pod.drain_since is not None and pod.drain_since - now <= timedelta(seconds=CLOCK_SKEW_SECONDS)


def _unseen_seconds(pod: ObservedPod, now: datetime) -> float:
    # One without a node is not marked either.
    if not (pod.ready and pod.node):
        return 0.0
    if pod.drain_since is None or not _is_marked(pod, now):
        return GATEWAYS_SEE_SECONDS
    return (pod.drain_since + timedelta(seconds=GATEWAYS_SEE_SECONDS) - now).total_seconds()
