"""What becomes of a plan when one of its actions fails."""

from __future__ import annotations

import re
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason, set_condition
from prfaas.api.v1alpha1 import Condition, ConditionStatus
from prfaas.pod_troubles import scheduler_words
from prfaas_operator.planning.actions import ApplyChild, FailedAction, Plan, PoolPlan
from prfaas_operator.planning.events import of_conditions
from prfaas_operator.planning.values import ChildKind, ObservedPool

RETRY_SECONDS = 10.0
_OVERTAKEN = frozenset({"Conflict", "NotFound"})
REFUSED_RETRY_SECONDS = 120.0
"""A refusal may end without a change of the pool: an admission rule or a quota was changed."""
# RBAC's own words. Quotas and admission rules say Forbidden as well.
_RBAC = re.compile(r'cannot \w+ resource "')


def fold(plan: PoolPlan, pool: ObservedPool, failed: FailedAction, now: datetime) -> PoolPlan:
    """The plan to finish with: no more actions, and a status that says what failed.

    Server words are in the message: they name the field. A failure that is the same as last time changes
    nothing. An object that was changed or deleted since it was seen is no failure to tell of: the next pass,
    which comes at once, sees it as it is.
    """
    if failed.retryable and failed.code in _OVERTAKEN:
        return Plan(requeue_after_seconds=RETRY_SECONDS)
    status = plan.status if plan.status is not None else pool.status
    conditions: tuple[Condition, ...] = status.conditions
    for finding in _findings(failed, conditions):
        conditions = set_condition(conditions, finding, generation=pool.generation, now=now)
    # What the plan's status changed only because it expected success is compared with what is stored.
    conditions = tuple(_with_stored_time(each, pool.status.conditions) for each in conditions)
    status = status.model_copy(
        update={
            "conditions": conditions,
            "scaling": pool.status.scaling,
            "limited_by": status.limited_by if failed.retryable else str(_reason(failed)),
        }
    )
    changed = status != pool.status
    events = tuple(of_conditions(pool.status.conditions, conditions)) if changed else ()
    wait = RETRY_SECONDS if failed.retryable else REFUSED_RETRY_SECONDS
    if plan.requeue_after_seconds is not None:
        wait = min(wait, plan.requeue_after_seconds)
    return Plan((), status if changed else None, events, wait)


def _findings(failed: FailedAction, conditions: tuple[Condition, ...]) -> tuple[Finding, ...]:
    action = failed.action
    name = getattr(action, "name", "")
    what = f"{type(action).__name__} {name}".strip()
    words = f"{what}: the API server says {failed.code}: {scheduler_words(failed.message)}"
    if failed.retryable:
        return (
            Finding(
                ConditionType.RECONCILING,
                ConditionStatus.TRUE,
                Reason.RETRYING,
                f"{words}. It is tried again.",
            ),
        )
    reason = _reason(failed)
    message = f"{words}. {_remedy(failed, reason)}; the pods that are there go on as they are."
    missing = Finding(ConditionType.CERTIFICATE_READY, ConditionStatus.FALSE, reason, message)
    return (
        *([missing] if reason is Reason.CERT_MANAGER_MISSING else []),
        Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, reason, message),
        Finding(ConditionType.STALLED, ConditionStatus.TRUE, reason, message),
        Finding(ConditionType.RECONCILING, ConditionStatus.FALSE, reason, "Stalled; see there."),
    )


def _reason(failed: FailedAction) -> Reason:
    if _kind_missing(failed):
        return Reason.CERT_MANAGER_MISSING
    is_rbac = failed.code == "Forbidden" and _RBAC.search(failed.message) is not None
    return Reason.OPERATOR_FORBIDDEN if is_rbac else Reason.TEMPLATE_REJECTED


def _kind_missing(failed: FailedAction) -> bool:
    """cert-manager's kind is not served."""
    action = failed.action
    return (
        isinstance(action, ApplyChild) and action.kind is ChildKind.CERTIFICATE and failed.code == "NotFound"
    )


def _remedy(failed: FailedAction, reason: Reason) -> str:
    if reason is Reason.CERT_MANAGER_MISSING:
        return "Install cert-manager, or take certificates.issuerRef out of the chart's values"
    if reason is Reason.OPERATOR_FORBIDDEN:
        return "Give the operator's ServiceAccount this right (docs/access.md): no change of the pool helps"
    if isinstance(failed.action, ApplyChild) and failed.action.kind is ChildKind.DEPLOYMENT:
        return "Correct spec.workload.template, or the rule that forbids it"
    return "See docs/operator.md"


def _with_stored_time(condition: Condition, stored: tuple[Condition, ...]) -> Condition:
    for each in stored:
        if each.type == condition.type and each.status is condition.status:
            return condition.model_copy(update={"last_transition_time": each.last_transition_time})
    return condition
