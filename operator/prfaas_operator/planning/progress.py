"""Which change of a pool's status may wait a moment for the next, so that one write tells of both."""

from __future__ import annotations

from typing import cast

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import Condition, ConditionStatus, PoolStatus, PrefillRouteStatus
from prfaas_operator.planning.actions import PoolPlan, RoutePlan

QUIET_SECONDS = 1.0
"""How long a change may wait. Instances of a pool become ready, and tell of their KV, one after the other."""
BUSY_QUIET_SECONDS = 20.0
"""The same while the operator has a backlog. A fleet that is applied at once has news of every pool again and
again, and each of them would hold up the children of the pools that are still to come."""
BUSY_KEYS = 50
"""So many objects waiting for their pass are a backlog. Without one, a pass comes within milliseconds."""


def patience_seconds(
    before: PoolStatus | PrefillRouteStatus, plan: PoolPlan | RoutePlan, backlog: int
) -> float:
    """How long the plan's status may go unwritten; 0: not at all.

    What is done, for the worse, or has an event is written at once, however busy the operator is.

    Args:
        backlog: objects that wait for their pass.
    """
    is_busy = backlog >= BUSY_KEYS
    if is_busy and _says_only_that_it_starts(before, plan):
        return BUSY_QUIET_SECONDS
    if isinstance(before, PoolStatus) and can_wait(before, cast(PoolPlan, plan)):
        return BUSY_QUIET_SECONDS if is_busy else QUIET_SECONDS
    return 0.0


def _says_only_that_it_starts(before: PoolStatus | PrefillRouteStatus, plan: PoolPlan | RoutePlan) -> bool:
    """The first status ever, without trouble: without one, all tools take an object for one in progress."""
    if before.observed_generation or plan.status is None or plan.events:
        return False
    found = {each.type: each.status for each in plan.status.conditions}
    return (
        found.get(ConditionType.RECONCILING) is ConditionStatus.TRUE
        and found.get(ConditionType.STALLED) is ConditionStatus.FALSE
    )


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
