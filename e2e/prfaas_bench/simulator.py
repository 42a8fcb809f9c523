"""How fast the simulator is, beside SimPy's bare speed in the same run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import simpy

from prfaas.capacity import DecodeRate, TruncatedLogNormal, paper
from prfaas.planner import DecodePool, Instances, Link, Options, PrefillPool, Problem, direct_routes
from prfaas.simulator import Policy, RouterKind, Settings, simulate

CLUSTERS, MODELS = 10, 5
REQUESTS_PER_SECOND = 1_000.0
SIMULATED_SECONDS = 120.0
QUICK_SECONDS = 30.0
BARE_EVENTS = 500_000
TARGET = 5.0
"""Times faster than the wall clock, for 1,000 requests/s and 100 pools on one core."""


@dataclass(frozen=True, slots=True)
class Result:
    """One router. `bare_events_per_second` is SimPy alone: one callback that schedules the next event."""

    router: str
    pools: int
    requests: int
    simulated_seconds: float
    cpu_seconds: float
    events: int
    bare_events_per_second: float

    @property
    def times_faster(self) -> float:
        """Than the wall clock, on a core of its own."""
        return self.simulated_seconds / self.cpu_seconds

    @property
    def events_per_second(self) -> float:
        """Of the core's time."""
        return self.events / self.cpu_seconds


def fleet() -> Problem:
    """Ten clusters in a ring, each linked with two on both sides; five models with two pools in each."""
    prefill, decode, links = [], [], []
    each = REQUESTS_PER_SECOND / (CLUSTERS * MODELS)
    for cluster in range(CLUSTERS):
        for model in range(MODELS):
            name = f"c{cluster}-m{model}"
            fast = (cluster + model) % 2 == 0
            prefill.append(
                PrefillPool(
                    f"{name}-prefill",
                    f"c{cluster}",
                    f"m{model}",
                    paper.PREFILL_H200 if fast else paper.PREFILL_H20,
                    Instances(maximum=200, current=28 if fast else 48, price_per_hour=2.0 if fast else 1.0),
                    utilisation_max=0.85,
                )
            )
            decode.append(
                DecodePool(
                    f"{name}-decode",
                    f"c{cluster}",
                    f"m{model}",
                    kv=paper.KV,
                    decode=DecodeRate(0.025, 20, 512),
                    lengths=TruncatedLogNormal(9.0, 1.0, 128, paper.LONGEST_TOKENS),
                    arrivals_per_second=each,
                    instances=Instances(maximum=200, current=16, price_per_hour=1.0),
                    ttft_seconds=10.0,
                )
            )
        links += [
            Link(f"c{cluster}-c{target}", f"c{cluster}", f"c{target}", 200e9, 0.8, 0.02)
            for step in (-2, -1, 1, 2)
            if (target := (cluster + step) % CLUSTERS) != cluster
        ]
    routes = direct_routes(prefill, decode, links)
    return Problem(tuple(prefill), tuple(decode), routes, tuple(links))


def bare_events_per_second() -> float:
    """SimPy without anything to simulate."""
    calendar = simpy.Environment()
    left = BARE_EVENTS

    def again(_event: simpy.Event) -> None:
        nonlocal left
        left -= 1
        if left:
            calendar.timeout(1.0).callbacks.append(again)

    calendar.timeout(1.0).callbacks.append(again)
    begun = time.process_time()
    calendar.run()
    return BARE_EVENTS / (time.process_time() - begun)


def measure(*, rounds: int) -> list[Result]:
    """Each router once per round, by turns with bare SimPy; the median round of each."""
    seconds = SIMULATED_SECONDS if rounds > 2 else QUICK_SECONDS
    problem = fleet()
    found: dict[RouterKind, list[Result]] = {}
    for _ in range(rounds):
        for router in (RouterKind.THRESHOLD, RouterKind.SCHEDULER):
            bare = bare_events_per_second()
            settings = Settings(duration_seconds=seconds, policy=Policy(router=router), seed=1)
            begun = time.process_time()
            result = simulate(problem, Options(buckets=8, gap=0.02, time_limit_seconds=5), settings)
            spent = time.process_time() - begun
            found.setdefault(router, []).append(
                Result(
                    router.value,
                    len(problem.pools),
                    result.total.arrived,
                    seconds,
                    spent,
                    result.events,
                    bare,
                )
            )
    return [sorted(each, key=lambda one: one.cpu_seconds)[len(each) // 2] for each in found.values()]


def table(results: list[Result]) -> str:
    """Markdown."""
    rows = [
        "| router | pools | requests | simulated s | CPU s | times faster | events/s | bare SimPy events/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {each.router} | {each.pools} | {each.requests:,} | {each.simulated_seconds:.0f} "
        f"| {each.cpu_seconds:.1f} | {each.times_faster:.1f} | {each.events_per_second:,.0f} "
        f"| {each.bare_events_per_second:,.0f} |"
        for each in results
    ]
    return (
        "\n".join(rows)
        + f"\n\nOne core, its own time, planning included; at least {TARGET:g} times faster than the clock\n"
        "is asked for. Bare SimPy is one callback that schedules the next event and nothing else; an event\n"
        "of the simulator routes a request by the production code, or moves it on."
    )
