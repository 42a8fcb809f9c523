"""How full the paths from the own region are, by what its prefill pods say that send over them.

A sender knows what no receiver can see: whether KV is late because the path takes no more of it, or because
it is not computed yet. So a path out of the own region is judged by them; the KVLink adds what was declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prfaas.autoscaling import LinkObservation, LinkState
from prfaas_operator.planning.autoscale.loads import Interval

WINDOW_SECONDS = 60.0
# With less of it a rate says little about what the path can carry.
TELLING_WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PathRound:
    """What went over one path between two rounds, by all pods together.

    Attributes:
        seconds: between the rounds.
        waiting_share: part of that time in which somebody had KV that the path did not take, as if pods
            waited independently of each other.
        waiting_seconds, waiting_bytes: of all pods added up.
    """

    at: float
    seconds: float
    sent_bytes: float
    waiting_share: float
    waiting_seconds: float
    waiting_bytes: float


@dataclass(frozen=True, slots=True)
class PathUse:
    """The last minute of a path.

    Attributes:
        capacity_bits_per_second: what it carried while KV waited for it; None while it hardly ever did.
    """

    used_share: float
    sent_bits_per_second: float
    capacity_bits_per_second: float | None


def round_of(parts: Sequence[Interval], region: str, at: float) -> PathRound | None:
    """One round from what each pod did; None when none has told twice."""
    if not parts:
        return None
    free, sent, waited, waited_bytes = 1.0, 0.0, 0.0, 0.0
    for part in parts:
        each = part.sent(region)
        free *= 1 - min(1.0, each.waiting_seconds / part.seconds)
        sent += each.sent_bytes
        waited += each.waiting_seconds
        waited_bytes += each.waiting_bytes
    seconds = max(part.seconds for part in parts)
    return PathRound(at, seconds, sent, 1 - free, waited, waited_bytes)


def within_window(rounds: Iterable[PathRound], now: float) -> tuple[PathRound, ...]:
    """Those that count still."""
    return tuple(each for each in rounds if now - each.at < WINDOW_SECONDS)


def use_of(rounds: Sequence[PathRound]) -> PathUse | None:
    """None without any round."""
    seconds = sum(each.seconds for each in rounds)
    if seconds <= 0:
        return None
    share = sum(each.waiting_share * each.seconds for each in rounds) / seconds
    waited = sum(each.waiting_seconds for each in rounds)
    capacity = None
    if waited >= TELLING_WAIT_SECONDS:
        # Pods that wait at the same time share the path: their rates add up, their times do not.
        together = sum(each.waiting_share * each.seconds for each in rounds)
        capacity = sum(each.waiting_bytes for each in rounds) * 8 / together or None
    return PathUse(share, sum(each.sent_bytes for each in rounds) * 8 / seconds, capacity)


def merged(
    links: Iterable[LinkObservation], uses: Mapping[str, PathUse], own_region: str
) -> tuple[LinkObservation, ...]:
    """KVLinks, those out of the own region by what its pods say of them.

    Args:
        links: as KVLinks have them. Their status is the destination's, of which nothing may be known here.
        uses: by destination.
    """
    found = {(each.source_region, each.target_region): each for each in links}
    for region, use in uses.items():
        ends = (own_region, region)
        if region == own_region:
            continue
        found[ends] = _with_use(found.get(ends, LinkObservation(*ends)), use)
    return tuple(found[ends] for ends in sorted(found))


def _with_use(link: LinkObservation, use: PathUse) -> LinkObservation:
    state = link.state
    if state is LinkState.UNKNOWN:
        # Pods that would send over it tell of it: it is not unknown, at most it is idle.
        state = LinkState.HEALTHY
    capacity = link.capacity_bits_per_second
    measured = use.capacity_bits_per_second
    if measured is not None:
        capacity = measured if capacity is None else min(capacity, measured)
    return replace(
        link,
        state=state,
        capacity_bits_per_second=capacity,
        goodput_bits_per_second=use.sent_bits_per_second,
        utilisation=use.used_share,
        age_seconds=0.0,
    )
