"""Time to first token of a plan, and which flows miss the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prfaas.capacity.queueing import mean_wait_seconds
from prfaas.planner.model import Floats, Limits, Model, Pair
from prfaas.planner.problem import Link, Problem

UTILISATION_STEPS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
FLOW_EPSILON = 1e-7


def base_seconds(pair: Pair, links: Sequence[Link]) -> Floats:
    """Without waiting, per bucket: prefill or transfer, whichever takes longer, and the path's round trip."""
    if not pair.links:
        return pair.seconds
    slowest = min(links[link].usable_bits_per_second for link in pair.links)
    round_trip = sum(links[link].rtt_seconds for link in pair.links)
    return np.maximum(pair.seconds, pair.wire_bits / slowest) + round_trip


def out_of_reach(problem: Problem, pairs: Sequence[Pair]) -> frozenset[tuple[int, int]]:
    """(pair, bucket) whose time to first token is too long even on an idle pool."""
    return frozenset(
        (position, int(bucket))
        for position, pair in enumerate(pairs)
        if (slo := problem.decode_pools[pair.decode].ttft_seconds) is not None
        for bucket in np.flatnonzero(base_seconds(pair, problem.links) > slo)
    )


def waits(model: Model, values: Floats) -> tuple[float, ...]:
    """Mean wait in seconds of each prefill pool: Poisson arrivals, and the planned mixture of services."""
    count = len(model.problem.prefill_pools)
    rate, load, square = np.zeros(count), np.zeros(count), np.zeros(count)
    for pair in model.pairs:
        flow = values[pair.columns]
        rate[pair.prefill] += flow.sum()
        load[pair.prefill] += flow @ pair.seconds
        square[pair.prefill] += flow @ pair.seconds**2
    found = []
    for position in range(count):
        if rate[position] <= FLOW_EPSILON:
            found.append(0.0)
            continue
        servers = round(float(values[model.instances.start + position]))
        mean = load[position] / rate[position]
        variation = max(0.0, square[position] / rate[position] / mean**2 - 1)
        found.append(
            mean_wait_seconds(servers, float(rate[position]), float(mean), service_variation=float(variation))
            if servers
            else math.inf
        )
    return tuple(found)


def too_late(model: Model, values: Floats) -> frozenset[tuple[int, int]]:
    """(pair, bucket) that the plan uses although its predicted time to first token misses the objective."""
    wait = waits(model, values)
    late = set()
    for position, pair in enumerate(model.pairs):
        slo = model.problem.decode_pools[pair.decode].ttft_seconds
        if slo is None:
            continue
        seconds = base_seconds(pair, model.problem.links) + wait[pair.prefill]
        used = values[pair.columns] > FLOW_EPSILON
        late |= {(position, int(bucket)) for bucket in np.flatnonzero(used & (seconds > slo * (1 + 1e-9)))}
    return frozenset(late)


def tightened(limits: Limits, model: Model, values: Floats, late: frozenset[tuple[int, int]]) -> Limits:
    """Less utilisation for the pools that are late; what is late at the least utilisation is forbidden.

    Every call either lowers a cap or forbids something, so that repeating it comes to an end.
    """
    utilisation = list(limits.utilisation)
    forbidden = set(limits.forbidden)
    for prefill in sorted({model.pairs[pair].prefill for pair, _ in late}):
        lower = next((step for step in UTILISATION_STEPS if step < utilisation[prefill] - 1e-9), None)
        if lower is None:
            forbidden |= {(pair, bucket) for pair, bucket in late if model.pairs[pair].prefill == prefill}
        else:
            utilisation[prefill] = lower
    return Limits(tuple(utilisation), frozenset(forbidden))
