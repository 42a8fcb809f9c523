"""What must hold for every problem."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.capacity import DecodeRate, Lengths, LengthSketch, TruncatedLogNormal, paper
from prfaas.planner import (
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    PrefillPool,
    Problem,
    Quota,
    Routing,
    direct_routes,
)
from prfaas_bench.planner import SIZES, fleet, measure, table
from tests.planner.planner_problems import assert_feasible, solved

CLUSTERS = ("a", "b", "c")
FEW = settings(max_examples=25)
sketch = LengthSketch.of([100, 2_000, 2_500, 9_000, 40_000, 120_000])


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    def instances(most: int) -> Instances:
        maximum = draw(st.integers(0, most))
        return Instances(
            maximum=maximum,
            minimum=draw(st.integers(0, min(1, maximum))),
            current=draw(st.one_of(st.none(), st.integers(0, maximum))),
            available=draw(st.one_of(st.none(), st.integers(1, most))),
            price_per_hour=draw(st.floats(0, 20)),
            start_seconds=draw(st.sampled_from([0.0, 300.0])),
        )

    prefill = tuple(
        PrefillPool(
            f"p{index}",
            draw(st.sampled_from(CLUSTERS)),
            draw(st.sampled_from(["m", "m", "n"])),
            draw(st.sampled_from([paper.PREFILL_H200, paper.PREFILL_H20, paper.PREFILL_H200_TABLE])),
            instances(6),
            utilisation_max=draw(st.sampled_from([0.7, 1.0])),
        )
        for index in range(draw(st.integers(1, 4)))
    )
    lengths: list[Lengths] = [sketch, TruncatedLogNormal(8.5, 1.2, 16, 100_000), paper.LENGTHS]
    decode = tuple(
        DecodePool(
            f"d{index}",
            draw(st.sampled_from(CLUSTERS)),
            "m",
            kv=paper.KV,
            decode=DecodeRate(0.025, 20, 512),
            lengths=draw(st.sampled_from(lengths)),
            arrivals_per_second=draw(st.floats(0.1, 5)),
            instances=instances(6),
            ttft_seconds=draw(st.sampled_from([None, None, 10.0])),
        )
        for index in range(draw(st.integers(1, 2)))
    )
    links = tuple(
        Link(f"{one}{other}", one, other, draw(st.floats(0.1, 20)) * 1e9, rtt_seconds=0.02)
        for one in CLUSTERS
        for other in CLUSTERS
        if one != other and draw(st.booleans())
    )
    pools = frozenset(pool.name for pool in (*prefill, *decode))
    return Problem(
        prefill_pools=prefill,
        decode_pools=decode,
        routes=direct_routes(prefill, decode, links),
        links=links,
        quotas=(Quota("all", pools, draw(st.integers(0, 20))),),
    )


options = st.builds(
    Options,
    goal=st.sampled_from(Goal),
    routing=st.sampled_from(Routing),
    buckets=st.sampled_from([1, 4, 8]),
    keep_within=st.sampled_from([0.0, 0.1]),
)


@FEW
@given(problems(), options)
def test_a_plan_is_feasible(problem: Problem, how: Options) -> None:
    assert_feasible(problem, solved(problem, how))


@FEW
@given(problems(), options, st.floats(1.0, 10.0))
def test_more_bandwidth_never_serves_less(problem: Problem, how: Options, more: float) -> None:
    problem = without_ttft(problem)
    wider = replace(
        problem,
        links=tuple(replace(link, bits_per_second=link.bits_per_second * more) for link in problem.links),
    )
    how = replace(how, keep_within=0.0)
    assert solved(wider, how).served_per_second >= solved(problem, how).served_per_second * (1 - 1e-3) - 1e-6


@FEW
@given(problems(), options)
def test_more_instances_never_serve_less(problem: Problem, how: Options) -> None:
    problem = without_ttft(problem)
    larger = replace(
        problem,
        prefill_pools=tuple(
            replace(pool, instances=replace(pool.instances, maximum=pool.instances.maximum + 2))
            for pool in problem.prefill_pools
        ),
    )
    how = replace(how, keep_within=0.0)
    assert solved(larger, how).served_per_second >= solved(problem, how).served_per_second * (1 - 1e-3) - 1e-6


@FEW
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(problem: Problem, chance: random.Random) -> None:
    def shuffled(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(chance.sample(values, len(values)))

    mixed = Problem(
        **{
            name: shuffled(getattr(problem, name))  # type: ignore[arg-type]
            for name in (
                "prefill_pools",
                "decode_pools",
                "routes",
                "links",
                "clusters",
                "regions",
                "quotas",
            )
        }
    )
    assert solved(mixed) == solved(problem)


def test_a_large_problem_is_weighed_in_one_search() -> None:
    problem = fleet(5)
    found = solved(problem, Options(buckets=8, gap=0.02, time_limit_seconds=30.0))
    assert_feasible(problem, found)
    assert found.served_per_second == pytest.approx(found.demand_per_second, rel=1e-5)
    assert found.gap == 0
    assert found.cost_gap is not None
    assert found.cost_gap < 0.03


def test_the_benchmark_plans_and_prints_a_row_per_size() -> None:
    assert fleet(3) == fleet(3)
    results = measure(rounds=1, sizes=SIZES[:1])
    assert (results[0].pools, results[0].served_share) == (3, 1.0)
    assert "| 1 route | 3 | 2 |" in table(results)


def test_weighing_and_staging_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = fleet(2)
    staged = solved(problem, Options(buckets=4, gap=0.001))
    monkeypatch.setattr("prfaas.planner.staging._STAGED_COLUMNS_MAX", 0)
    weighed = solved(problem, Options(buckets=4, gap=0.001))
    assert weighed.served_per_second == pytest.approx(staged.served_per_second, rel=1e-4)
    assert weighed.cost_per_hour == pytest.approx(staged.cost_per_hour, rel=0.01)


def test_core_needs_neither_numpy_nor_scipy() -> None:
    code = (
        "import sys; import prfaas.cli, prfaas.capacity, prfaas.routing; "
        "print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout.strip() == "[]"


def without_ttft(problem: Problem) -> Problem:
    """Waiting is not monotone in what is offered: a wider link may fill a pool that must not be full."""
    return replace(
        problem, decode_pools=tuple(replace(pool, ttft_seconds=None) for pool in problem.decode_pools)
    )
