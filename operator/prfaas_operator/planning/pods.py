"""What a pod's state means to the policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from prfaas.pod_troubles import ContainerTrouble, PodCause
from prfaas_operator.planning.values import ObservedPod

PENDING_GRACE_SECONDS = 10.0
"""So long may a pod be without a node before that counts as a lack of capacity."""

RECOVERY_SECONDS = 60.0
"""So long may an old revision's pod be not ready before it counts as broken."""

PREPARATION_SECONDS = 60.0
"""So long may a node need for a pod's volumes and network before that is worth telling."""

# A node that is gone never confirms a deletion.
ENDING_GRACE_SECONDS = 30.0

_TERMINAL_PHASES = ("Failed", "Succeeded")


def is_alive(pod: ObservedPod) -> bool:
    """It counts as one of its ReplicaSet's pods."""
    return pod.deletion_ends_at is None and pod.phase not in _TERMINAL_PHASES


def is_ending(pod: ObservedPod, now: datetime) -> bool:
    """It is being deleted and may still hold its accelerators."""
    if pod.deletion_ends_at is None or pod.phase in _TERMINAL_PHASES or not pod.node:
        return False
    return now < pod.deletion_ends_at + timedelta(seconds=ENDING_GRACE_SECONDS)


def failure_of(pod: ObservedPod) -> ContainerTrouble | None:
    """Why it cannot start by itself, None when nothing says so. One crash is nothing yet."""
    if pod.ready or not is_alive(pod):
        return None
    return next((trouble for trouble in pod.troubles if trouble.lasting), None)


def is_not_prepared(pod: ObservedPod, now: datetime) -> bool:
    """Its node has had more than enough time for its volumes and network."""
    return _unprepared_seconds(pod, now) >= PREPARATION_SECONDS


def waits_for_node(pod: ObservedPod, now: datetime) -> bool:
    """It has waited for a node, or for somebody to lift a gate, for longer than scheduling takes."""
    waits = is_alive(pod) and not pod.node and (pod.pending_reason != "" or bool(pod.gates))
    return waits and _age_seconds(pod, now) >= PENDING_GRACE_SECONDS


def is_broken(pod: ObservedPod, now: datetime) -> bool:
    """Not ready, and nothing is lost when it goes before ready ones."""
    if pod.ready:
        return False
    if failure_of(pod) is not None or waits_for_node(pod, now):
        return True
    return _unready_seconds(pod, now) >= RECOVERY_SECONDS


def seconds_until_broken(pods: Sequence[ObservedPod], now: datetime) -> float | None:
    """When the next of these pods may begin to count as waiting or broken; None: time alone changes
    nothing.
    """
    waits = [
        limit - age
        for pod in pods
        if is_alive(pod) and not pod.ready
        for limit, age in (
            (PENDING_GRACE_SECONDS, _age_seconds(pod, now)),
            (RECOVERY_SECONDS, _unready_seconds(pod, now)),
            (PREPARATION_SECONDS, _unprepared_seconds(pod, now)),
        )
        if -math.inf < age < limit
    ]
    return min(waits, default=None)


def seconds_until_ended(pods: Sequence[ObservedPod], now: datetime) -> float | None:
    """When the next pod that ends stops counting though nobody confirms its end; None: none ends."""
    waits = [
        (pod.deletion_ends_at - now).total_seconds() + ENDING_GRACE_SECONDS
        for pod in pods
        if pod.deletion_ends_at is not None and is_ending(pod, now)
    ]
    return min(waits, default=None)


def _age_seconds(pod: ObservedPod, now: datetime) -> float:
    return (now - pod.created_at).total_seconds()


def _unready_seconds(pod: ObservedPod, now: datetime) -> float:
    return (now - (pod.ready_changed_at or pod.created_at)).total_seconds()


def _unprepared_seconds(pod: ObservedPod, now: datetime) -> float:
    trouble = pod.trouble
    if trouble is None or trouble.cause is not PodCause.NOT_PREPARED:
        return -math.inf
    return (now - (trouble.at or pod.created_at)).total_seconds()
