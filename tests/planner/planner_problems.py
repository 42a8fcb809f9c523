"""Problems for the planner's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from prfaas.capacity import DecodeRate, TruncatedLogNormal, paper
from prfaas.planner import (
    Cluster,
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    Plan,
    PrefillPool,
    Problem,
    Quota,
    Region,
    direct_routes,
    plan,
)

MOST = Options(goal=Goal.MOST_SERVED)
LEAST = Options(goal=Goal.LEAST_COST)


def solved(problem: Problem, options: Options = LEAST) -> Plan:
    """A plan with a clock that stands still, so that the machine's speed cannot matter."""
    return plan(problem, options, elapsed_seconds=lambda: 0.0)


def stopwatch(readings: Iterable[float]) -> Callable[[], float]:
    """A clock that shows these seconds, the last one for ever."""
    values = list(readings)
    return lambda: values.pop(0) if len(values) > 1 else values[0]


def two_regions(
    *,
    gigabits: float = 25.0,
    arrivals: float = 2.0,
    ttft_seconds: float | None = None,
    remote: Instances | None = None,
    local: Instances | None = None,
    decode: Instances | None = None,
    quotas: tuple[Quota, ...] = (),
) -> Problem:
    """Cheap fast prefill in the north, a slower pool and the decode pool in the west."""
    prefill = (
        PrefillPool(
            "north-fast",
            "north",
            "m",
            paper.PREFILL_H200,
            remote or Instances(maximum=8, price_per_hour=10.0),
            utilisation_max=0.9,
        ),
        PrefillPool(
            "west-slow",
            "west",
            "m",
            paper.PREFILL_H20,
            local or Instances(maximum=12, price_per_hour=12.0),
            utilisation_max=0.9,
        ),
    )
    pools = (
        DecodePool(
            "west-chat",
            "west",
            "m",
            kv=paper.KV,
            decode=DecodeRate(0.025, 20, 1024),
            lengths=TruncatedLogNormal(9.9, 1.0, 128, paper.LONGEST_TOKENS),
            arrivals_per_second=arrivals,
            instances=decode or Instances(maximum=12, price_per_hour=5.0),
            ttft_seconds=ttft_seconds,
        ),
    )
    links = (Link("north-west", "north", "west", gigabits * 1e9, rtt_seconds=0.03, price_per_gigabyte=0.001),)
    return Problem(
        prefill_pools=prefill,
        decode_pools=pools,
        routes=direct_routes(prefill, pools, links),
        links=links,
        clusters=(Cluster("north", "eu-north"), Cluster("west", "eu-west")),
        regions=(Region("eu"), Region("eu-north", "eu"), Region("eu-west", "eu")),
        quotas=quotas,
    )


def with_decode(problem: Problem, **changes: object) -> Problem:
    """The same with other values of its only decode pool."""
    (pool,) = problem.decode_pools
    return replace(problem, decode_pools=(replace(pool, **changes),))  # type: ignore[arg-type]


def assert_feasible(problem: Problem, found: Plan) -> None:
    """Every constraint holds for the values of the plan, recomputed from its flows."""
    slack = 1 + 1e-5
    size = {pool.name: pool.instances for pool in found.pools}
    for pool in problem.pools:
        assert 0 <= size[pool.name] <= pool.instances.most
        if not found.conflicts:
            assert size[pool.name] >= pool.instances.minimum
    for plan_of_pool in found.pools:
        cap = next(pool.utilisation_max for pool in problem.pools if pool.name == plan_of_pool.name)
        assert plan_of_pool.utilisation <= cap * slack + 1e-6
    for link in found.links:
        assert link.bits_per_second <= link.usable_bits_per_second * slack
    for quota in problem.quotas:
        used = sum(
            size[pool.name] * pool.instances.accelerators_each
            for pool in problem.pools
            if pool.name in quota.pools
        )
        assert used <= quota.accelerators + 1e-6
    for decode in found.decode_pools:
        flows = [flow for flow in found.flows if flow.decode_pool == decode.name]
        assert abs(sum(flow.requests_per_second for flow in flows) - decode.served_per_second) <= 1e-6
        assert decode.served_per_second <= decode.demand_per_second * slack + 1e-6
    assert 0 <= found.gap <= 1
