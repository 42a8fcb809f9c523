"""When remote prefill breaks its objective: back to local by itself, and careful attempts to return.

Counted are requests that were prefilled remotely, and how many of them were late; old ones fade. It falls
when it is certain at 95 % (Wilson's lower bound) that more than the allowed share is late, and those that
stayed local meanwhile were not late as often: an engine that is slow for everybody is no reason to send less
away. After a hold it returns on probation: the next breach needs fewer requests to show, and holds twice as
long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_Z = 1.96


@dataclass(frozen=True, slots=True)
class GuardRule:
    """How much lateness is too much.

    Attributes:
        late_share_max: of remote requests that may miss the objective.
        fewest: requests that have to be seen before anything is concluded; on probation a quarter.
        half_life_seconds: after which an observation counts half.
    """

    late_share_max: float = 0.05
    fewest: float = 20.0
    half_life_seconds: float = 120.0
    hold_seconds: float = 60.0
    longest_hold_seconds: float = 1800.0
    probation_seconds: float = 600.0


DEFAULT_GUARD_RULE = GuardRule()


@dataclass(frozen=True, slots=True)
class Guard:
    """What has been seen. Times are those of the caller's clock.

    Attributes:
        fallen_until: until when everything stays local; None or past: it does not.
        falls: in a row, each holding twice as long.
        at: of the last observation.
    """

    remote: float = 0.0
    remote_late: float = 0.0
    local: float = 0.0
    local_late: float = 0.0
    at: float = 0.0
    fallen_until: float | None = None
    falls: int = 0

    def fallen(self, now: float) -> bool:
        """Whether everything stays local now."""
        return self.fallen_until is not None and now < self.fallen_until


def watched(
    guard: Guard, *, remote: bool, late: bool, now: float, rule: GuardRule = DEFAULT_GUARD_RULE
) -> Guard:
    """The guard after a request has had its first token."""
    if guard.fallen(now):
        return guard
    # What has happened before a hold says nothing about the time after it.
    returns = guard.fallen_until is not None and guard.at < guard.fallen_until
    fade = 0.0 if returns else math.exp2(-max(0.0, now - guard.at) / rule.half_life_seconds)
    guard = replace(
        guard,
        remote=guard.remote * fade + remote,
        remote_late=guard.remote_late * fade + (remote and late),
        local=guard.local * fade + (not remote),
        local_late=guard.local_late * fade + (not remote and late),
        at=now,
    )
    on_probation = guard.fallen_until is not None and now - guard.fallen_until < rule.probation_seconds
    if guard.falls and guard.fallen_until is not None and not on_probation:
        guard = replace(guard, falls=0, fallen_until=None)
    fewest = rule.fewest / 4 if on_probation else rule.fewest
    if guard.remote < fewest or wilson_low(guard.remote_late, guard.remote) <= rule.late_share_max:
        return guard
    if guard.local >= rule.fewest / 4 and guard.local_late * guard.remote >= guard.remote_late * guard.local:
        return guard
    hold = min(rule.longest_hold_seconds, rule.hold_seconds * 2.0**guard.falls)
    return replace(guard, fallen_until=now + hold, falls=guard.falls + 1)


def wilson_low(hits: float, seen: float) -> float:
    """Lower end of Wilson's 95 % interval for a share."""
    if seen <= 0:
        return 0.0
    share, spread = hits / seen, _Z * _Z / seen
    root = math.sqrt(max(0.0, share * (1 - share) / seen + spread / (4 * seen)))
    return max(0.0, (share + spread / 2 - _Z * root) / (1 + spread))
