"""Every simulation that the evidence needs, by name, and their results, computed on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prfaas.capacity import TruncatedLogNormal, paper
from prfaas.commands.evidence import parts
from prfaas.commands.evidence import workloads as made
from prfaas.commands.evidence.workloads import DENSE, OPTIONS, World
from prfaas.commands.plan.command import solver_output_aside
from prfaas.planner import Options, Problem
from prfaas.simulator import (
    Arrival,
    Failure,
    PoolDetails,
    Result,
    RouterKind,
    Settings,
    Sizing,
    simulate,
)

ALONE_SAME_SPEND = ("reference", "flat prices", "answers of 1,024 tokens")
"""Where regions that are elastic each for itself are looked at with the money that shared spends, too."""
PAPER_SECONDS = 6000.0
OVERLOADED, MODERATE = "overloaded", "at 1.6/s"
PAPER_LOADS = ((OVERLOADED, 6.0), (MODERATE, 1.6))
PAPER_LINKS = (
    ("", 100.0, paper.KV),
    (", 10 Gbit/s", 10.0, paper.KV),
    (", 2 Gbit/s", 2.0, paper.KV),
    (", dense model", 100.0, DENSE),
    (", dense model, 10 Gbit/s", 10.0, DENSE),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation."""

    problem: Problem
    settings: Settings
    options: Options = OPTIONS
    traces: Mapping[str, Sequence[Arrival]] = field(default_factory=dict)


STEADY: dict[str, Any] = {"replan_seconds": 1200.0, "headroom": 0.15}
"""A policy for pools of a few instances: plans further apart, and more to spare."""
BASE = World()
FORMER = World(mean_per_second=1.0, gigabits=10.0, output_tokens=1024.0, night_share=1.0)
"""The paper's own answers, flat prices and few instances: nights offer nothing, and rounding costs."""
CASES: dict[str, World] = {
    "reference": BASE,
    "flat prices": replace(BASE, night_share=1.0),
    "nights at 0.2": replace(BASE, night_share=0.2),
    "answers of 1,024 tokens": replace(BASE, output_tokens=1024.0),
    "links of 10 Gbit/s": replace(BASE, gigabits=10.0),
    "links of 1 Gbit/s": replace(BASE, gigabits=1.0),
    "flat load": replace(BASE, trough_share=1.0),
    "dense model": replace(BASE, kv=DENSE),
    "a quarter of the demand": replace(BASE, mean_per_second=1.0, gigabits=10.0),
    "1,024 tokens, flat prices, a quarter": FORMER,
}
"""Where the promised figures are looked for, the reference first; each other one differs in what it says."""

TALK = World(
    sessions=True,
    lengths=TruncatedLogNormal(9.2, 1.0, 128, 32_768),
    gigabits=4.0,
    mean_per_second=1.5,
    output_tokens=1024.0,
    night_share=1.0,
)
"""Conversations over narrower links: what the ablations take something from."""


def all_runs() -> dict[str, Run]:
    """By name; the tables look them up by it. `follow_ups` come when these are done."""
    return paper_runs() | cases() | ablations() | parts_alone() | robustness()


def cases() -> dict[str, Run]:
    """Each workload: all hardware alike and static for its peak; alone and elastic; shared and elastic."""
    found = {}
    for name, world in CASES.items():
        mean = world.mean_per_second
        if name == baseline_of(name):
            plain = made.alone(world, fast=False)
            static = made.alone(world, fast=False, sizes=made.sized_for(plain, world.peak_per_second))
            found[f"{name}/static"] = Run(static, _static(world, static))
            own = made.alone(world, fast=True, sizes=made.sized_for(made.alone(world, fast=True), mean))
            found[f"{name}/alone"] = Run(own, made.settings(world, own))
        problem = made.shared(world, sizes=made.sized_for(made.shared(world), mean))
        found[f"{name}/shared"] = Run(problem, made.settings(world, problem))
    return found


def follow_ups(found: Mapping[str, Result]) -> dict[str, Run]:
    """What single regions do with the money that shared has spent."""
    runs = {}
    for name, world in CASES.items():
        money = found[f"{name}/shared"].cost
        static = made.static_for(world, money)
        runs[f"{name}/static, same spend"] = Run(static, _static(world, static))
        if name in ALONE_SAME_SPEND:
            elastic = found[f"{baseline_of(name)}/alone"]
            own = made.alone(world, fast=True, sizes=made.sized_for(made.alone(world, fast=True), 1.0))
            # Instances are what money buys, and the planner gives them by the demand that it is told.
            headroom = (1 + made.HEADROOM) * money / elastic.cost - 1
            runs[f"{name}/alone, same spend"] = Run(own, made.settings(world, own, headroom=headroom))
    return runs


def _static(world: World, problem: Problem) -> Settings:
    return made.settings(world, problem, sizing=Sizing.STATIC, router=RouterKind.LOCAL)


def baseline_of(case: str) -> str:
    """The workload whose regions, each for itself, do just the same: neither links nor KV matter there."""
    world = CASES[case]
    same = replace(world, kv=BASE.kv, gigabits=BASE.gigabits) == BASE
    return "reference" if same else case


