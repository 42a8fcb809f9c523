"""Whether clusters are alive: by their Leases, and by what gateways hear, each judged by the own clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

STALE_SECONDS = 30.0
# Beyond that, a time of renewal speaks for itself at the first sight, whichever clock wrote it.
SKEW = timedelta(seconds=90)


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """A Lease of a cluster as it was last seen to change.

    Attributes:
        renewed: `spec.renewTime`, as it is written there.
        since: monotonic seconds at which it was first seen so.
        since_wall: the same by the API server's clock, for people.
    """

    renewed: str
    since: float
    since_wall: datetime


def see_lease(before: LeaseSeen | None, renewed: str, now: float, wall: datetime) -> LeaseSeen:
    """Take what was read of a Lease now."""
    if before is not None and before.renewed == renewed:
        return before
    if before is None:
        written = _moment(renewed)
        if written is None:
            return LeaseSeen(renewed, now - STALE_SECONDS - 1.0, wall)
        if wall - written > SKEW:
            return LeaseSeen(renewed, now - (wall - written).total_seconds(), written)
    return LeaseSeen(renewed, now, wall)


def is_stale(seen: LeaseSeen, now: float) -> bool:
    """Whether it has not been renewed for so long that the cluster counts as lost."""
    return now - seen.since > STALE_SECONDS


def seconds_until_stale(seen: LeaseSeen, now: float) -> float | None:
    """None: it is."""
    left = seen.since + STALE_SECONDS - now
    return left if left >= 0 else None


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
