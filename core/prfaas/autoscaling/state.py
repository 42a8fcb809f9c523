"""What one decision hands to the next. Frozen, bounded, and made of numbers and text only, so that it can be
stored. An empty one is always good: nothing shrinks until a whole window has been seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from prfaas.autoscaling.forecast import Demand

WANTED_MAX = 256
STARTS_MAX = 32
FLAPPING_SECONDS = 3600.0
CLOSINGS_MAX = 8
SETTLE_DOUBLINGS_MAX = 4


@dataclass(frozen=True, slots=True)
class PoolState:
    """Attributes:
    since: when the pool was first seen, in seconds.
    wanted: (from when, instances): what was wanted, each until the next; oldest first.
    grew_at, shrank_at: the last decisions to do so.
    busy_at: when there was last any load.
    start_seconds: the last 32 measured starts.
    """

    since: float
    wanted: tuple[tuple[float, int], ...] = ()
    grew_at: float | None = None
    shrank_at: float | None = None
    busy_at: float | None = None
    start_seconds: tuple[float, ...] = ()
    demand: Demand = field(default_factory=Demand)

    @property
    def usual_start_seconds(self) -> float | None:
        """Median of the last starts: half of them may be wild and it stays sensible."""
        return median(self.start_seconds) if self.start_seconds else None

    def most_wanted(self, window_seconds: float, now: float) -> int | None:
        """The most that was wanted at any time of the window; None while it is not all seen yet."""
        if now - self.since < window_seconds or not self.wanted:
            return None
        return max(self._in_window(window_seconds, now))

    def least_wanted(self, window_seconds: float, now: float) -> int | None:
        """The least that was wanted at any time of the window, as far as it was seen."""
        return min(self._in_window(window_seconds, now)) if self.wanted else None

    def _in_window(self, window_seconds: float, now: float) -> list[int]:
        begin = now - window_seconds
        found = [self.wanted[-1][1]]
        for index in range(len(self.wanted) - 1, -1, -1):
            found.append(self.wanted[index][1])
            if self.wanted[index][0] <= begin:
                break
        return found


@dataclass(frozen=True, slots=True)
class LinkMemory:
    """Attributes:
    full: it was full, and has not had room again for long enough.
    room_since: since when it has had room, while it counts as full or down.
    closed_at: when it became full or went down, of the last hour, the last eight: each of them doubles how
        long it has to have room before it counts as having it.
    """

    full: bool = False
    room_since: float | None = None
    closed_at: tuple[float, ...] = ()

    def closed(self, now: float) -> LinkMemory:
        """It is full or down now."""
        recent = tuple(each for each in self.closed_at if now - each <= FLAPPING_SECONDS)
        return LinkMemory(full=True, closed_at=recent if self.full else (*recent, now)[-CLOSINGS_MAX:])

    def settle_seconds(self, once: float) -> float:
        """So long it has to have room."""
        return once * 2.0 ** min(max(0, len(self.closed_at) - 1), SETTLE_DOUBLINGS_MAX)


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered, by names of pools and links."""

    pools: Mapping[str, PoolState] = field(default_factory=dict)
    links: Mapping[str, LinkMemory] = field(default_factory=dict)


def noted(
    wanted: tuple[tuple[float, int], ...], now: float, value: int, keep_seconds: float
) -> tuple[tuple[float, int], ...]:
    """The row after one more value, without what has ended before `keep_seconds` ago."""
    rows = wanted if wanted and wanted[-1][1] == value else (*wanted, (now, value))
    first = 0
    while first + 1 < len(rows) and rows[first + 1][0] <= now - keep_seconds:
        first += 1
    return rows[first:][-WANTED_MAX:]
