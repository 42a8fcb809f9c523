"""A pool whose placement names other clusters only: nothing is made here, and what is here goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason, set_conditions
from prfaas.api.v1alpha1 import ConditionStatus, PlacedStatus, PoolSpec, PoolStatus, Scaling
from prfaas_operator.planning.actions import Plan, PoolPlan
from prfaas_operator.planning.events import of_conditions
from prfaas_operator.planning.values import ObservedPool


def plan_elsewhere(
    pool: ObservedPool, spec: PoolSpec, plan_here: Callable[[ObservedPool], PoolPlan], now: datetime
) -> PoolPlan:
    """Drains what runs here, by the plan of a pool of no instances; then only a status.

    Args:
        plan_here: the plan of a pool of this cluster.
    """
    if pool.pods or any(each.ours and each.replicas for each in pool.deployments):
        empty = spec.model_copy(update={"replicas": 0, "scaling": Scaling(), "placement": None})
        plan = plan_here(replace(pool, spec=empty))
        ended = plan.status if plan.status is not None else pool.status
        return replace(plan, status=_told(pool, spec, ended, now))
    status = _told(pool, spec, PoolStatus(), now)
    if status == pool.status:
        return Plan()
    return Plan(status=status, events=tuple(of_conditions(pool.status.conditions, status.conditions)))


def _told(pool: ObservedPool, spec: PoolSpec, ended: PoolStatus, now: datetime) -> PoolStatus:
    unknown = pool.geography.unknown_clusters(spec.placement)
    resolved = (
        Finding(
            ConditionType.RESOLVED_REFS,
            ConditionStatus.FALSE,
            Reason.UNKNOWN_CLUSTER,
            f"No Region has cluster {', '.join(unknown)} (spec.placement.clusters): correct the name, or "
            "create the Region.",
        )
        if unknown
        else Finding(ConditionType.RESOLVED_REFS, ConditionStatus.TRUE, Reason.RESOLVED, "All is there.")
    )
    findings = (
        _ready(spec, pool.status.clusters or ()),
        Finding(
            ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.SETTLED, "Nothing is to be done here."
        ),
        Finding(ConditionType.STALLED, ConditionStatus.FALSE, Reason.NOT_STALLED, "Nobody has to act."),
        Finding(
            ConditionType.ACCEPTED, ConditionStatus.TRUE, Reason.ACCEPTED, "Other clusters carry it out."
        ),
        resolved,
    )
    return ended.model_copy(
        update={
            "observed_generation": pool.generation,
            "clusters": pool.status.clusters,
            "placed": pool.status.placed,
            "conditions": set_conditions(
                pool.status.conditions, findings, generation=pool.generation, now=now
            ),
        }
    )


def _ready(spec: PoolSpec, clusters: tuple[PlacedStatus, ...]) -> Finding:
    """What the clusters say, where it is known (in the hub)."""
    names = ", ".join(place.name for place in spec.placement.clusters) if spec.placement is not None else ""
    for status in (ConditionStatus.FALSE, ConditionStatus.UNKNOWN):
        lacking = [each for each in clusters if each.ready is status]
        if lacking:
            first = lacking[0]
            message = f"Cluster {first.name}: {first.message or first.reason or 'not told yet'}"
            return Finding(ConditionType.READY, status, Reason.PLACED_ELSEWHERE, message)
    return Finding(ConditionType.READY, ConditionStatus.TRUE, Reason.PLACED_ELSEWHERE, f"Runs in {names}.")
