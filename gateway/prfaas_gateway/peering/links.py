"""Links between regions: what each decode sidecar measured, added up for the region that receives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from prfaas_gateway.engine_report import LinkCounters
from prfaas_gateway.peering.wire import LinkState


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
