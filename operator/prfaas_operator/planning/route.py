"""A pass over one route. It has no children: its plan is a status, and the snapshot says the rest to the
gateways.
"""

from __future__ import annotations

from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason, set_conditions
from prfaas.api.v1alpha1 import ConditionStatus, PrefillRouteSpec, PrefillRouteStatus
from prfaas_operator.planning import routes
from prfaas_operator.planning.actions import Plan, RoutePlan
from prfaas_operator.planning.conditions import problems_text
from prfaas_operator.planning.events import of_conditions
from prfaas_operator.planning.measured import observation_status, plan_status
from prfaas_operator.planning.partner import keys_of_route
from prfaas_operator.planning.values import ObservedRoute


def plan_route(route: ObservedRoute, now: datetime) -> RoutePlan:
    """What to do about a route now. Empty when nothing changed, and for one that is being deleted."""
    if route.deleted:
        return Plan()
    if route.spec is None:
        return _plan_unreadable(route, now)
    spec = route.spec
    if not _counts_here(route, spec):
        return _plan_elsewhere(route, now)
    measured = route.measured
    policy = routes.policy_of(spec, route.annotations, now, measured.threshold_tokens)
    pairs = routes.pairs_of(route, spec)
    accepted = routes.accept(route, spec, policy)
    resolved = routes.resolve(route, spec)
    compatible = routes.kv_compatible(route, spec, pairs)
    ready = routes.ready(
        policy,
        accepted,
        resolved,
        compatible,
        pairs,
        _regions_elsewhere(route, spec),
        routes.ClosedLinks(route.geography.region, route.closed_links),
    )
    findings = (ready, *_summary(ready, accepted, resolved, compatible), accepted, resolved, compatible)
    status = PrefillRouteStatus(
        observed_generation=route.generation,
        effective_threshold_tokens=policy.threshold_tokens,
        effective_mode=policy.effective_mode,
        local_only=policy.local_only,
        plan=plan_status(route.status.plan, measured, now),
        observed=observation_status(route.status.observed, measured, now),
        pairs=pairs,
        conditions=set_conditions(route.status.conditions, findings, generation=route.generation, now=now),
    )
    again = (policy.local_only.until - now).total_seconds() if policy.local_only is not None else None
    if status == route.status:
        return Plan(requeue_after_seconds=again)
    events = of_conditions(route.status.conditions, status.conditions)
    return Plan(status=status, events=tuple(events), requeue_after_seconds=again)


def _summary(
    ready: Finding, accepted: Finding, resolved: Finding, compatible: Finding
) -> tuple[Finding, Finding]:
    """Reconciling and Stalled. Engines that are to come are progress; what somebody has to change is not."""
    for finding in (accepted, resolved, compatible):
        harmless = (Reason.ANNOTATION_INVALID, Reason.UNKNOWN_CLUSTER)
        if finding.status is ConditionStatus.FALSE and finding.reason not in harmless:
            return (
                Finding(
                    ConditionType.RECONCILING, ConditionStatus.FALSE, finding.reason, "Stalled; see there."
                ),
                Finding(ConditionType.STALLED, ConditionStatus.TRUE, finding.reason, finding.message),
            )
    not_stalled = Finding(
        ConditionType.STALLED, ConditionStatus.FALSE, Reason.NOT_STALLED, "Nobody has to act."
    )
    if ready.status is ConditionStatus.TRUE:
        settled = Finding(
            ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.SETTLED, "All is as it is wanted."
        )
        return settled, not_stalled
    waits = Finding(ConditionType.RECONCILING, ConditionStatus.TRUE, Reason.WAITING_FOR_PODS, ready.message)
    return waits, not_stalled


def _plan_unreadable(route: ObservedRoute, now: datetime) -> RoutePlan:
    message = problems_text(route.problems)
    findings = (
        Finding(ConditionType.READY, ConditionStatus.FALSE, Reason.INVALID_SPEC, message),
        Finding(ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.INVALID_SPEC, "Stalled; see there."),
        Finding(ConditionType.STALLED, ConditionStatus.TRUE, Reason.INVALID_SPEC, message),
        Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.INVALID_SPEC, message),
    )
    conditions = set_conditions(route.status.conditions, findings, generation=route.generation, now=now)
    status = route.status.model_copy(
        update={"observed_generation": route.generation, "conditions": conditions}
    )
    if status == route.status:
        return Plan()
    return Plan(status=status, events=tuple(of_conditions(route.status.conditions, conditions)))


def _counts_here(route: ObservedRoute, spec: PrefillRouteSpec) -> bool:
    decode = route.pools.get(keys_of_route(route.key.namespace, spec)[0])
    return route.geography.is_here(spec.placement) and (decode is None or decode.here)


def _regions_elsewhere(route: ObservedRoute, spec: PrefillRouteSpec) -> tuple[str, ...]:
    """Other regions with a pool of the route's, as far as they can be reached and believed."""
    prefill = keys_of_route(route.key.namespace, spec)[1]
    named = {region for key in prefill if key in route.pools for region in route.pools[key].others}
    known = (route.geography.regions.get(name) for name in sorted(named))
    return tuple(each.name for each in known if each is not None and each.peer_address and each.trust)


def _plan_elsewhere(route: ObservedRoute, now: datetime) -> RoutePlan:
    findings = (
        Finding(
            ConditionType.READY,
            ConditionStatus.TRUE,
            Reason.PLACED_ELSEWHERE,
            "It counts in other clusters; this one lets their decode pools pull from its prefill pools.",
        ),
        Finding(
            ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.SETTLED, "Nothing is to be done here."
        ),
        Finding(ConditionType.STALLED, ConditionStatus.FALSE, Reason.NOT_STALLED, "Nobody has to act."),
    )
    conditions = set_conditions(route.status.conditions, findings, generation=route.generation, now=now)
    status = PrefillRouteStatus(observed_generation=route.generation, conditions=conditions)
    if status == route.status:
        return Plan()
    return Plan(status=status, events=tuple(of_conditions(route.status.conditions, conditions)))
