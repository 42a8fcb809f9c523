"""From a scenario to a result: the loop, its samples, and how it ends early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prfaas.planner import Options, Problem, Route, plan
from prfaas.planner.routes import validated
from prfaas.simulator.autoscaled import AutoscalerController
from prfaas.simulator.control import Controller, PlannerController, sizes_of
from prfaas.simulator.recorder import PoolSeries, Series
from prfaas.simulator.result import (
    SECONDS_PER_HOUR,
    Mark,
    Result,
    demand_result,
    link_result,
    mark,
    pool_result,
)
from prfaas.simulator.routers import Choices, Router, ThresholdRouter
from prfaas.simulator.scheduled import SchedulerRouter
from prfaas.simulator.settings import RouterKind, Settings, Sizing
from prfaas.simulator.stations import DecodeStation, PrefillStation
from prfaas.simulator.traces import Arrival
from prfaas.simulator.world import World

Progress = Callable[[float], bool]
"""Is told the simulated second now and then; False ends the simulation there."""


def simulate(
    problem: Problem,
    options: Options,
    settings: Settings,
    *,
    traces: Mapping[str, Sequence[Arrival]] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run a scenario from second 0 to its end. The same input gives the same result, to the last bit.

    Args:
        traces: arrivals of the trace files that the settings name, by file name.
        progress: is asked at every sample; see `Progress`.

    Raises:
        InvalidInputError: problem or settings make no sense; names the field and the remedy.
        PlanTimeoutError: sizes are not given, and no plan for them was found in time.
    """
    problem = validated(problem, options)
    sizes = sizes_of(problem) or _planned_sizes(problem, options)
    world = World(
        problem,
        settings,
        sizes,
        partial(_router, problem, settings),
        _controller(problem, options, settings),
        traces or {},
    )
    return _Run(world).finished(progress)


def _planned_sizes(problem: Problem, options: Options) -> dict[str, int]:
    """One plan for the scenario's demand; pools that say their size keep it."""
    found = plan(problem, options, elapsed_seconds=lambda: 0.0)
    sizes = {pool.name: pool.instances for pool in found.pools}
    return sizes | {
        pool.name: pool.instances.current for pool in problem.pools if pool.instances.current is not None
    }


def _router(
    problem: Problem, settings: Settings, choices: Sequence[Choices], routes: dict[tuple[int, int], Route]
) -> Router:
    policy = settings.policy
    kind = policy.router
    if kind is RouterKind.SCHEDULER:
        return SchedulerRouter(
            problem,
            choices,
            routes,
            refuse=policy.refuse,
            bandwidth_aware=policy.bandwidth_aware,
            believes=policy.believes,
        )
    if kind is RouterKind.LOCAL:
        return ThresholdRouter(fixed=True)
    if kind is RouterKind.REMOTE:
        return ThresholdRouter(fixed=True, threshold_tokens=0)
    if policy.threshold_tokens is not None:
        return ThresholdRouter(fixed=True, threshold_tokens=policy.threshold_tokens)
    return ThresholdRouter()


def _controller(problem: Problem, options: Options, settings: Settings) -> Controller:
    policy = settings.policy
    caches = settings.cache_tokens > 0 and policy.cache_aware
    if policy.sizing is Sizing.AUTOSCALER:
        return AutoscalerController.made(problem, options, policy, caches=caches, details=settings.pools)
    return PlannerController(problem, options, policy, caches=caches)


