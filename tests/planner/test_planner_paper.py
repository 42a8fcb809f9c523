"""The paper's system by the bucket model."""

from __future__ import annotations

from itertools import pairwise

import pytest

from prfaas.capacity import Means, Wire, paper
from prfaas.planner import BindingKind, Goal, Options, Routing
from prfaas.planner.paper import paper_problem
from tests.planner.planner_problems import MOST, solved

CODEC = Wire(1.45, 1.45)
DELTA = Wire(1.45, 1.45, held_share=0.5)


def test_the_published_optimum() -> None:
    found = solved(paper_problem(), MOST)
    decode = found.decode_pool("h20-decode")
    assert found.factor == pytest.approx(3.242, abs=0.001)
    assert decode.threshold_tokens == pytest.approx(19_390, abs=20)
    assert decode.remote_share == pytest.approx(0.496, abs=0.001)
    assert [pool.instances for pool in found.pools] == [3, 4, 5]
    assert found.links[0].bits_per_second / 1e9 == pytest.approx(12.35, abs=0.01)
    assert found.gap <= 1e-4


@pytest.mark.parametrize(("buckets", "within"), [(8, 0.005), (16, 0.0005), (128, 0.0002)])
def test_few_buckets_are_enough(buckets: int, within: float) -> None:
    found = solved(paper_problem(), Options(goal=Goal.MOST_SERVED, buckets=buckets))
    assert found.factor == pytest.approx(3.242, rel=within)


@pytest.mark.parametrize(
    ("gigabits", "raw", "codec", "delta", "hits"),
    [
        (10, 3.03, 3.24, 3.24, 4.69),
        (5, 2.25, 2.47, 3.21, 3.76),
        (2, 1.60, 1.80, 2.27, 2.77),
        (1, 1.56, 1.56, 1.73, 2.34),
    ],
)
def test_what_codec_and_delta_buy(
    gigabits: float, raw: float, codec: float, delta: float, hits: float
) -> None:
    bits = gigabits * 1e9
    found = [
        solved(paper_problem(egress_bits_per_second=bits), MOST).factor,
        solved(paper_problem(egress_bits_per_second=bits, wire=CODEC), MOST).factor,
        solved(paper_problem(egress_bits_per_second=bits, wire=DELTA), MOST).factor,
        solved(paper_problem(egress_bits_per_second=bits, wire=DELTA, prefill_hit_share=0.5), MOST).factor,
    ]
    assert found == pytest.approx([raw, codec, delta, hits], abs=0.006)


@pytest.mark.parametrize("gigabits", [100, 50, 20, 13, 10, 7, 5, 3, 2, 1])
def test_never_below_the_papers_model_with_the_same_means(gigabits: float) -> None:
    bits = gigabits * 1e9
    theirs = paper.two_site(egress_bits_per_second=bits, means=Means.EXACT).best()
    ours = solved(
        paper_problem(egress_bits_per_second=bits), Options(goal=Goal.MOST_SERVED, buckets=64, gap=0.0)
    )
    assert ours.factor == pytest.approx(theirs.throughput, rel=5e-4)
    with_codec = solved(paper_problem(egress_bits_per_second=bits, wire=DELTA), MOST)
    assert with_codec.factor >= theirs.throughput * (1 - 5e-4)


def test_shadow_prices_on_a_wide_link() -> None:
    found = solved(paper_problem(), MOST)
    prices = {binding.name: binding.shadow_price for binding in found.bindings}
    assert prices == pytest.approx({"h200": 0.63, "h20-prefill": 0.25}, abs=0.01)
    assert found.bindings[0].kind is BindingKind.PREFILL
    assert "prefill in h200 binds: 4 instances full (its maximum)" in found.summary


def test_shadow_prices_on_a_narrow_link() -> None:
    found = solved(paper_problem(egress_bits_per_second=5e9), MOST)
    prices = {binding.name: binding.shadow_price for binding in found.bindings}
    assert prices == pytest.approx({"egress": 0.21, "h20-prefill": 0.24}, abs=0.01)


def test_the_sentence_says_how_the_link_has_moved_the_threshold() -> None:
    found = solved(paper_problem(egress_bits_per_second=10e9), MOST)
    assert found.summary == (
        "egress prfaas to pd binds at 10 of 10 Gbit/s: t of h20-decode raised from 19.4K to 25.5K tokens; "
        "1 Gbit/s more would serve 0.2 requests/s more"
    )


def test_a_shadow_price_is_what_a_little_more_really_brings() -> None:
    narrow = solved(paper_problem(egress_bits_per_second=5e9), Options(goal=Goal.MOST_SERVED, buckets=64))
    wider = solved(paper_problem(egress_bits_per_second=5.1e9), Options(goal=Goal.MOST_SERVED, buckets=64))
    price = next(each for each in narrow.bindings if each.name == "egress").shadow_price
    assert wider.factor - narrow.factor == pytest.approx(0.1 * price, rel=0.02)


def test_throughput_over_bandwidth_never_falls() -> None:
    factors = [
        solved(paper_problem(egress_bits_per_second=gigabits * 1e9), MOST).factor
        for gigabits in (0.5, 1, 2, 4, 6, 8, 10, 12, 14, 50)
    ]
    assert all(a <= b * (1 + 1e-4) for a, b in pairwise(factors))
    assert factors[-1] == pytest.approx(factors[-2], rel=1e-4)


def test_routing_by_bucket_is_no_better_for_this_model() -> None:
    by_bucket = Options(goal=Goal.MOST_SERVED, routing=Routing.BY_BUCKET)
    for gigabits in (5.0, 100.0):
        problem = paper_problem(egress_bits_per_second=gigabits * 1e9)
        assert solved(problem, by_bucket).factor == pytest.approx(solved(problem, MOST).factor, rel=2e-4)
