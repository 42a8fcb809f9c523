"""A simulation as tables for the terminal, and as plain values for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from prfaas.simulator import DemandResult, Result


def screen(result: Result) -> str:
    """What happened: first the requests, then pools, links, money, and what the planner said."""
    lines = []
    if result.interrupted:
        lines += [f"Interrupted: what is known of the first {_clock(result.seconds)} after the warm-up.", ""]
    rows = [result.total, *result.demand] if len(result.demand) > 1 else list(result.demand)
    head = ["demand", "arrived", "served", "failed", "remote", *_TTFT, "total mean s", "in time"]
    lines += _rows(head, [_demand(each) for each in rows])
    lines += [
        "",
        *_rows(
            ["pool", "kind", "instances", "paid", "busy", "cost", "resizes", "swings"],
            [
                [
                    pool.name,
                    pool.kind,
                    f"{pool.ready_instances:.2f}",
                    f"{pool.billed_instances:.2f}",
                    _percent(pool.utilisation),
                    f"{pool.cost:.2f}",
                    str(pool.resizes),
                    str(pool.oscillations),
                ]
                for pool in result.pools
            ],
        ),
    ]
    if result.links:
        lines += [
            "",
            *_rows(
                ["link", "GB", "mean Gbit/s", "busiest", "used"],
                [
                    [
                        link.name,
                        f"{link.gigabytes:,.0f}",
                        f"{link.mean_bits_per_second / 1e9:.2f}",
                        f"{link.busiest_bits_per_second / 1e9:.2f}",
                        _percent(link.utilisation),
                    ]
                    for link in result.links
                ],
            ),
        ]
    lines += ["", _money(result)]
    lines += _counts("routed", {str(key): value for key, value in result.reasons.items()})
    lines += _counts("failed", dict(result.total.unserved))
    lines += _counts("continued elsewhere", dict(result.fallbacks))
    if result.cached_share > 0:
        lines.append(f"cached: {_percent(result.cached_share)} of the prompts' tokens")
    if result.notes:
        lines += ["", "what the plans said, last first:"]
        lines += [f"  {_clock(at)}  {note}" for at, note in reversed(result.notes[-5:])]
    return "\n".join(lines)


_TTFT = ("TTFT mean s", "P50", "P90", "P99")


def _demand(each: DemandResult) -> list[str]:
    ttft = each.ttft_seconds
    return [
        each.name,
        f"{each.arrived:,}",
        f"{each.served:,}",
        f"{sum(each.unserved.values()):,}",
        _percent(each.remote_share),
        *(_seconds(value) for value in (ttft.mean, ttft.p50, ttft.p90, ttft.p99)),
        _seconds(each.total_seconds.mean),
        "-" if each.attained_share is None else _percent(each.attained_share),
    ]


def _money(result: Result) -> str:
    per = "" if result.cost_per_1000 is None else f", {result.cost_per_1000:.3g} per 1,000 requests"
    idle = result.decode_idle_share
    return (
        f"{result.served_per_second:.3g} requests/s, {result.output_tokens_per_second:,.0f} output tokens/s; "
        f"cost {result.cost:,.2f} (links {result.link_cost:,.2f}){per}"
        + ("" if idle is None else f"; decode slots idle {_percent(idle)}")
    )


def _counts(title: str, counts: dict[str, int]) -> list[str]:
    if not counts:
        return []
    return [f"{title}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items())]


def document(result: Result) -> dict[str, Any]:
    """For JSON. What is not a number (a threshold above all lengths, no measurement) is null."""
    extra = {"oscillations": result.oscillations, "decode_idle_share": result.decode_idle_share}
    plain: dict[str, Any] = _plain(dataclasses.asdict(result) | extra)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share in (0.0, 1.0) else f"{100 * share:.1f} %"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _rows(head: Sequence[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(head), *rows]
    ]
