"""What a cluster does now beside what a plan would do, for the screen and for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from prfaas.commands.plan.live_scenario import LiveScenario
from prfaas.commands.plan.text import rows, screen, threshold
from prfaas.planner import Goal, Plan


def present_thresholds(found: LiveScenario) -> dict[str, float]:
    """Thresholds in force, by decode pool."""
    return {
        route.decode_pool: float(route.threshold_tokens)
        for route in found.routes
        if route.threshold_tokens is not None
    }


def beside(found: LiveScenario, plan: Plan, where: str) -> str:
    """Now and then, the plan itself, and what was assumed."""
    planned = {pool.name: pool for pool in plan.pools}
    decode = {pool.name: pool for pool in plan.decode_pools}
    links = {link.name: link for link in plan.links}
    lines = [f"Now in {where}, and by the plan:", ""]
    lines += rows(
        ["pool", "region", "ready", "wanted", "plan", "mode"],
        [
            [
                pool.name,
                pool.region,
                str(pool.ready),
                str(pool.wanted),
                str(planned[pool.name].instances) if pool.name in planned else "-",
                "held" if pool.status.hold is not None else str(pool.spec.scaling.mode),
            ]
            for pool in found.pools
        ],
    )
    shares = {name: f"{100 * pool.remote_share:.0f} %" for name, pool in decode.items()}
    if found.routes:
        lines += ["", *rows(["route", "mode", "t now", "t plan", "remote now", "remote plan"], [
            [
                route.name,
                route.mode,
                "-" if route.threshold_tokens is None else f"{route.threshold_tokens:,}",
                threshold(decode[route.decode_pool]) if route.decode_pool in decode else "-",
                "-" if route.remote_percent is None else f"{route.remote_percent:.0f} %",
                shares.get(route.decode_pool, "-"),
            ]
            for route in found.routes
        ])]  # fmt: skip
    if found.links:
        lines += ["", *rows(["link", "Gbit/s now", "may carry", "used", "plan"], [
            [
                link.name,
                "-" if link.bits_per_second is None else f"{link.bits_per_second / 1e9:.2f}",
                "-" if link.capacity_bits_per_second is None else f"{link.capacity_bits_per_second / 1e9:g}",
                "down" if link.is_down else "-" if link.utilisation_percent is None
                else f"{link.utilisation_percent} %",
                f"{links[link.name].bits_per_second / 1e9:.2f}" if link.name in links else "left out",
            ]
            for link in found.links
        ])]  # fmt: skip
    lines += ["", "The plan:", ""]
    if plan.goal is Goal.MOST_SERVED:
        asked = plan.demand_per_second / plan.factor if plan.factor > 0 else 0.0
        lines += [
            f"{plan.served_per_second:.3g} requests/s could be served, {plan.factor:.3g} times the "
            f"{asked:.3g} that come; all figures below are at that load.",
            "",
        ]
    lines += [screen(plan)]
    lines += ["", "assumed:", *(f"  {note}" for note in found.assumed)] if found.assumed else []
    return "\n".join(lines)


def now_document(found: LiveScenario) -> Mapping[str, Any]:
    """The same for programs."""
    return {
        "pools": [
            {
                "name": pool.name,
                "kind": pool.kind,
                "region": pool.region,
                "mode": str(pool.spec.scaling.mode),
                "wanted": pool.wanted,
                "ready": pool.ready,
                "held": pool.status.hold is not None,
            }
            for pool in found.pools
        ],
        "routes": [dataclasses.asdict(route) for route in found.routes],
        "links": [dataclasses.asdict(link) for link in found.links],
    }