def ablations() -> dict[str, Run]:
    """The whole, and the whole without one thing each."""
    world = TALK
    together = made.shared(world)
    sizes = made.sized_for(together, world.mean_per_second)
    problem = made.shared(world, sizes=sizes)
    whole = made.settings(world, problem, **STEADY)

    def without(**policy: object) -> Run:
        return Run(problem, made.settings(world, problem, **STEADY | policy))

    peak = made.shared(world, sizes=made.sized_for(together, world.peak_per_second * 0.85))
    plain = made.alone(world, fast=False)
    single = made.alone(world, fast=False, sizes=made.sized_for(plain, world.peak_per_second * 0.33))
    return {
        "ablation/everything": Run(problem, whole),
        "ablation/threshold off": without(router=RouterKind.REMOTE),
        "ablation/plan alone, no scheduler": without(router=RouterKind.THRESHOLD),
        "ablation/bandwidth-blind": without(bandwidth_aware=False),
        "ablation/cache-blind": without(cache_aware=False),
        "ablation/no anytime KV": without(anytime=False),
        "ablation/no conversion": without(conversion=False),
        "ablation/static pools, for the peak": Run(
            peak, made.settings(world, peak, sizing=Sizing.STATIC, **STEADY)
        ),
        "ablation/single region, about equal cost": Run(single, _static(world, single)),
    }


def parts_alone() -> dict[str, Run]:
    """Where conversion and anytime KV have something to do, with them and without."""
    found = {}
    for name, on in (("with", True), ("without", False)):
        found[f"part/conversion/{name}"] = Run(
            parts.mixed_problem(),
            parts.mixed_settings(conversion=on),
            replace(OPTIONS, keep_within=0.0),
            {parts.MIX: parts.mixed_arrivals()},
        )
        problem = made.shared(TALK, sizes=made.sized_for(made.shared(TALK), TALK.mean_per_second))
        narrow = tuple(
            Failure(at_seconds=3600, for_seconds=180, every_seconds=900, link=link.name, capacity_share=0.03)
            for link in problem.links
        )
        given = made.settings(TALK, problem, anytime=on, link_data_age_seconds=60.0, **STEADY)
        found[f"part/anytime KV/{name}"] = Run(problem, given.model_copy(update={"failures": narrow}))
    return found


def robustness() -> dict[str, Run]:
    """Wrong profiles, old data and links that come and go, by the operator's autoscaler."""
    world = FORMER
    problem = made.shared(world, sizes=made.sized_for(made.shared(world), world.mean_per_second))
    names = [pool.name for pool in problem.prefill_pools]
    auto = made.settings(world, problem, sizing=Sizing.AUTOSCALER, control_seconds=600.0, **STEADY)

    def profiles(factor: float) -> dict[str, PoolDetails]:
        return {name: PoolDetails(prefill_true_factor=factor) for name in names}

    flapping = tuple(
        Failure(at_seconds=3600, for_seconds=30, every_seconds=150, link=link.name) for link in problem.links
    )

    def reports(**policy: object) -> dict[str, object]:
        return {"policy": auto.policy.model_copy(update={"link_data_age_seconds": 60.0} | policy)}

    changes: dict[str, dict[str, object]] = {
        "as it should be": {},
        "prefill 30 % slower than its profile": {"pools": profiles(1.3)},
        "prefill 30 % faster than its profile": {"pools": profiles(0.7)},
        "queues and links known once a minute": reports(),
        "the same, and a minute late": reports(link_data_delay_seconds=60.0),
        "once a minute, believed as they are told": reports(believes=False),
        "every link down for 30 s each 150 s": {"failures": flapping},
    }
    return {
        f"robust/{name}": Run(problem, auto.model_copy(update=change)) for name, change in changes.items()
    }


def paper_runs() -> dict[str, Run]:
    """The paper's system against its homogeneous baseline: overloaded, and at loads that both can bear."""
    found = {}
    for label, gigabits, kv in PAPER_LINKS:
        local, decode = made.paper_split(gigabits, kv)
        for name, rate in PAPER_LOADS:
            found[f"paper/prfaas{label} {name}"] = Run(
                made.paper_system(rate, remote=4, local=local, decode=decode, gigabits=gigabits, kv=kv),
                made.paper_settings(RouterKind.THRESHOLD, PAPER_SECONDS, _patience(name)),
            )
    for name, rate in PAPER_LOADS:
        found[f"paper/homogeneous {name}"] = Run(
            made.paper_system(rate, remote=0, local=9, decode=3),
            made.paper_settings(RouterKind.LOCAL, PAPER_SECONDS, _patience(name)),
        )
    return found


def _patience(load: str) -> float:
    """Under overload whoever waits half a minute goes away, or nothing would ever come to an end."""
    return 30.0 if load == OVERLOADED else 300.0


def results(
    runs: Mapping[str, Run], told: Callable[[str, int, int], None], processes: int | None = None
) -> dict[str, Result]:
    """All results, by name. `told` gets each name as it is done, and how many of how many that are."""
    found: dict[str, Result] = {}
    workers = multiprocessing.get_context("spawn")
    # Leaving the block ends the workers, whatever they are at.
    with workers.Pool(processes or os.cpu_count(), initializer=_leave_interrupts_to_the_parent) as pool:
        for name, result in pool.imap_unordered(_named_result, runs.items()):
            found[name] = result
            told(name, len(found), len(runs))
    return found


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _named_result(named: tuple[str, Run]) -> tuple[str, Result]:
    name, run = named
    return name, result_of(run)


def result_of(run: Run) -> Result:
    """One simulation, in whichever process."""
    with solver_output_aside():
        return simulate(run.problem, run.options, run.settings, traces=run.traces)
