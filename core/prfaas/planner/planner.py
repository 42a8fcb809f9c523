"""From a problem to a plan: the order of the steps. The programme is in `model`, its solution in `solve`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from prfaas.planner import bindings as binding_rules
from prfaas.planner import waiting
from prfaas.planner.conflicts import conflicts_of
from prfaas.planner.model import Coefficients, Limits, Pair, build, pairs_of
from prfaas.planner.plan import Binding, BindingKind, Plan
from prfaas.planner.problem import Goal, Options, Problem
from prfaas.planner.report import continued, decode_plans, plan_of, unreachable
from prfaas.planner.routes import usable_routes, validated
from prfaas.planner.solve import InfeasibleError, PlanTimeoutError, Solver
from prfaas.planner.staging import SERVED_TOLERANCE, Solved, kept_or, served_objective, staged, without

ROUNDS_MAX = 48
# A threshold without the link that binds is a second search; beyond this size its time is better spent.
_COMPARE_COLUMNS_MAX = 5_000


def plan(problem: Problem, options: Options, *, elapsed_seconds: Callable[[], float]) -> Plan:
    """The best plan that can be found within `options.time_limit_seconds`.

    The planner reads no clock: `elapsed_seconds` says how long the caller has been waiting, and is asked
    between the steps. HiGHS is given what is left; it looks at its time between iterations, so that the end
    may be late by one.

    Goals, first to last: fewest broken minimums; most served (or the largest factor); least cost; fewest
    moves; shortest time to first token of the flows.

    Raises:
        InvalidInputError: the problem makes no sense; names the field and the remedy.
        PlanTimeoutError: not even a rounded relaxation was found in time; the previous plan stays in force.
    """
    problem = validated(problem, options)

    def remaining_seconds() -> float:
        return options.time_limit_seconds - elapsed_seconds()

    routes, excluded = usable_routes(problem)
    coefficients = Coefficients(problem, options.buckets)
    pairs = pairs_of(problem, routes, coefficients)
    contradictions = conflicts_of(problem)
    limits = Limits(
        tuple(pool.utilisation_max for pool in problem.prefill_pools), waiting.out_of_reach(problem, pairs)
    )
    solved, limits, late = _within_ttft(
        problem, options, coefficients, pairs, limits, bool(contradictions), remaining_seconds
    )
    found = _bindings(solved, options, coefficients, limits, remaining_seconds)
    return plan_of(
        solved,
        options,
        found,
        excluded,
        notes=(
            *unreachable(problem, pairs, limits),
            *continued(problem, pairs),
            *_left_out(problem, pairs, late),
        ),
        contradictions=contradictions,
    )


def _within_ttft(
    problem: Problem,
    options: Options,
    coefficients: Coefficients,
    pairs: tuple[Pair, ...],
    limits: Limits,
    short: bool,
    remaining_seconds: Callable[[], float],
) -> tuple[Solved, Limits, frozenset[tuple[int, int]]]:
    """Solve, and tighten utilisation until every planned flow meets its time to first token.

    Returns the solution, the limits that it was found with, and what was left out of it because it was still
    late when the rounds or the time ran out.
    """
    solved: Solved | None = None
    used = limits
    late: frozenset[tuple[int, int]] = frozenset()
    for _ in range(ROUNDS_MAX):
        before = remaining_seconds()
        model = build(problem, options, coefficients, pairs, limits)
        try:
            solved = kept_or(staged(model, options, short, remaining_seconds), options, remaining_seconds)
        except PlanTimeoutError:
            if solved is None:
                raise
            break
        late = waiting.too_late(solved.model, solved.values)
        if not late:
            return solved, limits, late
        used = limits
        limits = waiting.tightened(limits, solved.model, solved.values, late)
        if remaining_seconds() < before - remaining_seconds():
            break
    assert solved is not None  # noqa: S101 (the first round returns, raises or sets it)
    return without(solved, late), used, late


def _left_out(problem: Problem, pairs: tuple[Pair, ...], late: frozenset[tuple[int, int]]) -> list[str]:
    names = sorted({problem.decode_pools[pairs[position].decode].name for position, _ in late})
    return [
        f"{name}: some lengths are left unserved because no plan that is in time for them was found yet: "
        "give more time_limit_seconds"
        for name in names
    ]


def _bindings(
    solved: Solved,
    options: Options,
    coefficients: Coefficients,
    limits: Limits,
    remaining_seconds: Callable[[], float],
) -> tuple[Binding, ...]:
    """What binds, by the duals of the programme around the plan; nothing when no time is left for it."""
    model = solved.model
    objective = served_objective(model, options)
    solver = Solver(model, options.gap, remaining_seconds)
    solver.fix(model.short, np.round(solved.values[model.short]))
    sizes = np.round(solved.values[model.instances])
    all_served = options.goal is Goal.LEAST_COST and solved.served.value <= SERVED_TOLERANCE * max(
        1.0, model.demand_per_second
    )
    try:
        if all_served:
            solver.keep(objective, solved.served.value)
            relaxed = solved.relaxed or solver.relax(model.cost_per_hour, seconds=remaining_seconds() * 0.5)
            return () if relaxed is None else tuple(binding_rules.of_cost(model, solved.values, relaxed))
        relaxed = solver.relax(objective, seconds=remaining_seconds() * 0.5, fixed=sizes)
    except InfeasibleError:
        return ()
    if relaxed is None:
        return ()
    scale = model.demand_per_second if options.goal is Goal.MOST_SERVED else 1.0
    found = binding_rules.of_throughput(model, solved.values, relaxed, per_objective=scale)
    if model.size <= _COMPARE_COLUMNS_MAX:
        for position, binding in enumerate(found):
            if binding.kind is BindingKind.LINK:
                found[position] = binding_rules.with_shift(
                    binding, _shift(solved, options, coefficients, limits, binding.name, remaining_seconds)
                )
                break
    return tuple(found)


def _shift(
    solved: Solved,
    options: Options,
    coefficients: Coefficients,
    limits: Limits,
    link: str,
    remaining_seconds: Callable[[], float],
) -> binding_rules.ThresholdShift | None:
    """How the thresholds would lie if this link were no limit."""
    problem = solved.model.problem
    wide = replace(
        problem,
        links=tuple(
            replace(each, bits_per_second=each.bits_per_second * 1e3) if each.name == link else each
            for each in problem.links
        ),
    )
    # With the present caps: the shift is the link's alone.
    model = build(wide, options, coefficients, solved.model.pairs, limits)
    solver = Solver(model, options.gap, remaining_seconds)
    solver.fix(model.short, np.round(solved.values[solved.model.short]))
    try:
        free = solver.minimise(served_objective(model, options), share_of_time=0.5)
    except InfeasibleError:
        return None
    if free is None:
        return None
    without = {pool.name: pool.threshold_tokens for pool in decode_plans(model, free[0])}
    now = {pool.name: pool.threshold_tokens for pool in decode_plans(solved.model, solved.values)}
    return binding_rules.thresholds_moved(without, now)
