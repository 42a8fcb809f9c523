"""From the API's objects to the view of them: pure, the time is a parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.keys import (
    ANNOTATION_DRAIN_SINCE,
    ANNOTATION_HOLD,
    ANNOTATION_LOCAL_ONLY,
    LABEL_POOL,
    LABEL_POOL_KIND,
    LABEL_REVISION,
)
from prfaas.api.v1alpha1 import Condition, ConditionStatus, PoolStatus, PrefillRouteStatus
from prfaas.api.v1alpha1.common import ObjectStatus, Time
from prfaas.commands.durations import short_duration
from prfaas.commands.status.regions import placed_notes
from prfaas.commands.status.view import (
    EndpointState,
    EndpointView,
    Health,
    OperatorState,
    OperatorView,
    PairView,
    PoolView,
    RouteView,
)
from prfaas.pod_troubles import ContainerTrouble, PodCause, container_troubles, pod_trouble, scheduler_words

Object = dict[str, Any]
# A holder that is alive renews several times within the Lease's own duration.
LEASES_UNTIL_DOWN = 2
_TIME: TypeAdapter[datetime] = TypeAdapter(Time)
# What each detail is when all is well.
_GOOD = {
    ConditionType.ACCEPTED: ConditionStatus.TRUE,
    ConditionType.RESOLVED_REFS: ConditionStatus.TRUE,
    ConditionType.WORKLOADS_AVAILABLE: ConditionStatus.TRUE,
    ConditionType.KV_COMPATIBLE: ConditionStatus.TRUE,
    ConditionType.SCALING_ACTIVE: ConditionStatus.TRUE,
    ConditionType.SCALING_LIMITED: ConditionStatus.FALSE,
}


def operator_view(leases: Sequence[Object] | None, now: datetime) -> OperatorView:
    """The operator by its Lease. None: the Leases could not be read."""
    if leases is None:
        return OperatorView(
            state=OperatorState.NOT_VISIBLE,
            message="its Lease may not be read by you: name its namespace with --operator-namespace",
        )
    held = [lease for lease in leases if (lease.get("spec") or {}).get("renewTime")]
    if not held:
        return OperatorView(
            state=OperatorState.ABSENT,
            message="no operator runs here: pods go on serving, but no change is carried out",
        )
    lease = max(held, key=lambda each: _moment(each["spec"]["renewTime"]))
    spec = lease["spec"]
    renewed_at = _moment(spec["renewTime"])
    since = now - renewed_at
    holder = str(spec.get("holderIdentity") or "")
    alive = since.total_seconds() <= LEASES_UNTIL_DOWN * int(spec.get("leaseDurationSeconds") or 15)
    if holder and alive:
        state, message = OperatorState.LEADING, f"{holder} leads, renewed {short_duration(since)} ago"
    else:
        state = OperatorState.DOWN
        message = (
            f"down for {short_duration(since)} (last: {holder or 'gave its Lease back'}): "
            "pods go on serving, but no change is carried out"
        )
    return OperatorView(
        state=state,
        message=message,
        namespace=lease["metadata"].get("namespace"),
        holder=holder or None,
        renewed_at=renewed_at,
    )


def pool_view(pool: Object, now: datetime) -> PoolView:
    """A pool by its status."""
    about, spec = pool["metadata"], pool.get("spec") or {}
    try:
        status = PoolStatus.model_validate(pool.get("status") or {})
    except ValidationError as error:
        status, judged = PoolStatus(), _unreadable(error)
    else:
        judged = judge(status, status.conditions, about)
    health, reason, message = judged
    return PoolView(
        kind=pool["kind"],
        namespace=about["namespace"],
        name=about["name"],
        model=(spec.get("model") or {}).get("name", ""),
        health=health,
        reason=reason,
        message=message,
        desired_replicas=status.desired_replicas if status.observed_generation is not None else None,
        ready_replicas=status.ready_replicas,
        fingerprint=status.kv.fingerprint if status.kv else None,
        notes=(
            *_asked_for(about, ANNOTATION_HOLD, status.hold is not None, now),
            *placed_notes(status),
            *_pool_notes(status, now),
            *_details(status.conditions, reason, message),
        ),
    )


def route_view(route: Object, now: datetime) -> RouteView:
    """A route by its status."""
    about, spec = route["metadata"], route.get("spec") or {}
    try:
        status = PrefillRouteStatus.model_validate(route.get("status") or {})
    except ValidationError as error:
        status, judged = PrefillRouteStatus(), _unreadable(error)
    else:
        judged = judge(status, status.conditions, about)
    health, reason, message = judged
    until = status.local_only.until if status.local_only else None
    switched = (f"local only until {_clock(until)} ({short_duration(until - now)} left)",) if until else ()
    return RouteView(
        namespace=about["namespace"],
        name=about["name"],
        decode_pool=(spec.get("decodePoolRef") or {}).get("name", ""),
        wanted_mode=spec.get("mode", ""),
        effective_mode=status.effective_mode,
        threshold_tokens=status.effective_threshold_tokens,
        local_only_until=until,
        health=health,
        reason=reason,
        message=message,
        pairs=tuple(
            PairView(
                prefill_pool=pair.prefill_pool,
                compatible=pair.compatible,
                reason=pair.reason,
                ready_prefill=pair.ready_prefill,
                ready_decode=pair.ready_decode,
                prefill_engines=pair.prefill_engines,
                decode_engines=pair.decode_engines,
            )
            for pair in status.pairs
        ),
        notes=(
            *_asked_for(about, ANNOTATION_LOCAL_ONLY, until is not None, now),
            *switched,
            *_details(status.conditions, reason, message),
        ),
    )


def judge(
    status: ObjectStatus, conditions: Sequence[Condition], about: Mapping[str, Any]
) -> tuple[Health, str, str]:
    """Health, and the reason and message of the condition that says so."""
    ready = find(conditions, ConditionType.READY)
    stalled = find(conditions, ConditionType.STALLED)
    reconciling = find(conditions, ConditionType.RECONCILING)
    if status.observed_generation is None or ready is None:
        return Health.UNSEEN, Reason.NOT_OBSERVED, "no operator has looked at it yet"
    if status.observed_generation != about.get("generation", 0):
        return Health.PROGRESSING, Reason.NOT_OBSERVED, "the operator has not looked at the last change yet"
    if stalled is not None and stalled.status == ConditionStatus.TRUE:
        return Health.STALLED, stalled.reason, stalled.message
    if reconciling is not None and reconciling.status == ConditionStatus.TRUE:
        return Health.PROGRESSING, reconciling.reason, _what_is_waited_for(reconciling, conditions)
    health = Health.WELL if ready.status == ConditionStatus.TRUE else Health.NOT_READY
    return health, ready.reason, ready.message


def _what_is_waited_for(reconciling: Condition, conditions: Sequence[Condition]) -> str:
    """While pods start, WorkloadsAvailable knows more than the bare number that Reconciling tells."""
    available = find(conditions, ConditionType.WORKLOADS_AVAILABLE)
    lacks = available is not None and available.status == ConditionStatus.FALSE
    if available is None or not lacks or reconciling.reason != Reason.WAITING_FOR_PODS:
        return reconciling.message
    return available.message or reconciling.message


def endpoint_view(pod: Object, fingerprints: Mapping[tuple[str, str, str, str], str]) -> EndpointView:
    """A pod of a pool. `fingerprints` by namespace, kind, pool and revision."""
    about, labels = pod["metadata"], pod["metadata"].get("labels") or {}
    status = pod.get("status") or {}
    kind, pool, revision = (labels.get(key, "") for key in (LABEL_POOL_KIND, LABEL_POOL, LABEL_REVISION))
    state, message = _pod_state(pod)
    return EndpointView(
        namespace=about["namespace"],
        name=about["name"],
        pool_kind=kind,
        pool=pool,
        revision=revision or None,
        fingerprint=fingerprints.get((about["namespace"], kind, pool, revision)),
        state=state,
        message=message,
        node=(pod.get("spec") or {}).get("nodeName"),
        address=status.get("podIP"),
        restarts=sum(int(each.get("restartCount", 0)) for each in _containers(status)),
        created_at=_moment(about["creationTimestamp"]),
    )


def fingerprints_of(pools: Sequence[Object]) -> dict[tuple[str, str, str, str], str]:
    """Fingerprints that pools report, by namespace, kind, pool and revision."""
    return {
        (
            pool["metadata"]["namespace"],
            pool["kind"],
            pool["metadata"]["name"],
            revision.get("name", ""),
        ): found
        for pool in pools
        for revision in (pool.get("status") or {}).get("revisions") or ()
        if (found := revision.get("fingerprint"))
    }


def _pod_state(pod: Object) -> tuple[EndpointState, str]:
    about, status = pod["metadata"], pod.get("status") or {}
    of_pod = trouble.text if (trouble := pod_trouble(pod)) is not None else ""
    if about.get("deletionTimestamp"):
        return EndpointState.ENDING, of_pod
    if status.get("phase") in ("Failed", "Succeeded"):
        return EndpointState.ENDED, of_pod
    drain_since = (about.get("annotations") or {}).get(ANNOTATION_DRAIN_SINCE)
    if drain_since:
        return EndpointState.DRAINING, f"since {drain_since}"
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    suffered = sorted(container_troubles(pod), key=lambda each: not each.lasting)
    if conditions.get("Ready", {}).get("status") == "True":
        return EndpointState.READY, _words(suffered)
    of_containers = [each for each in suffered if not each.over]
    words = _words(of_containers)
    if any(each.lasting for each in of_containers):
        return EndpointState.FAILING, words
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        why = scheduler_words(scheduled.get("message", ""))
        return EndpointState.PENDING, f"{scheduled.get('reason', '')}: {why}".strip(": ")
    if trouble is not None and trouble.cause is PodCause.NODE_SILENT:
        return EndpointState.FAILING, of_pod
    state = EndpointState.STARTING if scheduled else EndpointState.PENDING
    return state, words or of_pod


def _words(troubles: Sequence[ContainerTrouble]) -> str:
    return "; ".join(
        f"{each.text}, last at {_clock(each.at)}" if each.at is not None else each.text for each in troubles
    )


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _pool_notes(status: PoolStatus, now: datetime) -> list[str]:
    notes = []
    if status.hold is not None:
        left = short_duration(status.hold.until - now)
        notes.append(f"held at {status.hold.replicas} until {_clock(status.hold.until)} ({left} left)")
    capacity = status.capacity
    if capacity is not None and capacity.pending_replicas:
        since = f" for {short_duration(now - capacity.pending_since)}" if capacity.pending_since else ""
        usual = capacity.median_pending_to_ready_seconds
        usually = f", usually ready after {usual} s" if usual is not None else ""
        notes.append(f"{capacity.pending_replicas} waiting for a node{since}{usually}")
    if (
        status.update_revision
        and status.current_revision
        and status.update_revision != status.current_revision
    ):
        notes.append(
            f"revision {status.current_revision} to {status.update_revision}: "
            f"{status.updated_replicas} of {status.desired_replicas} updated"
        )
    return notes


def _asked_for(about: Mapping[str, Any], annotation: str, in_force: bool, now: datetime) -> list[str]:
    """An override that somebody has set and the operator has not taken up."""
    text = (about.get("annotations") or {}).get(annotation)
    if text is None or in_force:
        return []
    try:
        until = _moment(json.loads(text)["until"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f"the annotation {annotation} cannot be read: set it with prfaas hold or prfaas route"]
    return [f"{annotation} is set and not in force yet"] if until > now else []


def _details(conditions: Sequence[Condition], reason: str, message: str) -> list[str]:
    """Details that are not as they should be, but for those that say what was told already."""
    return [
        f"{condition.reason}: {condition.message}" if condition.message else condition.reason
        for type_, good in _GOOD.items()
        if (condition := find(conditions, type_)) is not None
        and condition.status not in (good, ConditionStatus.UNKNOWN)
        and condition.reason != reason
        and (not condition.message or condition.message != message)
    ]


def _unreadable(error: ValidationError) -> tuple[Health, str, str]:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return (
        Health.UNSEEN,
        "StatusNotReadable",
        f"this prfaas cannot read status.{where}: {first['msg']}; upgrade it",
    )


def _moment(text: str) -> datetime:
    return _TIME.validate_python(text)


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"
