"""Links of a cluster's objects, as a scenario has them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prfaas.api.v1alpha1 import KVLinkSpec, KVLinkStatus
from prfaas.commands.plan.changes import link_of
from prfaas.commands.plan.live_objects import Live
from prfaas.commands.plan.live_pools import PlacedPool, is_decode, is_down, parsed

GIGA = 1e9
GIB_PER_GB = 1.073741824
AMPLE_GBITS = 10_000.0


@dataclass(frozen=True, slots=True)
class LinkNow:
    """A link as it is now."""

    name: str
    bits_per_second: float | None
    capacity_bits_per_second: float | None
    utilisation_percent: int | None
    is_down: bool


def prefill_side(region: str) -> str:
    """Prefill pools of a region are a place of their own, so that t divides also what stays in it."""
    return f"{region} prefill"


def links_of(
    live: Live, pools: Sequence[PlacedPool], changes: Sequence[str], notes: list[str]
) -> tuple[list[dict[str, Any]], tuple[LinkNow, ...]]:
    asked = dict(filter(None, map(link_of, changes)))
    sources = {pool.region for pool in pools if not is_decode(pool)}
    targets = {pool.region for pool in pools if is_decode(pool)}
    links: list[dict[str, Any]] = []
    seen: list[LinkNow] = []
    known: set[str] = set()
    for body in live.links:
        name = body["metadata"]["name"]
        spec, status = parsed(KVLinkSpec, body, "spec"), parsed(KVLinkStatus, body, "status")
        known.add(name)
        goodput, down = status.goodput_bits_per_second, is_down(status)
        seen.append(LinkNow(name, goodput, spec.capacity_bits_per_second, status.utilisation_percent, down))
        source, target = spec.source.region, spec.destination.region
        if source not in sources or target not in targets:
            continue
        spent = (
            spec.budget_bytes_per_month is not None
            and (status.spent_bytes or 0) >= spec.budget_bytes_per_month
        )
        bits = spec.capacity_bits_per_second or goodput
        gigabits = asked.get(name, None if bits is None else bits / GIGA)
        if name not in asked and (down or spent or not gigabits):
            why = "is down" if down else "has spent its budget" if spent else "was never measured"
            notes.append(f"link {name} {why}: left out; --set link.{name}=5Gbit asks what if")
            continue
        if spec.capacity_bits_per_second is None and name not in asked:
            notes.append(f"link {name}: its measured goodput counts as all that it can carry")
        entry: dict[str, Any] = {
            "name": name,
            "source": prefill_side(source),
            "target": target,
            "gbitsPerSecond": gigabits,
        }
        if status.rtt_seconds:
            entry["rttSeconds"] = status.rtt_seconds
        if spec.price_per_gibibyte:
            entry["pricePerGigabyte"] = spec.price_per_gibibyte / GIB_PER_GB
        links.append(entry)
    for source in sorted(sources):
        for target in sorted(targets):
            name = f"{source}-{target}"
            if source == target:
                name = f"within {source}"
                links.append(_made_up(name, source, target, AMPLE_GBITS))
                notes.append(f"within {source} the network counts as no limit")
            elif name not in known and name in asked:
                links.append(_made_up(name, source, target, asked[name]))
            elif name not in known:
                notes.append(f"there is no KVLink {name}; --set link.{name}=5Gbit asks what if")
    return links, tuple(seen)


def _made_up(name: str, source: str, target: str, gigabits: float) -> dict[str, Any]:
    return {
        "name": name,
        "source": prefill_side(source),
        "target": target,
        "gbitsPerSecond": gigabits,
    }
