"""Line charts as SVG text: axes with round numbers and a legend. No scripts, no fonts, no fetches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 8, 40
COLOURS = ("#0b6cb3", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0f766e", "#be123c", "#475569")
LINES_MAX = len(COLOURS)
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A named line; points whose value is not finite leave a gap.

    Attributes:
        steps: a value holds until the next point.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    steps: bool = False


def chart(lines: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """One chart; beyond eight lines the rest is named in the legend as left out."""
    shown = lines[:LINES_MAX]
    finite = [(x, y) for line in shown for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    x_low, x_high = min((x for x, _ in finite), default=0.0), max((x for x, _ in finite), default=1.0)
    y_ticks = ticks(0.0, max((y for _, y in finite), default=1.0))
    x_ticks = [tick for tick in ticks(x_low, x_high) if x_low <= tick <= x_high]
    y_high = y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / y_high * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for tick in y_ticks:
        _, y = at(x_low, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 5}" y="{y + 3.5:.1f}">{number(tick)}</text>')
    for tick in x_ticks:
        x, _ = at(tick, 0.0)
        parts.append(f'<text class="x" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}">{number(tick)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="x" x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="x" transform="translate(12 {middle:.0f}) rotate(-90)">{escape(y_label)}</text>'
    )
    for line, colour in zip(shown, COLOURS, strict=False):
        path = _path(line, at)
        if path:
            parts.append(f'<path class="line" stroke="{colour}" d="{path}"/>')
    parts.append("</svg>")
    return "".join(parts) + _legend(lines)


def _path(line: Line, at: object) -> str:
    assert callable(at)  # noqa: S101 (for mypy)
    steps: list[str] = []
    last_y: float | None = None
    for x, y in zip(line.xs, line.ys, strict=True):
        if not math.isfinite(y):
            last_y = None
            continue
        across, up = at(x, y)
        if last_y is None:
            steps.append(f"M{across:.1f} {up:.1f}")
        elif line.steps:
            steps.append(f"H{across:.1f}V{up:.1f}")
        else:
            steps.append(f"L{across:.1f} {up:.1f}")
        last_y = up
    return "".join(steps)


def _legend(lines: Sequence[Line]) -> str:
    entries = [
        f'<span><i style="background:{colour}"></i>{escape(line.name)}</span>'
        for line, colour in zip(lines, COLOURS, strict=False)
    ]
    if len(lines) > LINES_MAX:
        entries.append(f"<span>and {len(lines) - LINES_MAX} more, not drawn</span>")
    return f'<div class="legend">{"".join(entries)}</div>' if len(lines) > 1 else ""


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about five of them."""
    span = high - low
    if not span > 0:
        return [low, low + 1.0]
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= TICKS)
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float) -> str:
    """Short: 1200 is 1.2k."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"
