"""Constraints that contradict each other whatever the demand: minimums beyond stock, quotas and maximums."""

from __future__ import annotations

from prfaas.planner.model import Floats, Model
from prfaas.planner.plan import Conflict
from prfaas.planner.problem import DecodePool, PrefillPool, Problem

Contradiction = tuple[str, tuple[str, ...], str]
"""(field of the limit, fields of the minimums, sentence)"""


def minimum_field(problem: Problem, pool: PrefillPool | DecodePool) -> str:
    """The path of a pool's minimum."""
    kind = "prefill_pools" if pool in problem.prefill_pools else "decode_pools"
    return f"{kind}[{pool.name}].instances.minimum"


def conflicts_of(problem: Problem) -> tuple[Contradiction, ...]:
    """(limit's field, the minimums' fields, sentence) of each contradiction. Empty: all minimums fit."""
    found: list[Contradiction] = []
    for pool in problem.pools:
        limits = pool.instances
        if limits.minimum > limits.most:
            field = minimum_field(problem, pool)
            found.append(
                (
                    field.replace("minimum", "available"),
                    (field,),
                    f"{pool.name} must have at least {limits.minimum} instances, but only {limits.most} "
                    "can be had now: lower its minimum or wait for stock",
                )
            )
    for quota in problem.quotas:
        its = [pool for pool in problem.pools if pool.name in quota.pools and pool.instances.minimum]
        needed = sum(pool.instances.minimum * pool.instances.accelerators_each for pool in its)
        if needed > quota.accelerators:
            parts = ", ".join(
                f"{pool.name} {pool.instances.minimum * pool.instances.accelerators_each}" for pool in its
            )
            found.append(
                (
                    f"quotas[{quota.name}].accelerators",
                    tuple(minimum_field(problem, pool) for pool in its),
                    f"quota {quota.name} has {quota.accelerators:g} accelerators, but the minimums of its "
                    f"pools need {needed:g} ({parts}): raise the quota or lower a minimum",
                )
            )
    return tuple(found)


def resolved(found: tuple[Contradiction, ...], model: Model, values: Floats) -> tuple[Conflict, ...]:
    """The contradictions with the minimums that the plan has given up."""
    below = {
        minimum_field(model.problem, pool): (round(float(size)), pool.instances.minimum)
        for pool, size in zip(model.problem.pools, values[model.instances], strict=True)
        if size < pool.instances.minimum - 0.5
    }
    return tuple(
        Conflict(
            constraints=(limit, *minimums),
            given_up=tuple(field for field in minimums if field in below),
            sentence=sentence
            + "".join(
                f"; planned with {below[field][0]} instead of {below[field][1]} ({field})"
                for field in minimums
                if field in below
            ),
        )
        for limit, minimums, sentence in found
    )
