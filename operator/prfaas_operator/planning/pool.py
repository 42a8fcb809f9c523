"""A pass over one pool: observe, categorise, decide, plan. Each policy has a file of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason, find, set_conditions
from prfaas.api.v1alpha1 import ConditionStatus, PoolSpec, PoolStatus
from prfaas_operator.injection.settings import Settings
from prfaas_operator.planning import conditions
from prfaas_operator.planning.actions import Action, Plan, PoolPlan
from prfaas_operator.planning.capacity import Capacity, measure
from prfaas_operator.planning.certificates import seconds_until_due
from prfaas_operator.planning.elsewhere import plan_elsewhere
from prfaas_operator.planning.events import of_actions, of_conditions
from prfaas_operator.planning.geography import resolved as resolved_for
from prfaas_operator.planning.issuing import certificate_ready
from prfaas_operator.planning.pods import is_alive, seconds_until_broken, seconds_until_ended
from prfaas_operator.planning.references import resolve
from prfaas_operator.planning.repairs import contested, seconds_until_repair
from prfaas_operator.planning.replicas import Sizing, plan_size
from prfaas_operator.planning.revision import Injection, Injector, Target, choose_target
from prfaas_operator.planning.rollout import Wait
from prfaas_operator.planning.status import limiting_word, pool_status
from prfaas_operator.planning.upkeep import (
    budget_action,
    certificate_action,
    no_certificate,
    peers_action,
    pool_identity_of,
)
from prfaas_operator.planning.values import ObservedPool
from prfaas_operator.planning.workload import Work, plan_frozen, plan_refused, plan_work

LEFTOVER_SECONDS = 10.0


def plan_pool(
    pool: ObservedPool, settings: Settings, now: datetime, injector: Injector | None = None
) -> PoolPlan:
    """What to do about a pool now.

    Empty when all is as it should be, and for a pool that is being deleted: its children are the garbage
    collector's.

    Args:
        injector: what remembers hashes of revisions between passes; None: computed each time.
    """
    injector = Injection(settings) if injector is None else injector
    if pool.deleted:
        return Plan()
    if pool.spec is None:
        return _plan_unreadable(pool, settings, now)
    spec = resolved_for(pool.spec, pool.geography.cluster)
    if not pool.geography.is_here(spec.placement):
        return plan_elsewhere(pool, spec, lambda here: plan_pool(here, settings, now, injector), now)

    sizing = plan_size(pool, spec, now)
    capacity = measure(pool.pods, pool.deployments, pool.status.capacity, now)
    resolved = resolve(spec, pool.found, sizing.desired + (spec.rollout.max_surge if sizing.desired else 0))
    target = choose_target(pool, spec, injector)
    certificate_missing = no_certificate(pool, settings)

    upkeep = _upkeep(pool, spec, settings, target, sizing, now)
    work = _work(pool, spec, target, resolved, sizing, capacity, certificate_missing, now)
    actions = (*upkeep, *([sizing.scale] if sizing.scale is not None else []), *work.actions)

    status = _status(pool, spec, settings, target, resolved, sizing, capacity, work, certificate_missing, now)
    events = [
        *of_actions(actions, starts=not pool.deployments),
        *of_conditions(pool.status.conditions, status.conditions),
    ]
    changed = status != pool.status
    return Plan(
        actions,
        status if changed else None,
        tuple(events) if changed or actions else (),
        _look_again(pool, sizing, work, now),
    )


def _upkeep(
    pool: ObservedPool,
    spec: PoolSpec,
    settings: Settings,
    target: Target,
    sizing: Sizing,
    now: datetime,
) -> list[Action]:
    """Certificate and peers come before the pods that mount them, and are renewed even while a new spec is
    refused.
    """
    if target.leftover or target.accepted.reason is Reason.CHILD_NOT_OWNED:
        return []
    if target.revision is None and not pool.deployments:
        return []
    labels = spec.workload.template.metadata.labels if spec.workload.template is not None else {}
    certificate = certificate_action(pool, settings, now)
    rest = (peers_action(pool, settings), budget_action(pool, sizing.desired, labels))
    # What only asks somebody else for one, who may be missing, must not keep the rest from being done.
    found = (*rest, certificate) if pool.issuer is not None else (certificate, *rest)
    return [action for action in found if action is not None]


def _work(
    pool: ObservedPool,
    spec: PoolSpec,
    target: Target,
    resolved: Finding,
    sizing: Sizing,
    capacity: Capacity,
    certificate_missing: str,
    now: datetime,
) -> Work:
    if target.leftover or target.accepted.reason is Reason.CHILD_NOT_OWNED:
        return Work()
    if target.revision is None or resolved.status is ConditionStatus.FALSE or certificate_missing:
        may_grow = target.revision is None and resolved.status is ConditionStatus.TRUE
        return plan_frozen(pool, desired=sizing.desired, may_grow=may_grow, now=now)
    if target.deployment is None and _was_refused(pool):
        return plan_refused(pool, target, desired=sizing.desired, now=now)
    return plan_work(
        pool,
        target,
        desired=sizing.desired,
        max_unavailable=spec.rollout.max_unavailable,
        max_surge=spec.rollout.max_surge,
        lacks_capacity=target.revision in capacity.waiting_revisions,
        now=now,
    )


def _was_refused(pool: ObservedPool) -> bool:
    """Whether the API server has refused what this generation asks for, while another revision runs."""
    accepted = find(pool.status.conditions, ConditionType.ACCEPTED)
    return (
        accepted is not None
        and accepted.reason in (Reason.TEMPLATE_REJECTED, Reason.OPERATOR_FORBIDDEN)
        and accepted.observed_generation == pool.generation
        and any(each.ours and each.replicas for each in pool.deployments)
    )


def _status(
    pool: ObservedPool,
    spec: PoolSpec,
    settings: Settings,
    target: Target,
    resolved: Finding,
    sizing: Sizing,
    capacity: Capacity,
    work: Work,
    certificate_missing: str,
    now: datetime,
) -> PoolStatus:
    seen = conditions.picture(
        pool,
        engine=spec.engine.container,
        desired=sizing.desired,
        revision=target.revision,
        max_unavailable=spec.rollout.max_unavailable,
        work=work,
        now=now,
    )
    accepted = target.accepted
    if sizing.bad_hold and accepted.status is ConditionStatus.TRUE:
        accepted = replace(
            accepted,
            status=ConditionStatus.FALSE,
            reason=Reason.ANNOTATION_INVALID,
            message=f"{sizing.bad_hold}. It is ignored.",
        )
    limited = capacity.limited or sizing.limited or conditions.NOT_LIMITED
    profile = sizing.verdict.profile if sizing.verdict is not None else None
    available = conditions.workloads_available(seen)
    stalled = contested(pool, conditions.stalled(seen, accepted, resolved))
    findings = (
        conditions.ready(seen, available),
        conditions.reconciling(seen, stalled, certificate_missing, target.leftover),
        stalled,
        accepted,
        resolved,
        available,
        conditions.kv_compatible(pool, seen),
        sizing.active,
        limited,
        *([profile] if profile is not None else []),
        *_certificate(pool, settings),
    )
    word = limiting_word(limited, stalled, conditions.hindrance(available))
    return pool_status(pool, spec, seen, sizing, capacity, findings, word, now)


def _certificate(pool: ObservedPool, settings: Settings) -> tuple[Finding, ...]:
    """CertificateReady, where somebody else issues."""
    if pool.issuer is None:
        return ()
    identity = pool_identity_of(pool, settings)
    return (certificate_ready(pool.issuer, pool.request, pool.certificate, identity),)


def _look_again(pool: ObservedPool, sizing: Sizing, work: Work, now: datetime) -> float | None:
    waits = [
        sizing.look_again_seconds,
        work.look_again_seconds,
        seconds_until_due(pool.certificate, now) if pool.issuer is None else None,
        seconds_until_broken(pool.pods, now),
        LEFTOVER_SECONDS if pool.leftovers else None,
        seconds_until_repair(pool),
        seconds_until_ended(pool.pods, now) if work.rolling or work.waits_for is Wait.ENDING else None,
    ]
    return min((wait for wait in waits if wait is not None), default=None)


def _plan_unreadable(pool: ObservedPool, settings: Settings, now: datetime) -> PoolPlan:
    """A stored spec that this version cannot read: said, and nothing else touched. What running pods live on
    is renewed.
    """
    actions: list[Action] = []
    children = (pool.certificate, pool.peers)
    if pool.deployments and all(child is None or child.ours for child in children):
        found = (certificate_action(pool, settings, now), peers_action(pool, settings))
        actions = [action for action in found if action is not None]
    due = seconds_until_due(pool.certificate, now) if pool.issuer is None else None
    message = conditions.problems_text(pool.problems)
    alive = [pod for pod in pool.pods if is_alive(pod)]
    serving = sum(pod.ready for pod in alive)
    ready = Finding(
        ConditionType.READY,
        ConditionStatus.TRUE if serving else ConditionStatus.FALSE,
        Reason.SERVING if serving else Reason.INVALID_SPEC,
        f"{serving} instances are ready." if serving else message,
    )
    findings = (
        ready,
        Finding(ConditionType.RECONCILING, ConditionStatus.FALSE, Reason.INVALID_SPEC, "Stalled; see there."),
        Finding(ConditionType.STALLED, ConditionStatus.TRUE, Reason.INVALID_SPEC, message),
        Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.INVALID_SPEC, message),
    )
    status = pool.status.model_copy(
        update={
            "observed_generation": pool.generation,
            "replicas": len(alive),
            "ready_replicas": serving,
            "limited_by": str(Reason.INVALID_SPEC),
            "conditions": set_conditions(
                pool.status.conditions, findings, generation=pool.generation, now=now
            ),
        }
    )
    if status == pool.status:
        return Plan(tuple(actions), None, tuple(of_actions(actions)), due)
    events = (*of_actions(actions), *of_conditions(pool.status.conditions, status.conditions))
    return Plan(tuple(actions), status, events, due)
