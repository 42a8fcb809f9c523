"""Every simulation that the evidence needs, by name, and their results, computed on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from prfaas.capacity import TruncatedLogNormal, paper
from prfaas.commands.evidence import workloads as made
from prfaas.commands.evidence.workloads import DENSE, OPTIONS, World
from prfaas.commands.plan.command import solver_output_aside
from prfaas.planner import Options, Problem
from prfaas.simulator import Failure, PoolDetails, Result, RouterKind, Settings, Sizing, simulate

RICH_HEADROOM = 0.8
"""On the measured demand, instead of 0.15: spends about what the static baseline spends."""
RICH_CASES = ("reference", "short answers, 128 tokens")
"""Where latency at equal spend is asked for."""
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


BASE = World()
CASES: dict[str, World] = {
    "reference": BASE,
    "four times the demand": replace(BASE, mean_per_second=4.0, gigabits=40.0),
    "short answers, 128 tokens": replace(BASE, output_tokens=128.0),
    "dense model": replace(BASE, kv=DENSE),
    "slow links, 1 Gbit/s": replace(BASE, gigabits=1.0),
    "flat load": replace(BASE, trough_share=1.0),
    "cheap nights, a third": replace(BASE, night_share=0.33),
}
"""Where the promised figures are looked for; each is simulated alone and shared."""

TALK = World(
    sessions=True, lengths=TruncatedLogNormal(9.2, 1.0, 128, 32_768), gigabits=4.0, mean_per_second=1.5
)
"""Conversations over narrower links: what the ablations take something from."""


def all_runs() -> dict[str, Run]:
    """By name; the tables look them up by it."""
    return paper_runs() | cases() | ablations() | robustness()


def cases() -> dict[str, Run]:
    """Each workload: all hardware alike and static; alone and elastic; shared and elastic; and that with more
    capacity than it needs, for what the static one costs.
    """
    found = {}
    for name, world in CASES.items():
        mean = world.mean_per_second
        if name == baseline_of(name):
            plain = made.alone(world, fast=False)
            static = made.alone(world, fast=False, sizes=made.sized_for(plain, world.peak_per_second))
            given = made.settings(world, sizing=Sizing.STATIC, router=RouterKind.LOCAL, pools={})
            found[f"{name}/static"] = Run(static, given)
            own = made.alone(world, fast=True, sizes=made.sized_for(made.alone(world, fast=True), mean))
            found[f"{name}/alone"] = Run(own, made.settings(world))
        problem = made.shared(world, sizes=made.sized_for(made.shared(world), mean))
        found[f"{name}/shared"] = Run(problem, made.settings(world))
        if name in RICH_CASES:
            found[f"{name}/rich"] = Run(problem, made.settings(world, headroom=RICH_HEADROOM))
    return found


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
    whole = made.settings(world)

    def without(**policy: object) -> Run:
        return Run(problem, made.settings(world, **policy))  # type: ignore[arg-type]

    peak = made.sized_for(together, world.peak_per_second * 0.85)
    plain = made.alone(world, fast=False)
    return {
        "ablation/everything": Run(problem, whole),
        "ablation/threshold off": without(router=RouterKind.REMOTE),
        "ablation/plan alone, no scheduler": without(router=RouterKind.THRESHOLD),
        "ablation/bandwidth-blind": without(bandwidth_aware=False),
        "ablation/cache-blind": without(cache_aware=False),
        "ablation/no anytime KV": without(anytime=False),
        "ablation/no conversion": without(conversion=False),
        "ablation/static pools, for the peak": Run(
            made.shared(world, sizes=peak), made.settings(world, sizing=Sizing.STATIC)
        ),
        "ablation/single region, about equal cost": Run(
            made.alone(world, fast=False, sizes=made.sized_for(plain, world.peak_per_second * 0.33)),
            made.settings(world, sizing=Sizing.STATIC, router=RouterKind.LOCAL),
        ),
    }


def robustness() -> dict[str, Run]:
    """Wrong profiles, old data and links that come and go, by the operator's autoscaler."""
    world = BASE
    problem = made.shared(world, sizes=made.sized_for(made.shared(world), world.mean_per_second))
    names = [pool.name for pool in problem.prefill_pools]
    auto = made.settings(world, sizing=Sizing.AUTOSCALER, control_seconds=600.0, replan_seconds=1200.0)

    def profiles(factor: float) -> dict[str, PoolDetails]:
        return {name: PoolDetails(prefill_true_factor=factor) for name in names}

    flapping = tuple(
        Failure(at_seconds=3600, for_seconds=30, every_seconds=150, link=link.name) for link in problem.links
    )
    stale = auto.policy.model_copy(update={"link_data_age_seconds": 60.0})
    changes: dict[str, dict[str, object]] = {
        "as it should be": {},
        "prefill 30 % slower than its profile": {"pools": profiles(1.3)},
        "prefill 30 % faster than its profile": {"pools": profiles(0.7)},
        "queues and links known 60 s late": {"policy": stale},
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
        return simulate(run.problem, run.options, run.settings)
