"""What was found, as a table and beside the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MOST_WRITES_PER_SECOND = 10.0
CONVERGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """Writes are per second, by resource; `Leases` are counted apart.

    Attributes:
        create_seconds: that making the pools took.
        converge_seconds: from then until the hub showed all of them ready in their regions.
    """

    regions: int
    pools: int
    create_seconds: float
    converge_seconds: float
    rest_writes: Mapping[str, float]
    steady_writes: Mapping[str, float]


def but_leases(writes: Mapping[str, float]) -> float:
    """Writes per second without Leases."""
    return sum(count for name, count in writes.items() if name != "Leases")


def targets_missed(result: Result) -> Iterator[str]:
    """What was to be and is not."""
    if result.converge_seconds > CONVERGE_SECONDS:
        yield f"converged in {result.converge_seconds:.0f} s rather than {CONVERGE_SECONDS:.0f} s"
    if but_leases(result.rest_writes) > 0:
        yield f"{but_leases(result.rest_writes):.2f} writes/s although nothing changes"
    if but_leases(result.steady_writes) > MOST_WRITES_PER_SECOND:
        yield (
            f"{but_leases(result.steady_writes):.1f} writes/s while every region changes, rather than "
            f"{MOST_WRITES_PER_SECOND:.0f}"
        )


def table(result: Result) -> str:
    """Rows of Markdown."""
    rest, steady = result.rest_writes, result.steady_writes
    detail = ", ".join(f"{name} {count:.1f}" for name, count in sorted(steady.items()) if name != "Leases")
    rows = [
        f"{result.regions} regions, {result.pools} pools, one hub's API server; "
        "the regions are simulated, without pods.",
        "",
        "| | measured | target |",
        "|---|---|---|",
        f"| all pools shown ready in the hub, after they were applied ({result.create_seconds:.0f} s) | "
        f"{result.converge_seconds:.0f} s | {CONVERGE_SECONDS:.0f} s |",
        f"| writes to the hub while nothing changes | {but_leases(rest):.2f}/s | 0 |",
        f"| Leases meanwhile | {rest.get('Leases', 0.0):.1f}/s | |",
        f"| writes to the hub while numbers of every region change all the time | {but_leases(steady):.1f}/s "
        f"({detail}) | {MOST_WRITES_PER_SECOND:.0f}/s |",
    ]
    return "\n".join(rows)
