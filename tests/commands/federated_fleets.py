"""Two regions in the states that people meet, as the API server of the hub or of a member gives them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prfaas.commands.status.judge import operator_view, pool_view
from prfaas.commands.status.regions import link_view, region_view
from prfaas.commands.status.view import FleetView
from tests.commands import fleets
from tests.commands.fleets import NOW, Object, at, condition

LATELY = NOW - timedelta(minutes=4)


def lately(type_: str, status: str, reason: str, message: str = "") -> Object:
    return {**condition(type_, status, reason, message), "lastTransitionTime": at(LATELY)}


def pool_report(name: str, ready: str = "True") -> Object:
    return {"kind": "PrefillPool", "namespace": "serving", "name": name, "ready": ready, "reason": "Serving"}


def region(name: str, *changes: Object, here: bool = False, pools: int = 3) -> Object:
    usual = [
        condition("Ready", "True", "OwnRegion" if here else "Reached"),
        condition("Reachable", "True", "OwnRegion" if here else "Reached"),
        condition("TrustBundleValid", "True", "BundleValid"),
        *([condition("HubReachable", "True", "NoHub")] if here else []),
    ]
    by_type = {each["type"]: each for each in (*usual, *changes)}
    reports = [pool_report(f"p{number}") for number in range(pools)]
    return {
        "kind": "Region",
        "metadata": {"name": name, "generation": 3},
        "spec": {"peer": {"address": f"gw.{name}.example.org:7410"}},
        "status": {"clusters": [{"name": name, "pools": reports}], "conditions": [*by_type.values()]},
    }


def link(source: str, destination: str, *changes: Object, **status: Any) -> Object:
    usual = [
        condition("Healthy", "True", "Measured"),
        condition("Congested", "False", "NotSaturated"),
        condition("Down", "False", "Carries"),
    ]
    by_type = {each["type"]: each for each in (*usual, *changes)}
    figures = {
        "goodputBitsPerSecond": 9_400_000_000,
        "rttSeconds": 0.081,
        "utilisationPercent": 38,
        "spentBytes": 1_300_000_000_000,
    }
    return {
        "kind": "KVLink",
        "metadata": {"name": f"{source}-{destination}", "generation": 3},
        "spec": {
            "source": {"region": source},
            "destination": {"region": destination},
            "budgetBytesPerMonth": 10 * 1024**4,
        },
        "status": {**figures, **status, "conditions": [*by_type.values()]},
    }


def placed_pool(**status: Any) -> Object:
    there = {"region": "us", "desiredReplicas": 2, "readyReplicas": 2, "ready": "True", "reason": "Serving"}
    usual = {
        "clusters": [{"name": "eu", **there, "region": "eu"}, {"name": "us", **there}],
        "placed": "eu 2/2, us 2/2",
    }
    return fleets.pool("PrefillPool", "long", **(usual | status))


def fleet(regions: list[Object], links: list[Object], pools: list[Object]) -> FleetView:
    return FleetView(
        at=NOW,
        scope="namespace serving",
        operator=operator_view([fleets.lease()], NOW),
        regions=tuple(region_view(each, NOW) for each in regions),
        links=tuple(link_view(each) for each in links),
        pools=tuple(pool_view(each, NOW) for each in pools),
    )


def two_regions() -> FleetView:
    return fleet([region("eu", here=True), region("us")], [link("us", "eu")], [placed_pool()])


def link_down() -> FleetView:
    down = lately("Down", "True", "TransfersFail", "PeerUnreachable for 4 of 4 transfers in the last minute.")
    return fleet([region("eu", here=True), region("us")], [link("us", "eu", down)], [placed_pool()])


def hub_down() -> FleetView:
    text = "The hub does not answer: Unreachable. Everything goes on with what was last wanted."
    silent = (
        lately("Ready", "False", "HubSilent", text),
        lately("HubReachable", "False", "HubSilent", text),
    )
    return fleet([region("us", *silent, here=True), region("eu")], [link("us", "eu")], [])


def region_down() -> FleetView:
    gone = (
        lately("Ready", "False", "ConnectionFailed", "TCP: gw.us.example.org:7410 does not answer"),
        lately("Reachable", "False", "ConnectionFailed", "TCP: gw.us.example.org:7410 does not answer"),
        lately("ReportFresh", "False", "LeaseStale", "cluster us was last heard of at 2026-01-02T11:55:30Z"),
    )
    stale = placed_pool(placed="eu 2/2, us 2/2 (stale)")
    stale["status"]["clusters"][1]["stale"] = True
    return fleet([region("eu", here=True), region("us", *gone)], [link("us", "eu")], [stale])


def rotation() -> FleetView:
    two = condition(
        "TrustBundleValid", "True", "Rotating", "The bundle has 2 authorities: one is being replaced."
    )
    return fleet([region("eu", here=True), region("us", two)], [link("us", "eu")], [placed_pool()])
