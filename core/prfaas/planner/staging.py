"""One model through its goals, first to last, and whether the present sizes are good enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from prfaas.planner import waiting
from prfaas.planner.model import Floats, Model
from prfaas.planner.problem import Goal, Options
from prfaas.planner.solve import InfeasibleError, PlanTimeoutError, Relaxation, Solver, Stage

# Beyond this size the goals are weighed in one search instead of one search each.
_STAGED_COLUMNS_MAX = 2_000
# One unserved request weighs as much as this many times the dearest way to serve it.
_UNSERVED_WEIGHT = 1e3
_MOVE_WEIGHT = 1e-4
SERVED_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Solved:
    """A solution and how good it is: `served` of the first goal, `cost` of the second."""

    model: Model
    values: Floats
    served: Stage
    cost: Stage | None
    kept: bool = False
    relaxed: Relaxation | None = None


def staged(model: Model, options: Options, short: bool, remaining_seconds: Callable[[], float]) -> Solved:
    solver = Solver(model, options.gap, remaining_seconds)
    try:
        if short:
            broken = np.zeros(model.size)
            broken[model.short] = [pool.instances.accelerators_each for pool in model.problem.pools]
            fewest = solver.minimise(broken, share_of_time=0.3)
            if fewest is None:
                raise _out_of_time(options)
            solver.keep(broken, fewest[1].value)
        else:
            solver.fix(model.short, np.zeros(len(model.problem.pools)))
        if model.size > _STAGED_COLUMNS_MAX:
            return _weighed(model, options, solver)
        first = solver.minimise(served_objective(model, options), share_of_time=0.5)
    except InfeasibleError as error:  # All demand may stay unserved and all minimums may be missed.
        raise AssertionError(f"the programme cannot be infeasible: {error}") from error
    if first is None:
        raise _out_of_time(options)
    values, served = first
    solver.keep(served_objective(model, options), served.value)
    cost: Stage | None = None
    if model.cost_per_hour.any():
        cheaper = solver.minimise(model.cost_per_hour, share_of_time=0.7)
        if cheaper is not None:
            values, cost = cheaper
            solver.keep(model.cost_per_hour, cost.value)
    moves = np.zeros(model.size)
    moves[model.up] = moves[model.down] = 1.0
    if (values[model.up] + values[model.down]).sum() > 0.5:
        calmer = solver.minimise(moves, share_of_time=0.7)
        if calmer is not None:
            values = calmer[0]
    fastest = solver.relax(
        _prefill_seconds(model), seconds=remaining_seconds() * 0.5, fixed=np.round(values[model.instances])
    )
    return Solved(model, values if fastest is None else fastest.values, served, cost)


def _weighed(model: Model, options: Options, solver: Solver) -> Solved:
    """The same goals in one search: unserved requests weigh so much that cost cannot buy them."""
    served = served_objective(model, options)
    weight = _UNSERVED_WEIGHT * max(1.0, _dearest_request(model))
    if options.goal is Goal.MOST_SERVED:
        weight *= model.demand_per_second
    objective = weight * served + model.cost_per_hour
    moves = _MOVE_WEIGHT * max(1.0, float(model.cost_per_hour[model.instances].mean()))
    objective[model.up] += moves
    objective[model.down] += moves
    relaxed = solver.relax(objective, seconds=solver.remaining_seconds() * 0.7)
    found = None if relaxed is None else solver.minimise_near(objective, relaxed)
    if relaxed is None or found is None:
        raise _out_of_time(options)
    values, stage = found
    missed = float(served @ values)
    distance = max(0.0, stage.value - stage.bound)
    everything = options.goal is Goal.LEAST_COST and missed <= SERVED_TOLERANCE * model.demand_per_second
    # What is missing to the bound may be unserved requests, unless none is; then it is cost.
    first = Stage(missed, missed if everything else missed - distance / weight)
    cost_now = float(model.cost_per_hour @ values)
    cost = Stage(cost_now, cost_now - distance) if everything and model.cost_per_hour.any() else None
    solver.keep(objective, stage.value)
    fastest = solver.relax(
        _prefill_seconds(model),
        seconds=solver.remaining_seconds() * 0.5,
        fixed=np.round(values[model.instances]),
    )
    return Solved(model, values if fastest is None else fastest.values, first, cost, relaxed=relaxed)


def _dearest_request(model: Model) -> float:
    """Cost per hour of one request per second served in the dearest way, prefill, decode and transfer."""
    price = model.cost_per_hour[model.instances]
    prefills = len(model.problem.prefill_pools)
    dearest = 0.0
    for pair in model.pairs:
        decode = model.problem.decode_pools[pair.decode].decode.requests_per_second
        dearest = max(
            dearest,
            float(pair.seconds.max()) * price[pair.prefill]
            + price[prefills + pair.decode] / decode
            + float(model.cost_per_hour[pair.columns].max()),
        )
    return dearest


def _prefill_seconds(model: Model) -> Floats:
    """The time to first token without waiting, over all requests: what decides between equally good flows.

    It favours fast pools, and where a link or a fast pool is full it sends the longest prompts there.
    """
    objective = np.zeros(model.size)
    for pair in model.pairs:
        objective[pair.columns] = waiting.base_seconds(pair, model.problem.links)
    return objective


def kept_or(solved: Solved, options: Options, remaining_seconds: Callable[[], float]) -> Solved:
    """The present sizes instead, when the new ones are not better by more than `keep_within`."""
    model = solved.model
    current = [pool.instances.current for pool in model.problem.pools]
    if options.keep_within <= 0 or any(size is None for size in current):
        return solved
    sizes = np.array(current, dtype=float)
    if np.array_equal(sizes, np.round(solved.values[model.instances])):
        return solved
    solver = Solver(model, options.gap, remaining_seconds)
    solver.fix(model.short, np.round(solved.values[model.short]))
    objective = served_objective(model, options)
    try:
        served = solver.relax(objective, seconds=remaining_seconds() * 0.5, fixed=sizes)
        if served is None or not _near(served.objective, solved.served.value, model, options):
            return solved
        values = served.values
        if model.cost_per_hour.any():
            solver.keep(objective, served.objective)
            cheapest = solver.relax(model.cost_per_hour, seconds=remaining_seconds() * 0.5, fixed=sizes)
            if cheapest is None:
                return solved
            values = cheapest.values
            if model.cost_per_hour @ values > (model.cost_per_hour @ solved.values) * (
                1 + options.keep_within
            ):
                return solved
    except InfeasibleError:  # They break a quota, a stock-out or a minimum.
        return solved
    if waiting.too_late(model, values):
        return solved
    bound = solved.served.bound
    cost = None if solved.cost is None else Stage(float(model.cost_per_hour @ values), solved.cost.bound)
    return Solved(model, values, Stage(served.objective, bound), cost, kept=True)


def _near(present: float, best: float, model: Model, options: Options) -> bool:
    """Whether the minimised objective of the first goal is near enough: the factor that can be served, within
    the share; demand that is left unserved, not at all more: no peace is worth refusing somebody.
    """
    allowed = options.keep_within * abs(best) if options.goal is Goal.MOST_SERVED else 0.0
    return present <= best + allowed + SERVED_TOLERANCE * max(1.0, model.demand_per_second)


def served_objective(model: Model, options: Options) -> Floats:
    """The first goal as something to minimise: -θ, or the requests per second that stay unserved."""
    objective = np.zeros(model.size)
    if options.goal is Goal.MOST_SERVED:
        objective[model.theta] = -1.0
    else:
        objective[model.unserved] = 1.0
    return objective


def without(solved: Solved, late: frozenset[tuple[int, int]]) -> Solved:
    """The same with what is late unserved: waiting can only become shorter by it."""
    values = solved.values.copy()
    for position, bucket in late:
        values[solved.model.pairs[position].columns.start + bucket] = 0.0
    return replace(
        solved, values=values, served=replace(solved.served, bound=-math.inf) if late else solved.served
    )


def _out_of_time(options: Options) -> PlanTimeoutError:
    return PlanTimeoutError(
        f"no plan was found in {options.time_limit_seconds:g} s: raise time_limit_seconds, lower buckets, "
        "or plan fewer pools at once; the previous plan stays in force"
    )
