"""A plan as text for the screen."""

from __future__ import annotations

import math

from prfaas.planner import DecodePlan, Plan


def screen(plan: Plan) -> str:
    """Summary, pools, thresholds, flows, links, then everything the reader must know."""
    lines = [plan.summary[:1].upper() + plan.summary[1:] + ".", ""]
    served = f"{plan.served_per_second:.3g} of {plan.demand_per_second:.3g} requests/s"
    lines.append(f"served {served}, cost {plan.cost_per_hour:.2f} per hour, {_gap(plan)}")
    if plan.kept:
        lines.append("the present sizes stay: new ones are not better by more than keepWithin")
    lines += ["", *rows(["pool", "instances", "now", "busy"], [
        [
            pool.name,
            str(pool.instances),
            "-" if pool.before is None else str(pool.before),
            f"{100 * pool.utilisation:.0f} %",
        ]
        for pool in plan.pools
    ])]  # fmt: skip
    lines += ["", *rows(["decode pool", "served/s", "unserved/s", "t (tokens)", "remote"], [
        [
            pool.name,
            f"{pool.served_per_second:.3g}",
            f"{pool.unserved_per_second:.3g}" if pool.unserved_per_second > 1e-5 else "0",
            threshold(pool),
            f"{100 * pool.remote_share:.0f} %",
        ]
        for pool in plan.decode_pools
    ])]  # fmt: skip
    lines += ["", *rows(["prefill pool", "for", "over", "requests/s", "longest TTFT s"], [
        [
            flow.prefill_pool,
            flow.decode_pool,
            ", ".join(flow.links) or "-",
            f"{flow.requests_per_second:.3g}",
            _longest(flow.by_bucket, flow.ttft_seconds),
        ]
        for flow in plan.flows
    ])]  # fmt: skip
    if plan.links:
        lines += ["", *rows(["link", "Gbit/s", "of"], [
            [link.name, f"{link.bits_per_second / 1e9:.2f}", f"{link.usable_bits_per_second / 1e9:g}"]
            for link in plan.links
        ])]  # fmt: skip
    lines += _list("conflicts", [conflict.sentence for conflict in plan.conflicts])
    lines += _list("what binds", [binding.sentence for binding in plan.bindings])
    lines += _list("routes that may not be used", [excluded.reason for excluded in plan.excluded])
    lines += _list("notes", list(plan.notes))
    return "\n".join(lines)


def _gap(plan: Plan) -> str:
    if plan.gap > 0:
        return f"at most {100 * plan.gap:.2g} % less served than possible"
    if plan.cost_gap:
        return f"at most {100 * plan.cost_gap:.2g} % dearer than necessary"
    return "proven best"


def threshold(pool: DecodePlan) -> str:
    """t of a decode pool in words."""
    if pool.threshold_tokens is None:
        return "by length"
    return "none remote" if math.isinf(pool.threshold_tokens) else f"{pool.threshold_tokens:,.0f}"


def _longest(by_bucket: tuple[float, ...], seconds: tuple[float, ...]) -> str:
    used = [each for rate, each in zip(by_bucket, seconds, strict=True) if rate > 1e-6]
    if not used or math.isinf(max(used)):
        return "always busy"
    return f"{max(used):.2f}"


def _list(title: str, sentences: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {sentence}" for sentence in sentences)] if sentences else []


def rows(head: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as they need to be."""
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *body]
    ]
