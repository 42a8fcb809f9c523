"""Runs as a whole: the same twice, nobody lost, failures, caches, sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from prfaas.capacity import Curve, KVSize
from prfaas.planner import Goal
from prfaas.simulator import Failure, Policy, PoolDetails, Result, RouterKind, Sizing, simulate
from prfaas.simulator.autoscaled import AutoscalerController
from prfaas.simulator.result import oscillations
from tests.simulator.simulator_scenarios import (
    OPTIONS,
    SELDOM,
    constant,
    lengths,
    one_site,
    settings,
    two_sites,
)

ROUTERS = (RouterKind.THRESHOLD, RouterKind.SCHEDULER, RouterKind.LOCAL, RouterKind.REMOTE)


def run(router: RouterKind = RouterKind.THRESHOLD, problem: Any = None, **fields: Any) -> Result:
    return simulate(problem or two_sites(), OPTIONS, settings(router, **fields))


def accounted(result: Result) -> None:
    for each in (result.total, *result.demand):
        assert each.arrived == each.served + sum(each.unserved.values()) + each.unfinished
        assert each.unfinished >= 0
    assert sum(each.arrived for each in result.demand) == result.total.arrived


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_seed_gives_the_same_result_and_another_does_not(router: RouterKind) -> None:
    one, same, other = (run(router, seed=seed) for seed in (3, 3, 4))
    # NaN stands for "no measurement" in samples, and is not equal to itself.
    assert repr(one) == repr(same)
    assert one.total != other.total


def test_what_comes_does_not_depend_on_who_decides() -> None:
    found = [run(router) for router in ROUTERS]
    assert len({result.total.arrived for result in found}) == 1
    assert len({len(result.notes) for result in found}) == 1


def test_local_sends_nothing_away_and_remote_everything() -> None:
    local, remote = run(RouterKind.LOCAL), run(RouterKind.REMOTE)
    assert (local.total.remote_share, remote.total.remote_share) == (0.0, 1.0)
    assert local.links[0].gigabytes == 0
    expected = two_sites().decode_pools[0].kv.mean(two_sites().decode_pools[0].lengths, 0, 1e9)
    assert remote.links[0].gigabytes * 1e9 / remote.total.served == pytest.approx(expected, rel=0.05)
    assert remote.link_cost == pytest.approx(0.01 * remote.links[0].gigabytes, rel=0.02)


@pytest.mark.parametrize("router", [RouterKind.THRESHOLD, RouterKind.SCHEDULER])
def test_long_prompts_go_away_by_the_plans_threshold(router: RouterKind) -> None:
    result = run(router, two_sites(arrivals_per_second=18.0), warm_up_seconds=60.0)
    assert 0.2 < result.total.remote_share < 0.9
    assert result.reasons["OverThreshold"] > 100
    assert result.total.served_share == 1.0


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    router=st.sampled_from(ROUTERS),
    seed=st.integers(0, 1000),
    queue=st.sampled_from([2.0, 30.0]),
    failures=st.lists(
        st.builds(
            lambda target, at, length, again: Failure.model_validate(
                {target[0]: target[1], "at_seconds": at, "for_seconds": length}
                | ({"every_seconds": length * 2} if again else {})
            ),
            st.sampled_from(
                [
                    ("link", "north-west"),
                    ("pool", "far"),
                    ("pool", "near"),
                    ("pool", "d"),
                    ("cluster", "north"),
                ]
            ),
            st.floats(0, 110),
            st.floats(0.5, 40),
            st.booleans(),
        ),
        max_size=3,
    ),
)
def test_every_request_is_served_failed_or_under_way(
    router: RouterKind, seed: int, queue: float, failures: list[Failure]
) -> None:
    result = run(
        router,
        two_sites(arrivals_per_second=12.0, bits_per_second=3e8),
        duration_seconds=120.0,
        seed=seed,
        failures=tuple(failures),
        queue_seconds_max=queue,
        warm_up_seconds=10.0,
    )
    accounted(result)
    # All that arrived early enough has come to an end: nothing is stuck.
    assert result.total.unfinished <= 12.0 * (queue + 60)
    for pool in result.pools:
        assert -1e-9 <= pool.utilisation <= 1 + 1e-9


def test_a_link_that_fails_costs_time_and_no_request() -> None:
    slow = KVSize.per_token(20_000.0, to_tokens=1e6)
    problem = two_sites(arrivals_per_second=6.0, kv=slow, bits_per_second=2e10)
    calm = run(RouterKind.REMOTE, problem)
    cut = run(
        RouterKind.REMOTE, problem, failures=(Failure(at_seconds=200, for_seconds=100, link="north-west"),)
    )
    assert cut.fallbacks["LinkDown"] > 0
    assert cut.total.unserved == {}
    assert cut.total.remote_share < calm.total.remote_share
    assert cut.total.ttft_seconds.p99 is not None
    assert calm.total.ttft_seconds.p99 is not None
    assert cut.total.ttft_seconds.p99 > calm.total.ttft_seconds.p99
    after = [
        bits
        for at, bits in zip(cut.series.at_seconds, cut.series.link_bits_per_second["north-west"], strict=True)
        if at > 320
    ]
    assert min(after) > 0


def test_a_link_that_is_too_slow_is_not_waited_for() -> None:
    slow = KVSize.per_token(20_000.0, to_tokens=1e6)
    problem = two_sites(arrivals_per_second=6.0, kv=slow, bits_per_second=2e9)
    policy = {"router": RouterKind.REMOTE, **SELDOM}
    waits, leaves = (
        simulate(problem, OPTIONS, settings(policy=Policy(anytime=anytime, **policy)))
        for anytime in (False, True)
    )
    assert leaves.fallbacks["TransferSlow"] > 100
    assert waits.total.ttft_seconds.p50 is not None
    assert leaves.total.ttft_seconds.p50 is not None
    assert leaves.total.ttft_seconds.p50 < waits.total.ttft_seconds.p50 / 5


def test_what_has_landed_is_not_computed_again() -> None:
    """Transfers that are cut: the near pool computes a part of what it computes when all is local."""
    problem = two_sites(
        arrivals_per_second=0.01,
        kv=KVSize.per_token(100_000.0, to_tokens=1e6),
        bits_per_second=1e8,
        local=Curve.polynomial(0.01, 0.01, to_tokens=1e6),
        remote=constant(0.5),
        prompt_lengths=lengths(8192.0),
    )
    # A transfer takes 65 s, so that each is cut once, on average in its middle.
    cuts = Failure(at_seconds=100, for_seconds=5, every_seconds=60, link="north-west")
    policy = Policy(router=RouterKind.REMOTE, anytime=False, **SELDOM)
    cut = simulate(problem, OPTIONS, settings(policy=policy, duration_seconds=20_000.0, failures=(cuts,)))
    whole = run(RouterKind.LOCAL, problem, duration_seconds=20_000.0)
    assert cut.fallbacks["LinkDown"] > 20
    assert 0 < cut.pools[1].utilisation < 0.8 * whole.pools[1].utilisation


def test_a_decode_pool_that_is_down_fails_its_requests_and_says_so() -> None:
    result = run(failures=(Failure(at_seconds=100, for_seconds=50, pool="d"),))
    assert result.total.unserved["DecodeDown"] > 100
    assert result.total.served > 1000


def test_a_short_failure_that_nobody_noticed_loses_nobody() -> None:
    result = run(failures=(Failure(at_seconds=100, for_seconds=1, pool="far"),), detect_seconds=5)
    assert result.total.unserved == {}


def test_a_region_takes_its_pools_and_links_with_it() -> None:
    cluster = Failure(at_seconds=100, for_seconds=100, cluster="north")
    result = run(RouterKind.SCHEDULER, two_sites(arrivals_per_second=18.0), failures=(cluster,))
    down = [
        busy
        for at, busy in zip(result.series.at_seconds, result.series.pools["far"].utilisation, strict=True)
        if 110 < at <= 200
    ]
    assert max(down) == 0
    accounted(result)


def test_conversations_find_their_beginning_in_the_cache() -> None:
    sessions = {"turnsMean": 6, "thinkSeconds": 5, "sharedPrefixes": 3, "sharedPrefixTokens": 2048}
    demand = {"d": {"sessions": sessions}}
    problem = two_sites(prompt_lengths=lengths(*[512.0] * 99, 65536.0))
    cold, warm, small = (
        run(problem=problem, demand=demand, cache_tokens=tokens) for tokens in (0, 50_000_000, 50_000)
    )
    assert cold.cached_share == 0
    assert warm.cached_share > 0.3
    assert 0 < small.cached_share < warm.cached_share
    # The scenario's rate is one of requests, first and later turns together; a conversation ends where its
    # prompt would be too long, and the last turns did not come yet.
    assert 3.2 < warm.total.arrived / 600 < 4.4


def test_growing_takes_the_time_that_an_instance_needs() -> None:
    problem = two_sites(arrivals_per_second=18.0, sizes=(1, 1, 1))
    result = run(problem=problem, policy=Policy(sizing=Sizing.PLANNER, replan_seconds=60.0))
    ready = dict(zip(result.series.at_seconds, result.series.pools["near"].ready, strict=True))
    assert ready[57.0] == 1
    assert result.series.pools["near"].starting[0] > 0
    assert max(ready.values()) > 1
    paid = result.pools[1]
    assert paid.billed_instances > paid.ready_instances


def test_instances_change_roles_inside_a_cluster_faster_than_they_start() -> None:
    def ready(conversion: bool) -> list[int]:
        problem = two_sites(arrivals_per_second=4.0, sizes=(1, 12, 1))
        policy = Policy(
            sizing=Sizing.PLANNER, conversion=conversion, convert_seconds=5.0, replan_seconds=300.0
        )
        return (
            run(problem=problem, policy=policy, duration_seconds=60.0, sample_seconds=10.0)
            .series.pools["d"]
            .ready
        )

    assert max(ready(True)[:4]) >= max(ready(False)[:4])


def test_swings_are_counted_and_slow_changes_are_not() -> None:
    assert oscillations([(0, 1), (100, -1), (200, 1)]) == 2
    assert oscillations([(0, 1), (100, 1), (200, 2)]) == 0
    assert oscillations([(0, 1), (4000, -1)]) == 0


def test_prices_follow_the_hour() -> None:
    day = [10.0] * 12 + [20.0] * 12
    problem = one_site(arrivals_per_second=0.01)
    pools = {"p": {"priceByHour": day}}
    result = simulate(
        problem,
        OPTIONS,
        settings(duration_seconds=7200.0, start_hour=11.0, pools=pools),
    )
    assert result.pools[0].cost == pytest.approx(30.0, rel=0.01)
    assert result.pools[1].cost == pytest.approx(20.0, rel=0.01)


def test_who_waits_too_long_gives_up_and_counts_as_late() -> None:
    problem = one_site(arrivals_per_second=2.0, prefill=constant(1.0), ttft_seconds=3.0)
    result = simulate(problem, OPTIONS, settings(queue_seconds_max=10.0))
    assert result.total.unserved["WaitedForPrefill"] > 300
    assert result.total.attained_share is not None
    assert result.total.attained_share < 0.2


def test_the_scheduler_may_refuse_what_nothing_can_serve_in_time() -> None:
    problem = one_site(arrivals_per_second=2.0, prefill=constant(1.0), ttft_seconds=3.0)
    policy = Policy(router=RouterKind.SCHEDULER, refuse=True, **SELDOM)
    result = simulate(problem, OPTIONS, settings(policy=policy))
    assert result.total.unserved["SloUnreachable"] > 300
    assert result.total.ttft_seconds.p99 is not None
    assert result.total.ttft_seconds.p99 < 4.0


def test_an_end_on_request_keeps_what_is_known() -> None:
    seen: list[float] = []

    def until_half(seconds: float) -> bool:
        seen.append(seconds)
        return seconds < 300

    result = simulate(two_sites(), OPTIONS, settings(), progress=until_half)
    assert result.interrupted
    assert result.seconds == 300
    assert seen == sorted(seen)
    accounted(result)


def test_the_autoscaler_decides_on_sizes() -> None:
    """It grows under load that rises, and the reasons that it gives are kept."""
    problem = two_sites(arrivals_per_second=18.0, sizes=(1, 1, 1))
    policy = Policy(
        sizing=Sizing.AUTOSCALER, router=RouterKind.SCHEDULER, control_seconds=30.0, replan_seconds=300.0
    )
    result = run(problem=problem, policy=policy, duration_seconds=400.0, warm_up_seconds=200.0)
    near, far = (result.series.pools[name].ready[-1] for name in ("near", "far"))
    assert near + far > 4
    assert any("near" in note or "far" in note for _, note in result.notes)
    assert result.oscillations <= 1
    accounted(result)


def test_who_is_replaced_by_others_elsewhere_stays_until_they_are_there() -> None:
    """The far pool gets cheap after five minutes; its instances take a minute to start."""
    problem = two_sites(arrivals_per_second=10.0, remote=constant(0.4), sizes=(0, 8, 8))
    cheap = {"far": PoolDetails(price_by_hour=(100.0, *[1.0] * 23))}
    result = simulate(
        problem,
        replace(OPTIONS, goal=Goal.LEAST_COST),
        settings(
            duration_seconds=1200.0,
            start_hour=1 - 300 / 3600,
            pools=cheap,
            policy=Policy(
                router=RouterKind.SCHEDULER,
                sizing=Sizing.PLANNER,
                replan_seconds=150.0,
                control_seconds=10.0,
                headroom=0.2,
            ),
        ),
    )
    far, near = result.series.pools["far"], result.series.pools["near"]
    both = [far.ready[i] + near.ready[i] for i in range(len(far.ready))]
    assert far.ready[-1] > 4
    assert near.ready[-1] == 0
    assert min(both) >= 5, "four are needed for what comes, more or less"
    assert result.total.served_share == 1.0
    assert result.total.ttft_seconds.p99 is not None
    assert result.total.ttft_seconds.p99 < 5.0


def test_the_autoscaler_changes_roles_only_on_the_same_hardware() -> None:
    """Pools of one cluster, size and price can; a pool that costs something else at any hour cannot."""
    problem = two_sites()
    dear = {"near": PoolDetails(price_by_hour=(10.0,) * 23 + (99.0,))}
    same = AutoscalerController.made(problem, OPTIONS, Policy(), caches=False)
    other = AutoscalerController.made(problem, OPTIONS, Policy(), caches=False, details=dear)
    kinds = [{name: own.hardware for name, own in each.settings.pools.items()} for each in (same, other)]
    assert kinds[0] == {"far": "far", "near": "near", "d": "near"}
    assert kinds[1] == {"far": "far", "near": "near", "d": "d"}
