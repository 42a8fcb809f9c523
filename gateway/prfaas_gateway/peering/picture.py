"""`GET /v1/regions`: how every other region is seen from this gateway, for the operator and for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prfaas.api.snapshot import RegionTarget
from prfaas_gateway.peering.hops import Obstacle, hop_entries
from prfaas_gateway.peering.region import RegionView
from prfaas_gateway.peering.wire import LinkState, PeerPod, link_fields

NO_ADDRESS = "the region has no peer address: what is offered here can be used there, but nothing of it here"


@dataclass(slots=True)
class Standing:
    """How the exchange with a region stands.

    Attributes:
        checked_at: of `obstacle` or the last success, in seconds since 1970; None before the first try.
        obstacle: what the last try failed at; None when it did not.
        refused: the last one who said to be of this region and was not let in, `refused_at` when.
    """

    connected: bool = False
    checked_at: float | None = None
    obstacle: Obstacle | None = None
    stops: int = 0
    refused: Obstacle | None = None
    refused_at: float | None = None
    refusals: int = 0


def region_entry(
    target: RegionTarget,
    view: RegionView,
    standing: Standing,
    *,
    usable: bool,
    own_links: Sequence[LinkState],
    wall: float,
) -> dict[str, Any]:
    """One region."""
    seen = standing.checked_at is not None and target.peer_address is not None
    ahead = view.clock_ahead_seconds if standing.connected else None
    age = view.age_seconds(wall)
    return {
        "name": target.name,
        "clusters": list(target.clusters) or [target.name],
        "peer_address": target.peer_address,
        "message": None if target.peer_address is not None else NO_ADDRESS,
        "usable": usable,
        "code": standing.obstacle.code if standing.obstacle is not None else None,
        "cluster": view.cluster or None,
        "age_seconds": _rounded(age),
        "hops": hop_entries(standing.obstacle, ahead) if seen else [],
        "checked_at": _rounded(standing.checked_at),
        "exchange": {
            "connected": standing.connected,
            "source": _source(view),
            "version": view.version,
            "clock_ahead_seconds": _rounded(view.clock_ahead_seconds),
            "stops": standing.stops,
            "ignored_entries": view.ignored,
        },
        "pools": _pools(view.pods.values()),
        "links": [link_fields(link) for link in own_links if link.source == target.name],
        "links_there": [link_fields(link) for link in view.links],
        "report": view.report,
        "refused": _refused(standing),
    }


def _source(view: RegionView) -> str:
    if view.known_at is None:
        return "none"
    return "disk" if view.from_disk else "peer"


def _pools(pods: Iterable[PeerPod]) -> list[dict[str, Any]]:
    pools: dict[tuple[str, str], dict[str, Any]] = {}
    for pod in pods:
        entry = pools.setdefault(
            (pod.namespace, pod.pool),
            {
                "namespace": pod.namespace,
                "name": pod.pool,
                "kind": pod.kind,
                "pods": 0,
                "ready": 0,
                "draining": 0,
                "queued_requests": 0,
                "running_requests": 0,
            },
        )
        entry["pods"] += 1
        entry["ready"] += pod.takes_requests
        entry["draining"] += pod.draining
        entry["queued_requests"] += pod.queued_requests
        entry["running_requests"] += pod.running_requests
    return [pools[name] for name in sorted(pools)]


def _refused(standing: Standing) -> dict[str, Any] | None:
    if standing.refused is None:
        return None
    return {
        "hop": standing.refused.hop,
        "code": standing.refused.code,
        "message": standing.refused.message,
        "remedy": standing.refused.remedy,
        "at": _rounded(standing.refused_at),
        "count": standing.refusals,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
