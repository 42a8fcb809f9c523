"""Which change of a pool's status may wait a moment for the next, so that one write tells of both."""

from __future__ import annotations

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import Condition, ConditionStatus, PoolStatus
from prfaas_operator.planning.actions import PoolPlan

QUIET_SECONDS = 1.0
"""How long a change may wait. Instances of a pool become ready, and tell of their KV, one after the other."""


def can_wait(before: PoolStatus, plan: PoolPlan) -> bool:
    """Whether the plan only says how far the pool is on a way that goes on.

    Nothing waits that is done, that has an event, that concerns another generation, or that is for the worse.
    """
    after = plan.status
    if after is None or plan.actions or plan.events:
        return False
    same = ("observed_generation", "desired_replicas", "hold", "scaling", "limited_by", "update_revision")
    if any(getattr(before, field) != getattr(after, field) for field in same):
        return False
    if any(_is_worse(find(before.conditions, each.type), each) for each in after.conditions):
        return False
    reconciling = find(after.conditions, ConditionType.RECONCILING)
    compatible = find(after.conditions, ConditionType.KV_COMPATIBLE)
    is_on_its_way = reconciling is not None and reconciling.status is ConditionStatus.TRUE
    is_asked = compatible is not None and compatible.reason == Reason.FINGERPRINT_UNKNOWN
    return is_on_its_way or is_asked


_ABNORMAL = frozenset({ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.SCALING_LIMITED})


def _is_worse(before: Condition | None, after: Condition) -> bool:
    """New, or not any more as it should be."""
    if before is None:
        return True
    good = ConditionStatus.FALSE if after.type in _ABNORMAL else ConditionStatus.TRUE
    return before.status is good and after.status is not good
