"""How long a plan takes, from one route to fifty regions of twenty pools."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

from prfaas.capacity import DecodeRate, TruncatedLogNormal, Wire, paper
from prfaas.planner import (
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    PlanTimeoutError,
    PrefillPool,
    Problem,
    Quota,
    direct_routes,
    plan,
)
from prfaas.planner.paper import paper_problem

MODELS = 5
POOLS_PER_REGION = 4 * MODELS
NEIGHBOURS = 3
GIGABITS = (5.0, 10.0, 25.0, 100.0)
HEADROOM = 0.85
"""Of the limit is what the planner is told: HiGHS ends late by an iteration."""
SMALL_BUCKETS, LARGE_BUCKETS = 16, 8


@dataclass(frozen=True, slots=True)
class Size:
    """One point of the growth curve.

    Attributes:
        regions: 0 is the paper's system, one route over one link.
        limit_seconds: what a plan may take, and what the planner is told.
        gap: at which the planner may stop.
    """

    regions: int
    limit_seconds: float
    gap: float


SIZES = (
    Size(0, 0.020, 1e-4),
    Size(2, 1.0, 0.01),
    Size(5, 2.0, 0.01),
    Size(10, 2.0, 0.02),
    Size(20, 10.0, 0.02),
    Size(50, 30.0, 0.02),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Times of one size, in seconds; `gap` is the larger one of served and cost, relative."""

    regions: int
    pools: int
    routes: int
    limit_seconds: float
    best_seconds: float
    worst_seconds: float
    cpu_seconds: float
    served_share: float
    gap: float | None


def fleet(regions: int) -> Problem:
    """Regions in a ring, each linked with its nearest on both sides; five models in every region.

    Each model has a fast and a slow prefill pool and two decode pools per region. Prices, demand and links
    differ from region to region by a fixed pattern. Nothing is drawn by chance.
    """
    prefill: list[PrefillPool] = []
    decode: list[DecodePool] = []
    quotas: list[Quota] = []
    links: list[Link] = []
    for region, model in itertools.product(range(regions), range(MODELS)):
        cluster, name = f"r{region:02}", f"r{region:02}-m{model}"
        dear = 1 + ((region * 7 + model) % 5) / 4
        for kind, curve, price, most in (
            ("fast", paper.PREFILL_H200, 20.0, 12),
            ("slow", paper.PREFILL_H20, 10.0, 24),
        ):
            prefill.append(
                PrefillPool(
                    f"{name}-{kind}",
                    cluster,
                    f"m{model}",
                    curve,
                    Instances(maximum=most, accelerators_each=8, price_per_hour=price * dear),
                    utilisation_max=0.85,
                )
            )
        decode.extend(
            DecodePool(
                f"{name}-d{half}",
                cluster,
                f"m{model}",
                kv=paper.KV,
                decode=DecodeRate(0.025, 20, 512 + 128 * model),
                lengths=TruncatedLogNormal(9.0 + 0.2 * model, 1.0, 128, paper.LONGEST_TOKENS),
                arrivals_per_second=1 + (region * 3 + model * 5 + half) % 4,
                instances=Instances(maximum=24, accelerators_each=8, price_per_hour=8 * dear),
                utilisation_max=0.9,
            )
            for half in range(2)
        )
    for region in range(regions):
        cluster = f"r{region:02}"
        own = {pool.name for pool in prefill if pool.cluster == cluster}
        own |= {pool.name for pool in decode if pool.cluster == cluster}
        quotas.append(Quota(cluster, frozenset(own), 8 * 24 * MODELS))
        for step in range(1, min(NEIGHBOURS, (regions - 1) // 2 + regions % 2) + 1):
            other = f"r{(region + step) % regions:02}"
            gigabits = GIGABITS[(region + step) % len(GIGABITS)]
            links += [
                Link(f"{one}-{two}", one, two, gigabits * 1e9, 0.8, 0.03, 0.01)
                for one, two in ((cluster, other), (other, cluster))
            ]
    unique = tuple({link.name: link for link in links}.values())
    return Problem(
        prefill_pools=tuple(prefill),
        decode_pools=tuple(decode),
        routes=direct_routes(prefill, decode, unique, wire=Wire(token_ratio=1.45)),
        links=unique,
        quotas=tuple(quotas),
    )


def measure(*, rounds: int, sizes: tuple[Size, ...] = SIZES) -> list[Result]:
    """Plan each size `rounds` times, the largest ones once. Making the problems is not measured."""
    return [_measured(size, rounds if size.limit_seconds <= 2 else 1) for size in sizes]


def _measured(size: Size, rounds: int) -> Result:
    single = size.regions == 0
    problem = paper_problem() if single else fleet(size.regions)
    options = Options(
        goal=Goal.MOST_SERVED if single else Goal.LEAST_COST,
        buckets=SMALL_BUCKETS if single else LARGE_BUCKETS,
        gap=size.gap,
        time_limit_seconds=1.0 if single else size.limit_seconds * HEADROOM,
    )
    seconds, cpu, served, gap = [], [], 0.0, None
    for _ in range(rounds * 5 if single else rounds):
        begun, begun_cpu = time.perf_counter(), _cpu_seconds()
        try:
            result = plan(problem, options, elapsed_seconds=_stopwatch(begun))
        except PlanTimeoutError:
            served, gap = 0.0, None
        else:
            served = result.served_per_second / result.demand_per_second
            gap = max(result.gap, result.cost_gap or 0.0)
        seconds.append(time.perf_counter() - begun)
        cpu.append(_cpu_seconds() - begun_cpu)
    return Result(
        regions=size.regions,
        pools=len(problem.pools),
        routes=len(problem.routes),
        limit_seconds=size.limit_seconds,
        best_seconds=min(seconds),
        worst_seconds=max(seconds),
        cpu_seconds=min(cpu),
        served_share=served,
        gap=gap,
    )


def table(results: list[Result]) -> str:
    """The growth curve as a Markdown table."""
    lines = [
        "| regions | pools | routes | best s | worst s | CPU s | limit s | served | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        gap = "no plan in time" if result.gap is None else f"{100 * result.gap:.2f} %"
        lines.append(
            f"| {result.regions or '1 route'} | {result.pools} | {result.routes} | "
            f"{result.best_seconds:.3f} | {result.worst_seconds:.3f} | {result.cpu_seconds:.3f} | "
            f"{result.limit_seconds:g} | "
            f"{100 * result.served_share:.1f} % | {gap} |"
        )
    lines += [
        "",
        "The gap is how far a plan may be from the best: in what is served or in cost, whichever is more.",
        f"The first row plans with {SMALL_BUCKETS} length buckets, the others with {LARGE_BUCKETS}.",
    ]
    return "\n".join(lines)


def _stopwatch(begun: float) -> Callable[[], float]:
    return lambda: time.perf_counter() - begun


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
