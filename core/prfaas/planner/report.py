"""From a solution to the values of a plan: flows, thresholds, loads and notes."""

from __future__ import annotations

import math

import numpy as np

from prfaas.capacity.lengths import share_above
from prfaas.planner import waiting
from prfaas.planner.conflicts import Contradiction, resolved
from prfaas.planner.model import Floats, Limits, Model, Pair
from prfaas.planner.plan import Binding, DecodePlan, Flow, LinkUse, Plan, PoolPlan
from prfaas.planner.problem import Goal, Options, Problem
from prfaas.planner.routes import ExcludedRoute
from prfaas.planner.staging import Solved


def plan_of(
    solved: Solved,
    options: Options,
    found: tuple[Binding, ...],
    excluded: tuple[ExcludedRoute, ...],
    *,
    notes: tuple[str, ...],
    contradictions: tuple[Contradiction, ...],
) -> Plan:
    model, values = solved.model, solved.values
    problem = model.problem
    pools = problem.pools
    loads = np.zeros(len(pools))
    carried = np.zeros(len(problem.links))
    flows = []
    wait = waiting.waits(model, values)
    for pair in model.pairs:
        flow = np.maximum(values[pair.columns], 0.0)
        if flow.sum() <= waiting.FLOW_EPSILON:
            continue
        bits = float(flow @ pair.wire_bits) if pair.links else 0.0
        loads[pair.prefill] += flow @ pair.seconds
        loads[len(problem.prefill_pools) + pair.decode] += (
            flow.sum() / problem.decode_pools[pair.decode].decode.requests_per_second
        )
        carried[list(pair.links)] += bits
        ttft = waiting.base_seconds(pair, problem.links) + wait[pair.prefill]
        flows.append(
            Flow(
                prefill_pool=pair.route.prefill_pool,
                decode_pool=pair.route.decode_pool,
                links=pair.route.links,
                requests_per_second=float(flow.sum()),
                by_bucket=tuple(map(float, flow)),
                bits_per_second=bits,
                ttft_seconds=tuple(map(float, ttft)),
            )
        )
    sizes = [int(size) for size in np.round(values[model.instances])]
    its_decode_plans = decode_plans(model, values)
    routed = {pair.route.decode_pool for pair in model.pairs}
    notes = (
        *notes,
        *(
            f"{pool.name} has no usable route: nothing of it is served"
            for pool in problem.decode_pools
            if pool.name not in routed
        ),
    )
    return Plan(
        goal=options.goal,
        factor=float(values[model.theta]),
        served_per_second=math.fsum(pool.served_per_second for pool in its_decode_plans),
        demand_per_second=float(model.demand_per_second * values[model.theta]),
        cost_per_hour=float(model.cost_per_hour @ values),
        carbon_kilograms_per_hour=math.fsum(
            size * pool.instances.carbon_kilograms_per_hour for size, pool in zip(sizes, pools, strict=True)
        ),
        pools=tuple(
            PoolPlan(pool.name, size, pool.instances.current, float(load / size) if size else 0.0)
            for pool, size, load in zip(pools, sizes, loads, strict=True)
        ),
        decode_pools=its_decode_plans,
        flows=tuple(flows),
        links=tuple(
            LinkUse(link.name, float(bits), link.usable_bits_per_second)
            for link, bits in zip(problem.links, carried, strict=True)
        ),
        bindings=found,
        conflicts=resolved(contradictions, model, values),
        excluded=excluded,
        gap=solved.served.gap
        if options.goal is Goal.MOST_SERVED
        else solved.served.gap_of(model.demand_per_second),
        cost_gap=None if solved.cost is None else solved.cost.gap,
        kept=solved.kept,
        notes=notes,
    )


def decode_plans(model: Model, values: Floats) -> tuple[DecodePlan, ...]:
    count = len(model.problem.decode_pools)
    served = [np.zeros(len(buckets)) for buckets in model.buckets]
    remote = [np.zeros(len(buckets)) for buckets in model.buckets]
    for pair in model.pairs:
        flow = np.maximum(values[pair.columns], 0.0)
        served[pair.decode] += flow
        if pair.links:
            remote[pair.decode] += flow
    plans = []
    for position in range(count):
        pool, buckets = model.problem.decode_pools[position], model.buckets[position]
        total = float(served[position].sum())
        shares = np.divide(
            remote[position],
            served[position],
            out=np.zeros(len(buckets)),
            where=served[position] > waiting.FLOW_EPSILON,
        )
        share = float(remote[position].sum() / total) if total > waiting.FLOW_EPSILON else 0.0
        partial = [value for value in shares if 1e-4 < value < 1 - 1e-4]
        is_threshold = len(partial) <= 1 and bool((np.diff(shares) >= -1e-4).all())
        threshold = None
        if share <= 1e-9:
            threshold = math.inf
        elif is_threshold:
            threshold = pool.lengths.quantile(1 - min(1.0, share))
        plans.append(
            DecodePlan(
                name=pool.name,
                demand_per_second=float(pool.arrivals_per_second * values[model.theta]),
                served_per_second=total,
                threshold_tokens=threshold,
                remote_share=share,
                remote_by_bucket=tuple(map(float, shares)),
                bucket_edges_tokens=(buckets[0].from_tokens, *(bucket.to_tokens for bucket in buckets)),
            )
        )
    return tuple(plans)


def unreachable(problem: Problem, pairs: tuple[Pair, ...], limits: Limits) -> list[str]:
    """Decode pools with lengths that no route can serve in time, even when idle."""
    notes = []
    for position, pool in enumerate(problem.decode_pools):
        own = [(index, pair) for index, pair in enumerate(pairs) if pair.decode == position]
        if not own:
            continue
        lost = [
            bucket
            for bucket in range(len(own[0][1].seconds))
            if all((index, bucket) in limits.forbidden for index, _ in own)
        ]
        if lost:
            notes.append(
                f"{pool.name}: {len(lost)} of {len(own[0][1].seconds)} length buckets cannot have a first "
                f"token within {pool.ttft_seconds:g} s on any route, even idle: relax ttft_seconds or add "
                "faster pools"
            )
    return notes


def continued(problem: Problem, pairs: tuple[Pair, ...]) -> list[str]:
    """Profiles that are used beyond what was measured."""
    notes = set()
    for pair in pairs:
        pool, consumer = problem.prefill_pools[pair.prefill], problem.decode_pools[pair.decode]
        lengths = consumer.lengths
        scale = 1 - pair.route.prefill_hit_share
        for what, curve, factor in (
            (f"T_prefill of {pool.name}", pool.prefill, scale),
            (f"S_kv of {consumer.name}", consumer.kv.token_bytes, 1.0),
        ):
            above = share_above(lengths, curve.to_tokens / factor) if curve.to_tokens > 0 else 0.0
            below = lengths.moments(lengths.min_tokens, curve.from_tokens / factor)[0]
            if above > 1e-9 or (below > 1e-9 and curve.from_tokens > 1):
                notes.add(
                    f"{what} is continued beyond {curve.from_tokens:g} to {curve.to_tokens:g} tokens for "
                    f"{100 * (above + below):.2g} % of the prompts of {consumer.name}"
                )
    return sorted(notes)