class _Run:
    """A world that runs, sampled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._series = Series(
            pools={name: PoolSeries() for name in world.pools},
            link_bits_per_second={link.name: [] for link in world.links},
            threshold_tokens={pool.name: [] for pool in world.problem.decode_pools},
        )
        self._begin = {name: Mark() for name in world.pools}
        self._bits_begin = {link.name: 0.0 for link in world.links}
        self._link_cost_begin = 0.0
        self._before: dict[str, tuple[float, ...]] = {}
        self._last = 0.0

    def finished(self, progress: Progress | None) -> Result:
        """Run to the end, or to where `progress` says no."""
        world, settings = self._world, self._world.settings
        end, warm_up = settings.duration_seconds, settings.warm_up_seconds
        interrupted = False
        stops = _stops(end, settings.sampling_seconds, warm_up)
        if warm_up == 0:
            self._warm()
        for at in stops:
            world.env.run(until=at)
            if at == warm_up:
                self._warm()
            self._sample(at)
            if progress is not None and not progress(at):
                interrupted = at < end
                break
        return self._result(interrupted)

    def _warm(self) -> None:
        world = self._world
        self._begin = {name: mark(fleet) for name, fleet in world.pools.items()}
        self._bits_begin = {link.name: link.transfers.settle() for link in world.links}
        self._link_cost_begin = world.link_cost

    def _sample(self, now: float) -> None:
        world, series = self._world, self._series
        passed = now - self._last
        self._last = now
        series.at_seconds.append(now)
        cost = world.link_cost
        for name, fleet in world.pools.items():
            fleet.settle()
            cost += fleet.cost
            busy, ready = self._since(name, fleet.busy_seconds, fleet.ready_seconds)
            row = series.pools[name]
            row.ready.append(fleet.ready)
            row.starting.append(fleet.starting)
            row.utilisation.append(min(1.0, busy / ready) if ready > 0 else 0.0)
            row.queued.append(len(fleet.queue) if isinstance(fleet, PrefillStation | DecodeStation) else 0)
        for link in world.links:
            (bits,) = self._since(f"link {link.name}", link.transfers.settle())
            series.link_bits_per_second[link.name].append(bits / passed)
        for pool, choices in zip(world.problem.decode_pools, world.choices, strict=True):
            known = choices.plan.threshold_tokens if choices.plan is not None else None
            series.threshold_tokens[pool.name].append(float("nan") if known is None else known)
        recorder = world.recorder
        (spent,) = self._since("cost", cost)
        (arrived,) = self._since("arrived", recorder.arrived_ever)
        seconds, count = self._since("ttft", recorder.ttft_sum, recorder.ttft_count)
        series.cost_per_hour.append(spent / passed * SECONDS_PER_HOUR)
        series.arrivals_per_second.append(arrived / passed)
        series.ttft_seconds.append(seconds / count if count else float("nan"))

    def _since(self, name: str, *values: float) -> tuple[float, ...]:
        before = self._before.get(name, (0.0,) * len(values))
        self._before[name] = values
        return tuple(value - earlier for value, earlier in zip(values, before, strict=True))

    def _result(self, interrupted: bool) -> Result:
        world, recorder = self._world, self._world.recorder
        seconds = max(0.0, world.env.now - world.settings.warm_up_seconds)
        columns = recorder.columns()
        names = [pool.name for pool in world.problem.decode_pools]
        total = demand_result("all", list(range(len(names))), world, columns)
        changes = world.steering.size_changes
        pools = tuple(
            pool_result(fleet, self._begin[name], seconds, changes[name])
            for name, fleet in world.pools.items()
        )
        first = next(
            (i for i, at in enumerate(self._series.at_seconds) if at > world.settings.warm_up_seconds), 0
        )
        links = tuple(
            link_result(
                link,
                self._bits_begin[link.name],
                seconds,
                self._series.link_bits_per_second[link.name][first:],
            )
            for link in world.links
        )
        link_cost = world.link_cost - self._link_cost_begin
        cost = sum(pool.cost for pool in pools) + link_cost
        return Result(
            seconds=seconds,
            interrupted=interrupted,
            total=total,
            demand=tuple(demand_result(name, [index], world, columns) for index, name in enumerate(names)),
            pools=pools,
            links=links,
            cost=cost,
            link_cost=link_cost,
            cost_per_1000=1000 * cost / total.served if total.served else None,
            served_per_second=total.served / seconds if seconds else 0.0,
            output_tokens_per_second=recorder.output_tokens / seconds if seconds else 0.0,
            reasons=dict(sorted(recorder.reasons.items())),
            fallbacks=dict(sorted(recorder.fallbacks.items())),
            cached_share=recorder.cached_tokens / recorder.prompt_tokens if recorder.prompt_tokens else 0.0,
            plans=world.steering.plans,
            converted=world.steering.converted,
            events=world.env.events,
            notes=tuple(world.steering.notes),
            series=self._series,
        )


def _stops(end: float, every: float, warm_up: float) -> list[float]:
    """Where to sample: evenly, at the end of the warm-up and at the end."""
    count = int(end // every)
    stops = {index * every for index in range(1, count + 1)} | {end}
    if warm_up > 0:
        stops.add(warm_up)
    return sorted(stops)
