"""Throughput over t, as in the paper's Fig. 5: for the terminal, and as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from prfaas.capacity import InvalidInputError
from prfaas.commands.simulate.svg import COLOURS, HEIGHT, WIDTH, Line, chart, number
from prfaas.planner import Plan, Problem
from prfaas.planner.sweep import Point, Shares, Stage, throughput_over_threshold

BAR_COLUMNS = 40
ROWS = 16
POINTS = 64
# A limit that is far above what is served would press everything else flat.
SHOWN_ABOVE = 2.0
MARGIN = 14
_LIMITS = {
    Stage.REMOTE_PREFILL: "remote prefill",
    Stage.LINK: "link",
    Stage.LOCAL_PREFILL: "local prefill",
    Stage.DECODE: "decode",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decode pool over thresholds, with what is marked in it.

    Attributes:
        demand_per_second: that comes.
        planned_tokens, present_tokens: thresholds; None: none.
    """

    pool: str
    points: tuple[Point, ...]
    demand_per_second: float
    planned_tokens: float | None = None
    present_tokens: float | None = None

    @property
    def best(self) -> Point:
        """The highest throughput; of equals, the one with the least that is remote."""
        return max(self.points, key=lambda point: (round(point.throughput, 9), point.threshold_tokens))


def pictures(problem: Problem, plan: Plan, present: Mapping[str, float] | None = None) -> tuple[Picture, ...]:
    """Of each decode pool that something can be remote for, at the plan's sizes and beside the others' load.

    Args:
        present: thresholds in force, by decode pool.
    """
    sizes = {pool.name: pool.instances for pool in plan.pools}
    found = []
    for pool in problem.decode_pools:
        planned = plan.decode_pool(pool.name)
        try:
            points = throughput_over_threshold(
                problem, pool.name, sizes, others=_others(problem, plan, pool.name), points=POINTS
            )
        except InvalidInputError as error:
            raise error.inside("picture") from error
        tokens = planned.threshold_tokens
        if any(route.links and route.decode_pool == pool.name for route in problem.routes):
            found.append(
                Picture(
                    pool.name,
                    points,
                    pool.arrivals_per_second,
                    tokens if tokens is not None and math.isfinite(tokens) else None,
                    (present or {}).get(pool.name),
                )
            )
    return tuple(found)


def _others(problem: Problem, plan: Plan, pool: str) -> Shares:
    """What the flows of other decode pools take of pools and links."""
    instances = {each.name: each.instances * each.utilisation for each in plan.pools}
    mine: dict[str, float] = {}
    links: dict[str, float] = {}
    total: dict[str, float] = {}
    for flow in plan.flows:
        total[flow.prefill_pool] = total.get(flow.prefill_pool, 0.0) + flow.requests_per_second
        if flow.decode_pool == pool:
            mine[flow.prefill_pool] = mine.get(flow.prefill_pool, 0.0) + flow.requests_per_second
        else:
            for link in flow.links:
                links[link] = links.get(link, 0.0) + flow.bits_per_second
    # By requests: the plan does not say whose prompts keep a shared pool busy for how long.
    busy = {
        name: instances[name] * (1 - mine.get(name, 0.0) / requests)
        for name, requests in total.items()
        if requests > 0 and mine.get(name, 0.0) < requests
    }
    return Shares(busy, links)


def sketch(picture: Picture) -> str:
    """Bars for the terminal."""
    step = max(1, len(picture.points) // ROWS)
    chosen = {*picture.points[::step], picture.best, picture.points[-1]}
    shown = sorted(chosen, key=lambda point: point.threshold_tokens)
    top = max(picture.best.throughput, 1e-12)
    best = picture.best
    lines = [
        f"{picture.pool}: requests/s at these sizes over t; most {best.throughput:.3g} at "
        f"t {number(best.threshold_tokens)}, {picture.demand_per_second:.3g} come",
        f"{'t':>7}  {'remote':>6}  {'req/s':>7}",
    ]
    for point in shown:
        length = round(BAR_COLUMNS * point.throughput / top)
        mark = "  <- most" if point is best else ""
        lines.append(
            f"{number(point.threshold_tokens):>7}  {100 * point.remote_share:>5.1f}%  "
            f"{point.throughput:>7.3g}  {'█' * length:{BAR_COLUMNS}}  {_LIMITS[point.binding]}{mark}"
        )
    return "\n".join(lines)


def svg(found: Sequence[Picture]) -> str:
    """One file with a chart for each decode pool, one below the other."""
    block = HEIGHT + 3 * MARGIN + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {block * max(1, len(found))}" '
        f'width="{WIDTH}" font-family="sans-serif" font-size="10">',
        "<style>.grid{stroke:#ddd;fill:none}.line{fill:none;stroke-width:1.6}.y{text-anchor:end}"
        ".x{text-anchor:middle}</style>",
        f'<rect width="{WIDTH}" height="{block * max(1, len(found))}" fill="white"/>',
    ]
    for index, picture in enumerate(found):
        parts.append(f'<g transform="translate(0 {index * block})">{_one(picture)}</g>')
    return "".join(parts) + "</svg>\n"


def _one(picture: Picture) -> str:
    xs = [point.threshold_tokens for point in picture.points]
    top = SHOWN_ABOVE * max(picture.best.throughput, 1e-12)

    def below(values: Sequence[float]) -> list[float]:
        return [value if value <= top else math.nan for value in values]

    lines = [
        Line("throughput", xs, [point.throughput for point in picture.points]),
        Line("limit of remote prefill and links", xs, below([point.remote for point in picture.points])),
        Line("limit of local prefill", xs, below([point.local for point in picture.points])),
        Line("limit of decoding", xs, below([point.decode for point in picture.points])),
        Line("demand", [xs[0], xs[-1]], below([picture.demand_per_second] * 2)),
    ]
    peak = max((value for line in lines for value in line.ys if math.isfinite(value)), default=1.0)
    for name, tokens in (("t of the plan", picture.planned_tokens), ("t in force", picture.present_tokens)):
        if tokens is not None and xs[0] <= tokens <= xs[-1]:
            lines.append(Line(name, [tokens, tokens], [0.0, peak]))
    drawn = chart(lines, x_label="t, tokens", y_label="requests/s")
    body = drawn[: drawn.index("</svg>") + len("</svg>")].replace(
        "<svg ", f'<svg x="0" y="{2 * MARGIN}" width="{WIDTH}" height="{HEIGHT}" ', 1
    )
    title = (
        f"{picture.pool}: most {picture.best.throughput:.3g} requests/s at t "
        f"{number(picture.best.threshold_tokens)}"
    )
    legend = "".join(
        f'<rect x="{20 + index % 3 * 180}" y="{HEIGHT + 2 * MARGIN + 6 + index // 3 * 15}" width="10" '
        f'height="3" fill="{colour}"/>'
        f'<text x="{35 + index % 3 * 180}" y="{HEIGHT + 2 * MARGIN + 11 + index // 3 * 15}">'
        f"{escape(line.name)}</text>"
        for index, (line, colour) in enumerate(zip(lines, COLOURS, strict=False))
    )
    return f'<text x="20" y="18" font-size="12">{escape(title)}</text>{body}{legend}'
