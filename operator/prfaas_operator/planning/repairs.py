"""How often a child is put back that somebody else keeps changing.

Two writers that each put their own back would otherwise go on as fast as the API server lets them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from prfaas.api.conditions import Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.planning.children import is_drifted
from prfaas_operator.planning.values import ChildKind, ObservedPool

AT_ONCE = 3
"""So many repairs of a child within the window come at once: people edit by hand."""
WINDOW = timedelta(hours=2)
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=10)


def pause_seconds(repairs: Sequence[datetime], now: datetime) -> float:
    """How long to leave a child as somebody else made it, after repairs at these times, in their order."""
    recent = [each for each in repairs if now - each < WINDOW]
    if len(recent) < AT_ONCE:
        return 0.0
    pause = min(FIRST_PAUSE * 2.0 ** (len(recent) - AT_ONCE), LONGEST_PAUSE)
    return max(0.0, (recent[-1] + pause - now).total_seconds())


def contested(pool: ObservedPool, stalled: Finding) -> Finding:
    """Stalled, if it is not already, by a child that somebody else changes again and again."""
    found = next(_contested(pool), None)
    if found is None or stalled.status is ConditionStatus.TRUE:
        return stalled
    name, by, _ = found
    message = (
        f"{name} is changed again and again by {by or 'somebody else'}. It is put back less and less often, "
        f"every {LONGEST_PAUSE.total_seconds() / 60:.0f} minutes at last: stop the other writer, or change "
        "the pool instead of its child."
    )
    return replace(stalled, status=ConditionStatus.TRUE, reason=Reason.CHILD_CONTESTED, message=message)


def seconds_until_repair(pool: ObservedPool) -> float | None:
    """When the first of them may be put back, None: none waits."""
    return min((seconds for _, _, seconds in _contested(pool)), default=None)


def _contested(pool: ObservedPool) -> Iterator[tuple[str, str, float]]:
    """Kind and name of each child that waits, who changed it, and for how many seconds."""
    kinds = (
        *((ChildKind.DEPLOYMENT, each) for each in pool.deployments),
        (ChildKind.CONFIG_MAP, pool.peers),
        (ChildKind.BUDGET, pool.budget),
        (ChildKind.CERTIFICATE, pool.request.child if pool.request is not None else None),
    )
    for kind, child in kinds:
        if child is None or not child.ours:
            continue
        seconds = pool.repair_pauses.get(f"{kind} {child.name}", 0.0)
        if seconds > 0 and is_drifted(child.recorded_owned_fields, child.actual_owned_fields):
            yield f"{kind} {child.name}", child.taken_over_by, seconds
