"""What would have to be different for a pool to have another size, in words."""

from __future__ import annotations

from prfaas.autoscaling.decision import Limit
from prfaas.autoscaling.draft import Draft
from prfaas.autoscaling.settings import Settings

_LIMITS = {
    Limit.MAXIMUM: "raise scaling.maxReplicas above {maximum}",
    Limit.MINIMUM: "lower scaling.minReplicas below {minimum}",
    Limit.LINK_SATURATED: "the link below {room:.0%} of its capacity for {settle:.0f} s, or more capacity",
    Limit.LINK_BUDGET: "a larger budgetBytesPerMonth of the KVLink, or the next month",
    Limit.LINK_DOWN: "the link up again, for {settle:.0f} s",
    Limit.LINK_UNKNOWN: "a measurement of the link: see `kubectl get kvlink`",
    Limit.NO_CAPACITY: "nodes for the instances that wait, or load that goes elsewhere",
    Limit.QUOTA_PENDING: "a larger quota, or load that goes elsewhere",
    Limit.QUOTA: "a larger quota",
    Limit.BUDGET: "a larger budget, or cheaper instances",
}


def would_change(draft: Draft, settings: Settings) -> tuple[str, ...]:
    """Each a sentence; empty when nothing is known."""
    own, need, found = draft.own, draft.need, []
    if draft.limit in _LIMITS and draft.desired != draft.needed:
        found.append(
            f"to {draft.needed}: "
            + _LIMITS[draft.limit].format(
                maximum=own.maximum,
                minimum=own.minimum,
                room=settings.link_room_below,
                settle=settings.link_settle_seconds,
            )
        )
    if need is None or draft.desired == 0:
        if draft.desired == 0:
            found.append("up: the first request, or a forecast of it")
        return tuple(found)
    if need.busy_instances > 0:
        more = draft.desired * own.utilisation_target / need.busy_instances - 1
        if more > 0 and draft.desired < own.maximum:
            found.append(f"up: {more:.0%} more load")
        smaller = (draft.desired - 1) * own.utilisation_target * (1 - settings.shrink_margin)
        less = 1 - smaller / need.busy_instances
        if 0 < less < 1 and draft.desired > max(1, own.minimum):
            found.append(f"down: {less:.0%} less load for {own.shrink_window_seconds:.0f} s")
    if draft.desired == 1 and own.minimum == 0:
        found.append(f"to 0: no request for {own.idle_seconds:.0f} s")
    return tuple(found)
