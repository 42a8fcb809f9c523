"""Throughput over t: the same as the paper's two-site model, and what shared instances make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prfaas.capacity import InvalidInputError, Means, paper
from prfaas.capacity import Stage as PaperStage
from prfaas.planner import Goal, Options
from prfaas.planner.paper import paper_problem
from prfaas.planner.sweep import Shares, Stage, throughput_over_threshold
from tests.planner.planner_problems import solved

SIZES = {"h200": 4, "h20-prefill": 3, "h20-decode": 5}
SAME = {
    PaperStage.REMOTE_PREFILL: Stage.REMOTE_PREFILL,
    PaperStage.EGRESS: Stage.LINK,
    PaperStage.LOCAL_PREFILL: Stage.LOCAL_PREFILL,
    PaperStage.DECODE: Stage.DECODE,
}


@pytest.mark.parametrize("gigabits", [100, 5])
def test_figure_5_is_the_two_site_models(gigabits: float) -> None:
    system = paper.two_site(egress_bits_per_second=gigabits * 1e9, means=Means.EXACT)
    problem = paper_problem(egress_bits_per_second=gigabits * 1e9)
    at = [4_000.0, 12_000.0, 19_400.0, 40_000.0, 100_000.0]
    points = throughput_over_threshold(problem, "h20-decode", SIZES, thresholds_tokens=at)
    for point in points:
        theirs = system.at(point.threshold_tokens, 3)
        assert point.throughput == pytest.approx(theirs.throughput, rel=1e-9)
        assert point.binding is SAME[theirs.binding]
        assert point.remote_share == pytest.approx(theirs.remote_share)


def test_no_threshold_gives_more_than_the_plan_and_the_best_gives_as_much() -> None:
    problem = paper_problem(egress_bits_per_second=5e9)
    found = solved(problem, Options(goal=Goal.MOST_SERVED, buckets=64))
    sizes = {pool.name: pool.instances for pool in found.pools}
    points = throughput_over_threshold(problem, "h20-decode", sizes, points=200)
    best = max(point.throughput for point in points)
    assert best <= found.factor * (1 + 1e-3)
    assert best == pytest.approx(found.factor, rel=0.02)


def test_ends_where_all_is_remote_or_nothing_is() -> None:
    first, last = throughput_over_threshold(
        paper_problem(), "h20-decode", SIZES, thresholds_tokens=[0.0, 1e9]
    )
    assert first.remote_share == pytest.approx(1.0)
    assert first.local == float("inf")
    assert last.remote_share == 0
    assert last.remote == float("inf")


def test_instances_that_do_both_have_less_left_to_decode_with_the_more_stays() -> None:
    problem = paper_problem()
    remote, local = problem.prefill_pools
    both = replace(local, name="own", instances_of="h20-decode")
    routes = tuple(
        replace(route, prefill_pool="own") if route.prefill_pool == local.name else route
        for route in problem.routes
    )
    shared = replace(problem, prefill_pools=(remote, both), routes=routes, quotas=())
    sizes = {"h200": 4, "own": 8, "h20-decode": 8}
    points = throughput_over_threshold(shared, "h20-decode", sizes)
    limits = [point.decode for point in points]
    assert limits == sorted(limits, reverse=True)
    found = solved(shared, Options(goal=Goal.MOST_SERVED, buckets=64))
    assert max(point.throughput for point in points) == pytest.approx(found.factor, rel=0.03)


def test_what_others_use_is_not_there() -> None:
    others = Shares({"h200": 2.0}, {"egress": 95e9})
    at = [19_400.0]
    alone, beside = (
        throughput_over_threshold(paper_problem(), "h20-decode", SIZES, others=each, thresholds_tokens=at)[0]
        for each in (Shares(), others)
    )
    assert beside.remote < alone.remote / 1.9
    with pytest.raises(InvalidInputError, match="there is no nobody; name one of h20-decode"):
        throughput_over_threshold(paper_problem(), "nobody", SIZES)
