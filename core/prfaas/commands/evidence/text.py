"""How figures and prose are written in the tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from prfaas.simulator import Result

BAR_COLUMNS = 30
PROSE_COLUMNS = 110
TIMES_MAX = 100
Results = Mapping[str, Result]


def mean(value: float | None) -> float:
    """NaN where nothing was measured."""
    return float("nan") if value is None else value


def good_per_cost(result: Result) -> float:
    """Requests in time per unit of money."""
    known = result.total.arrived - result.total.unfinished
    return (result.total.attained_share or 0.0) * known / result.cost


def less(share: float) -> str:
    """What is saved, as a change."""
    return f"{round(-100 * share):+d} %"


def times(ratio: float) -> str:
    """Beyond a hundred the other side has next to nothing, and how little says nothing."""
    return f"{ratio:.2f}x" if ratio <= TIMES_MAX else f"over {TIMES_MAX}x"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def share_of(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def yes(reached: bool) -> str:
    return "yes" if reached else "no"


def bar(value: float, largest: float) -> str:
    return "█" * max(1, round(BAR_COLUMNS * value / largest)) if value > 0 else ""


def prose(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), PROSE_COLUMNS, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
