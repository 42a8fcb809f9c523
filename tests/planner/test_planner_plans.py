"""What a plan does about cost, quotas, stock, residency, moves and time to first token."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from prfaas.capacity import (
    Curve,
    DecodeRate,
    InvalidInputError,
    KVSize,
    Segment,
    TruncatedLogNormal,
    mean_of,
    paper,
)
from prfaas.planner import (
    BindingKind,
    DecodePool,
    Goal,
    Instances,
    Options,
    PlanTimeoutError,
    PrefillPool,
    Problem,
    Quota,
    Residency,
    Routing,
    direct_routes,
    in_force,
    plan,
)
from prfaas.planner.paper import paper_problem
from tests.planner.planner_problems import (
    LEAST,
    MOST,
    assert_feasible,
    solved,
    stopwatch,
    two_regions,
    with_decode,
)


def test_cheap_remote_prefill_is_used_first() -> None:
    problem = two_regions()
    found = solved(problem)
    assert_feasible(problem, found)
    assert found.complete
    assert found.pool("west-slow").instances == 0
    assert found.decode_pool("west-chat").threshold_tokens == pytest.approx(128, rel=0.01)


def test_dear_remote_prefill_is_left_alone() -> None:
    problem = two_regions(remote=Instances(maximum=8, price_per_hour=100.0))
    found = solved(problem)
    assert found.complete
    assert found.pool("north-fast").instances == 0
    assert found.decode_pool("west-chat").threshold_tokens == math.inf
    assert found.decode_pool("west-chat").remote_share == 0


def test_a_narrow_link_makes_the_plan_dearer_and_says_what_more_would_save() -> None:
    narrow, wide = solved(two_regions(gigabits=3)), solved(two_regions(gigabits=50))
    assert narrow.complete
    assert narrow.cost_per_hour > wide.cost_per_hour
    link = next(binding for binding in narrow.bindings if binding.kind is BindingKind.LINK)
    assert link.shadow_price > 0
    assert link.price_unit == "per hour"
    assert link.sentence.startswith(
        "egress north to west binds, but for whole instances, at 2.47 of 3 Gbit/s: 1 Gbit/s more would save"
    )
    assert all(binding.kind is not BindingKind.LINK for binding in wide.bindings)


def test_demand_beyond_all_pools_is_served_in_part_and_says_why() -> None:
    problem = two_regions(arrivals=20.0)
    found = solved(problem)
    assert_feasible(problem, found)
    assert not found.complete
    assert not found.conflicts
    assert 0 < found.served_per_second < 20
    assert found.decode_pool("west-chat").unserved_per_second == pytest.approx(20 - found.served_per_second)
    assert "would serve" in found.summary


def test_a_quota_and_the_reason_why_a_pool_cannot_grow() -> None:
    quota = Quota("west", frozenset({"west-slow", "west-chat"}), 6)
    problem = two_regions(arrivals=8.0, quotas=(quota,))
    found = solved(problem)
    assert_feasible(problem, found)
    assert any("(quota west)" in binding.sentence for binding in found.bindings)


def test_a_stock_out_caps_a_pool() -> None:
    problem = two_regions(arrivals=4.0, remote=Instances(maximum=8, available=1, price_per_hour=10.0))
    found = solved(problem)
    assert_feasible(problem, found)
    assert found.pool("north-fast").instances == 1
    assert any("only 1 can be had now" in binding.sentence for binding in found.bindings)


def test_residency_keeps_prompts_at_home_and_is_named() -> None:
    problem = with_decode(two_regions(), residency=Residency(allowed=frozenset({"eu-west"})))
    found = solved(problem)
    assert found.pool("north-fast").instances == 0
    assert [excluded.reason for excluded in found.excluded] == ["residency of west-chat allows only eu-west"]


def test_a_region_allows_what_lies_within_it_unless_denied() -> None:
    allowed = with_decode(two_regions(), residency=Residency(allowed=frozenset({"eu"})))
    assert solved(allowed).excluded == ()
    denied = with_decode(
        two_regions(), residency=Residency(allowed=frozenset({"eu"}), denied=frozenset({"eu-north"}))
    )
    assert "denies eu-north" in solved(denied).excluded[0].reason


def test_an_allow_list_and_another_model_exclude_routes() -> None:
    listed = with_decode(two_regions(), prefill_pools=frozenset({"west-slow"}))
    assert "does not list north-fast" in solved(listed).excluded[0].reason
    problem = two_regions()
    other = replace(problem.prefill_pools[0], model="m2")
    mixed = replace(problem, prefill_pools=(other, problem.prefill_pools[1]))
    assert solved(mixed).excluded[0].reason == "north-fast runs m2, west-chat runs m"


def test_no_route_at_all_serves_nothing_and_says_so() -> None:
    problem = replace(two_regions(), routes=())
    found = solved(problem)
    assert found.served_per_second == 0
    assert "west-chat has no usable route" in found.notes[0]
    assert solved(problem, MOST).factor == pytest.approx(0)


def test_minimums_beyond_a_quota_conflict_and_the_best_partial_plan_keeps_the_rest() -> None:
    problem = two_regions(
        local=Instances(maximum=12, minimum=6, price_per_hour=12.0),
        decode=Instances(maximum=12, minimum=4, price_per_hour=5.0),
        quotas=(Quota("west", frozenset({"west-slow", "west-chat"}), 8),),
    )
    found = solved(problem)
    assert_feasible(problem, found)
    (conflict,) = found.conflicts
    assert conflict.constraints[0] == "quotas[west].accelerators"
    assert set(conflict.constraints[1:]) == {
        "prefill_pools[west-slow].instances.minimum",
        "decode_pools[west-chat].instances.minimum",
    }
    assert conflict.given_up
    assert "has 8 accelerators, but the minimums of its pools need 10" in found.summary
    assert sum(found.pool(name).instances for name in ("west-slow", "west-chat")) == 8
    assert found.served_per_second == pytest.approx(2.0)
    assert not found.complete


def test_a_minimum_beyond_stock_conflicts() -> None:
    problem = two_regions(
        local=Instances(maximum=12, minimum=6, available=2, price_per_hour=12.0),
    )
    found = solved(problem)
    assert found.conflicts[0].given_up == ("prefill_pools[west-slow].instances.minimum",)
    assert "only 2 can be had now" in found.summary
    assert found.pool("west-slow").instances == 2


def test_a_minimum_is_kept_and_its_price_named() -> None:
    problem = two_regions(local=Instances(maximum=12, minimum=3, price_per_hour=12.0))
    found = solved(problem)
    assert found.pool("west-slow").instances == 3
    binding = next(binding for binding in found.bindings if binding.kind is BindingKind.MINIMUM)
    assert 0 < binding.shadow_price <= 12.0


def test_a_ttft_bound_costs_instances_and_is_met_by_every_flow() -> None:
    loose, tight = solved(two_regions()), solved(two_regions(ttft_seconds=7.2))
    assert tight.complete
    assert tight.cost_per_hour > loose.cost_per_hour
    for flow in tight.flows:
        for rate, seconds in zip(flow.by_bucket, flow.ttft_seconds, strict=True):
            assert rate <= 1e-6 or seconds <= 7.2 * (1 + 1e-6)


def test_what_is_still_late_when_the_search_ends_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.planner.planner.ROUNDS_MAX", 1)
    problem = two_regions(ttft_seconds=7.2)
    found = solved(problem)
    assert_feasible(problem, found)
    assert 0 < found.served_per_second < 2.0
    assert any("give more time_limit_seconds" in note for note in found.notes)
    assert found.gap == 1.0
    for flow in found.flows:
        for rate, seconds in zip(flow.by_bucket, flow.ttft_seconds, strict=True):
            assert rate <= 1e-6 or seconds <= 7.2 * (1 + 1e-6)


def test_lengths_that_cannot_be_in_time_are_named_and_unserved() -> None:
    problem = two_regions(ttft_seconds=3.0)
    found = solved(problem)
    assert_feasible(problem, found)
    assert not found.complete
    assert any("cannot have a first token within 3 s on any route" in note for note in found.notes)
    assert found.decode_pool("west-chat").served_per_second > 0


def test_a_start_costs_what_it_takes() -> None:
    running = Instances(maximum=12, current=10, price_per_hour=8.0, start_seconds=900)
    to_start = Instances(maximum=8, current=0, price_per_hour=17.0, start_seconds=900)
    problem = two_regions(remote=to_start, local=running)
    short, long = replace(LEAST, horizon_hours=0.25), replace(LEAST, horizon_hours=1000.0)
    now, later = solved(problem, short), solved(problem, long)
    assert later.pool("north-fast").instances > now.pool("north-fast").instances


def test_present_sizes_stay_unless_the_new_ones_are_clearly_better() -> None:
    best = solved(two_regions())
    sizes = {pool.name: pool.instances for pool in best.pools}
    current = two_regions(
        remote=Instances(maximum=8, current=sizes["north-fast"] + 1, price_per_hour=10.0),
        local=Instances(maximum=12, current=sizes["west-slow"], price_per_hour=12.0),
        decode=Instances(maximum=12, current=sizes["west-chat"], price_per_hour=5.0),
    )
    moved = solved(current)
    assert not moved.kept
    assert moved.pool("north-fast").instances == sizes["north-fast"]
    held = solved(current, replace(LEAST, keep_within=0.25))
    assert held.kept
    assert [pool.instances for pool in held.pools] == [pool.before for pool in held.pools]
    strict = solved(current, replace(LEAST, keep_within=0.01))
    assert not strict.kept


def test_present_sizes_that_serve_less_do_not_stay() -> None:
    current = two_regions(
        remote=Instances(maximum=8, current=1, price_per_hour=10.0),
        local=Instances(maximum=12, current=0, price_per_hour=12.0),
        decode=Instances(maximum=12, current=3, price_per_hour=5.0),
    )
    found = solved(current, replace(LEAST, keep_within=0.2))
    assert not found.kept
    assert found.complete


def test_present_sizes_that_leave_a_few_percent_unserved_do_not_stay_however_cheap() -> None:
    """They serve 98 % of the demand, and the plan may cost a quarter more before anything moves."""

    def two(arrivals: float, *, more: int) -> Problem:
        kinds = [(3, 10.0), (2, 12.0), (3, 5.0)]
        remote, local, decode = (
            Instances(maximum=size + more, current=size, price_per_hour=price) for size, price in kinds
        )
        return two_regions(arrivals=arrivals, remote=remote, local=local, decode=decode)

    most = solved(two(9.0, more=0)).served_per_second
    enough = solved(two(most * 0.9, more=4), replace(LEAST, keep_within=1.0))
    assert enough.kept
    assert enough.complete
    short = solved(two(most * 1.02, more=4), replace(LEAST, keep_within=1.0))
    assert not short.kept
    assert short.complete


def test_carbon_has_a_price() -> None:
    clean = Instances(maximum=8, price_per_hour=12.0, carbon_kilograms_per_hour=0.1)
    dirty = Instances(maximum=12, price_per_hour=6.0, carbon_kilograms_per_hour=5.0)
    problem = two_regions(remote=clean, local=dirty)
    free, priced = solved(problem), solved(problem, replace(LEAST, carbon_price_per_kilogram=5.0))
    assert priced.carbon_kilograms_per_hour < free.carbon_kilograms_per_hour


def test_by_bucket_pays_when_short_prompts_are_worth_more_bandwidth() -> None:
    # Seconds saved per byte fall with length: short prompts should cross the narrow link first.
    slow = Curve((Segment(1, 8_000, 0.5, 1e-3), Segment(8_000, 131_072, 8.5, 1e-6)))
    problem = paper_problem(egress_bits_per_second=1e9)
    fast, local = problem.prefill_pools
    odd = replace(problem, prefill_pools=(fast, replace(local, prefill=slow)))
    by_bucket = solved(odd, Options(goal=Goal.MOST_SERVED, routing=Routing.BY_BUCKET))
    by_threshold = solved(odd, MOST)
    assert by_bucket.factor > by_threshold.factor * 1.01
    assert by_bucket.decode_pools[0].threshold_tokens is None
    shares = by_threshold.decode_pools[0].remote_by_bucket
    assert all(shorter <= longer + 1e-4 for shorter, longer in pairwise(shares))


def test_a_continued_profile_is_flagged() -> None:
    problem = paper_problem()
    table = replace(problem.prefill_pools[0], prefill=paper.PREFILL_H200_TABLE)
    found = solved(replace(problem, prefill_pools=(table, problem.prefill_pools[1])), MOST)
    assert any("T_prefill of h200 is continued beyond 1024 to 131072 tokens" in note for note in found.notes)


def test_lengths_beyond_a_profile_are_refused_with_the_pools_name() -> None:
    short = KVSize.per_token(1000, to_tokens=1000)
    with pytest.raises(
        InvalidInputError, match=r"decode_pools\[west-chat\]\.kv for the lengths of west-chat"
    ):
        solved(with_decode(two_regions(), kv=short))


def test_without_time_there_is_no_plan_and_the_previous_one_is_stale() -> None:
    previous = solved(two_regions())
    with pytest.raises(PlanTimeoutError, match="raise time_limit_seconds") as caught:
        plan(two_regions(), LEAST, elapsed_seconds=lambda: 11.0)
    standing = in_force(previous, caught.value)
    assert standing.plan is previous
    assert "previous plan stays in force" in (standing.stale_because or "")
    assert in_force(previous, previous).stale_because is None
    wrong = InvalidInputError("links[a]", "is 0", "give more")
    assert in_force(previous, wrong).stale_because == "links[a]: is 0; give more"


def test_time_that_runs_out_after_the_first_goal_still_gives_a_plan() -> None:
    found = plan(two_regions(), LEAST, elapsed_seconds=stopwatch([0.0, 0.0, 11.0]))
    assert found.served_per_second == pytest.approx(2.0)
    assert found.cost_gap is None
    assert found.bindings == ()


def shared(instances: int | None) -> Problem:
    """A decode pool that also prefills; `instances` None: 1 to 9 of them, at a price."""
    size = (
        Instances(maximum=9, current=1, price_per_hour=4.0)
        if instances is None
        else Instances(maximum=instances, minimum=instances, price_per_hour=0.0)
    )
    lengths = TruncatedLogNormal(7, 1, 10, 10_000)
    decode = DecodePool(
        "chat",
        "west",
        "m",
        KVSize.per_token(1000, to_tokens=10_000),
        DecodeRate(0.02, 10, 100),
        lengths,
        2.0,
        size,
        utilisation_max=0.8,
    )
    own = PrefillPool(
        "own", "west", "m", Curve.polynomial(0, 1e-3, to_tokens=10_000), replace(size, minimum=0), 1.0, "chat"
    )
    own = replace(own, instances=replace(own.instances, price_per_hour=0.0))
    return Problem((own,), (decode,), direct_routes((own,), (decode,), ()))


def test_instances_that_prefill_beside_decoding_are_counted_once() -> None:
    found = solved(shared(3), MOST)
    by_name = {pool.name: pool for pool in found.pools}
    assert by_name["own"].instances == by_name["chat"].instances == 3
    assert by_name["own"].utilisation + by_name["chat"].utilisation == pytest.approx(0.8, rel=1e-3)
    per_request = mean_of(
        Curve.polynomial(0, 1e-3, to_tokens=10_000), TruncatedLogNormal(7, 1, 10, 10_000), 0, 1e9
    )
    assert found.served_per_second == pytest.approx(3 * 0.8 / (per_request + 0.2), rel=1e-3)
    assert found.bindings[0].name == "chat"


def test_a_shared_pool_is_sized_and_paid_for_once() -> None:
    found = solved(shared(None))
    assert found.complete
    sizes = {pool.name: pool.instances for pool in found.pools}
    assert sizes["own"] == sizes["chat"] > 1
    # One instance that is started is written off beside its price.
    assert found.cost_per_hour == pytest.approx(4.0 * sizes["chat"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instances_of": "nobody"}, "no decode pool is named nobody"),
        ({"cluster": "north"}, "chat has another cluster or model"),
    ],
)
def test_instances_can_be_shared_only_with_a_decode_pool_beside(change: dict[str, Any], words: str) -> None:
    problem = shared(1)
    with pytest.raises(InvalidInputError, match=words):
        solved(replace(problem, prefill_pools=(replace(problem.prefill_pools[0], **change),), routes=()))
