"""Regions, links and the clusters of pools, from the API's objects to the view of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import (
    ClusterReport,
    Condition,
    ConditionStatus,
    KVLinkSpec,
    KVLinkStatus,
    PoolStatus,
    RegionSpec,
    RegionStatus,
)
from prfaas.commands.durations import short_duration
from prfaas.commands.status.view import Health, LinkView, RegionView
from prfaas.kube.resources import Object

_NOT_READABLE = "this prfaas cannot read it; upgrade it"
_HEALTH = {
    ConditionStatus.TRUE: Health.WELL,
    ConditionStatus.FALSE: Health.NOT_READY,
    ConditionStatus.UNKNOWN: Health.UNSEEN,
}


def region_view(body: Object, now: datetime) -> RegionView:
    """A region by the status that this cluster's operator writes."""
    name = body["metadata"]["name"]
    try:
        spec = RegionSpec.model_validate(body.get("spec") or {})
        status = RegionStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return RegionView(
            name=name, here=False, health=Health.UNSEEN, reason="NotReadable", message=_NOT_READABLE
        )
    reachable = find(status.conditions, ConditionType.REACHABLE)
    ready = find(status.conditions, ConditionType.READY)
    return RegionView(
        name=name,
        here=reachable is not None and reachable.reason == Reason.OWN_REGION,
        health=_HEALTH[ready.status] if ready is not None else Health.UNSEEN,
        reason=ready.reason if ready is not None else Reason.NOT_OBSERVED,
        message=ready.message if ready is not None else "no operator has looked at it yet",
        peer=spec.peer.address if spec.peer is not None else None,
        clusters=_clusters(spec.clusters or (name,), status.clusters),
        notes=_notes(status.conditions, ready, now),
    )


def _clusters(names: Sequence[str], reports: Sequence[ClusterReport]) -> tuple[str, ...]:
    by_name = {each.name: each for each in reports}
    return tuple(_cluster(name, by_name.get(name)) for name in names)


def _cluster(name: str, report: ClusterReport | None) -> str:
    if report is None:
        return name
    ready = sum(pool.ready is ConditionStatus.TRUE for pool in report.pools)
    more = f" +{report.omitted_pools}" if report.omitted_pools else ""
    return f"{name} {ready}/{len(report.pools)}{more} pools ready"


def _notes(conditions: Sequence[Condition], ready: Condition | None, now: datetime) -> tuple[str, ...]:
    """Details that are not as they should be, with how long; the one that Ready repeats without its words."""
    found = []
    for condition in conditions:
        if condition.reason == Reason.ROTATING:
            found.append(f"{condition.type} {condition.reason}: {condition.message}")
        if condition.type == ConditionType.READY or condition.status is ConditionStatus.TRUE:
            continue
        repeated = ready is not None and condition.reason == ready.reason
        if condition.status is ConditionStatus.UNKNOWN and not repeated:
            continue
        since = short_duration(now - condition.last_transition_time)
        words = "" if repeated else f": {condition.message}"
        found.append(f"{condition.type} {condition.reason} for {since}{words}")
    return tuple(found)


def link_view(body: Object) -> LinkView:
    """A link by what its destination's operator measured."""
    try:
        spec = KVLinkSpec.model_validate(body.get("spec") or {})
        status = KVLinkStatus.model_validate(body.get("status") or {})
    except ValidationError:
        source, _, destination = body["metadata"]["name"].partition("-")
        return LinkView(
            source=source,
            destination=destination,
            health=Health.UNSEEN,
            reason="NotReadable",
            message=_NOT_READABLE,
        )
    health, reason, message = _link_health(status.conditions)
    return LinkView(
        source=spec.source.region,
        destination=spec.destination.region,
        health=health,
        reason=reason,
        message=message,
        goodput_bits_per_second=status.goodput_bits_per_second,
        rtt_seconds=status.rtt_seconds,
        utilisation_percent=status.utilisation_percent,
        spent_bytes=status.spent_bytes,
        budget_bytes=spec.budget_bytes_per_month,
    )


def _link_health(conditions: Sequence[Condition]) -> tuple[Health, str, str]:
    """The worst first."""
    down, congested, healthy = (
        find(conditions, each)
        for each in (ConditionType.DOWN, ConditionType.CONGESTED, ConditionType.HEALTHY)
    )
    if down is not None and down.status is ConditionStatus.TRUE:
        return Health.NOT_READY, down.reason, down.message
    if healthy is not None and healthy.status is ConditionStatus.FALSE:
        return Health.NOT_READY, healthy.reason, healthy.message
    if congested is not None and congested.status is ConditionStatus.TRUE:
        return Health.PROGRESSING, congested.reason, congested.message
    if healthy is None:
        return Health.UNSEEN, Reason.NOT_OBSERVED, "its destination has not told of it here"
    return Health.WELL, healthy.reason, healthy.message


def placed_notes(status: PoolStatus) -> tuple[str, ...]:
    """Where a pool runs, and what is wrong there; only the hub knows."""
    if not status.placed:
        return ()
    troubles = tuple(
        f"in {each.name}: {each.reason}{f': {each.message}' if each.message else ''}"
        f"{' (last heard, now stale)' if each.stale else ''}"
        for each in status.clusters or ()
        if each.ready is not ConditionStatus.TRUE or each.stale
    )
    return (f"runs in {status.placed}", *troubles)
