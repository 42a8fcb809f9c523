"""What a cluster reports of itself: its pools, those in trouble first, as much as fits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from prfaas.api import keys
from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import ClusterReport, ConditionStatus, PoolStatus, ReportedPool
from prfaas.api.v1alpha1.region import MESSAGE_MAX_CHARACTERS, REPORTED_POOLS_MAX
from prfaas_operator.federation.values import ObjectKey, Refused

REPORT_MAX_BYTES = 64 * 1024
# What the object and other clusters of the region have around it is not counted, hence the room.
ROOM_BYTES = 4 * 1024
PAUSE_SECONDS = 10.0
_READY_FIRST = {ConditionStatus.FALSE: 0, ConditionStatus.UNKNOWN: 1, ConditionStatus.TRUE: 2}


def reported_pool(key: ObjectKey, annotations: Mapping[str, str], status: PoolStatus) -> ReportedPool:
    """A pool of this cluster by its own status."""
    ready = find(status.conditions, ConditionType.READY)
    state = ready.status if ready is not None else ConditionStatus.UNKNOWN
    message = ready.message[:MESSAGE_MAX_CHARACTERS] if ready is not None else None
    return ReportedPool.model_validate(
        {
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "hub_generation": _hub_generation(annotations.get(keys.ANNOTATION_MIRRORED_FROM)),
            "desired_replicas": status.desired_replicas,
            "ready_replicas": status.ready_replicas,
            "pending_replicas": status.capacity.pending_replicas if status.capacity is not None else 0,
            "ready": state,
            "reason": ready.reason if ready is not None else str(Reason.NOT_OBSERVED),
            "message": None if state is ConditionStatus.TRUE else message,
        }
    )


def refused_pool(refused: Refused) -> ReportedPool:
    """A pool that the hub wants here and that is not carried out."""
    return ReportedPool.model_validate(
        {
            "kind": refused.key.kind,
            "namespace": refused.key.namespace,
            "name": refused.key.name,
            "ready": ConditionStatus.FALSE,
            "reason": str(refused.reason),
            "message": refused.message[:MESSAGE_MAX_CHARACTERS],
        }
    )


def report(
    cluster: str,
    version: str,
    pools: Iterable[ReportedPool],
    refused: Iterable[Refused] = (),
    *,
    hub_uid: str | None = None,
    frozen: bool | None = None,
) -> ClusterReport:
    """The report, at most 64 KiB of JSON. A refused pool that is here in an older form is told as refused."""
    known = {ObjectKey(each.kind, each.namespace, each.name): each for each in pools}
    for refusal in refused:
        if refusal.key.kind in (keys.PREFILL_POOL, keys.DECODE_POOL):
            told, before = refused_pool(refusal), known.get(refusal.key)
            counts = ("desired_replicas", "ready_replicas", "pending_replicas", "hub_generation")
            update = {name: getattr(before, name) for name in counts} if before is not None else {}
            known[refusal.key] = told.model_copy(update=update)
    ordered = sorted(
        known.values(), key=lambda each: (_READY_FIRST[each.ready], each.namespace, each.kind, each.name)
    )
    kept: list[ReportedPool] = []
    left_bytes = REPORT_MAX_BYTES - ROOM_BYTES
    for each in ordered[:REPORTED_POOLS_MAX]:
        left_bytes -= len(json.dumps(each.to_api()).encode()) + 2
        if left_bytes < 0:
            break
        kept.append(each)
    return ClusterReport(
        name=cluster,
        version=version[:63],
        hub_uid=hub_uid,
        frozen=frozen,
        # The order that the server keeps does not matter, so that a change of health alone moves nothing.
        pools=tuple(sorted(kept, key=lambda each: (each.namespace, each.kind, each.name))),
        omitted_pools=len(ordered) - len(kept),
    )


def seconds_until_write(
    written: ClusterReport | None, written_at: float, current: ClusterReport, now: float
) -> float | None:
    """When to write: at once (0), after so many seconds, or not at all (None): nothing has changed."""
    if written == current:
        return None
    return max(0.0, written_at + PAUSE_SECONDS - now)


def _hub_generation(mirrored_from: str | None) -> int | None:
    last = (mirrored_from or "").rpartition("/")[2]
    return int(last) if last.isdigit() else None
