"""Links between regions: what each decode sidecar measured, added up for the region that receives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prfaas_gateway.engine_report import LinkCounters
from prfaas_gateway.peering.wire import LinkState

_PEAK_HALF_LIFE_SECONDS = 600.0
# A link that has carried this part of its best, and no more, while it was busy, is another link by now.
_FALLEN_SHARE = 0.25
_FALLEN_HALF_LIFE_SECONDS = 5.0
_BITS_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class LinkPace:
    """A link as a router needs it, by two looks at its counters.

    Attributes:
        capacity_bits_per_second: the best that was measured, half forgotten after ten minutes: what a link
            carried once it can carry, until it has not for a while. Half forgotten after five seconds of
            being busy while it carries less than a quarter of that: it was throttled, or leads elsewhere now.
        used_bits_per_second: between the last two looks.
    """

    capacity_bits_per_second: float
    used_bits_per_second: float
    received_bytes: int
    at: float
    busy_seconds: float = 0.0


def pace_of(link: LinkState, before: LinkPace | None, now: float) -> LinkPace | None:
    """How a link goes now; None while nothing was measured.

    Counters that fall (a sidecar that has gone or started anew) tell of no use, for one look.
    """
    goodput = link.goodput_bits_per_second or 0.0
    if before is None:
        first = LinkPace(goodput, 0.0, link.received_bytes, now, link.busy_seconds)
        return first if goodput else None
    elapsed = now - before.at
    faded = before.capacity_bits_per_second * 0.5 ** (elapsed / _PEAK_HALF_LIFE_SECONDS)
    if goodput < _FALLEN_SHARE * before.capacity_bits_per_second:
        busy = max(0.0, link.busy_seconds - before.busy_seconds)
        faded *= 0.5 ** (busy / _FALLEN_HALF_LIFE_SECONDS)
    used = 0.0
    if elapsed > 0 and link.received_bytes >= before.received_bytes:
        used = (link.received_bytes - before.received_bytes) * _BITS_PER_BYTE / elapsed
    return LinkPace(max(goodput, faded, used), used, link.received_bytes, now, link.busy_seconds)


def links_into(region: str, told: Iterable[Iterable[LinkCounters]]) -> tuple[LinkState, ...]:
    """The links that end in ``region``, by what each of its decode sidecars tells; sorted by source."""
    by_source: defaultdict[str, list[LinkCounters]] = defaultdict(list)
    for counters in told:
        for counter in counters:
            if counter.region != region:
                by_source[counter.region].append(counter)
    return tuple(_together(source, region, by_source[source]) for source in sorted(by_source))


def _together(source: str, destination: str, counters: list[LinkCounters]) -> LinkState:
    busy = [counter for counter in counters if counter.streams]
    goodputs = [
        counter.goodput_bits_per_second
        for counter in busy or counters
        if counter.goodput_bits_per_second is not None
    ]
    goodput = None
    if goodputs:
        # Those that receive at the same time share the link; of those that do not, the best one had it alone.
        goodput = sum(goodputs) if busy else max(goodputs)
    return LinkState(
        source=source,
        destination=destination,
        received_bytes=sum(counter.received_bytes for counter in counters),
        busy_seconds=sum(counter.busy_seconds for counter in counters),
        goodput_bits_per_second=goodput,
        rtt_seconds=_mean((counter.rtt_seconds, 1 + counter.streams) for counter in counters),
        retransmits_percent=_mean(
            (counter.retransmits_percent, 1 + counter.received_bytes) for counter in counters
        ),
        streams=sum(counter.streams for counter in counters),
    )


def _mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if known else None
