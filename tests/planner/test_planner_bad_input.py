from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from prfaas.capacity import InvalidInputError
from prfaas.planner import (
    Cluster,
    Instances,
    Link,
    Options,
    Problem,
    Quota,
    Region,
    Residency,
    Route,
)
from tests.planner.planner_problems import solved, two_regions, with_decode

BASE = two_regions()
NORTH, WEST = BASE.prefill_pools
(CHAT,) = BASE.decode_pools


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Link("l", "a", "b", 0), "bits_per_second"),
        (lambda: Link("l", "a", "b", -1), "bits_per_second"),
        (lambda: Link("l", "a", "b", math.nan), "bits_per_second"),
        (lambda: Link("l", "a", "b", math.inf), "bits_per_second"),
        (lambda: Link("l", "a", "b", 1, utilisation_max=1.2), "utilisation_max"),
        (lambda: Link("l", "a", "b", 1, rtt_seconds=-1), "rtt_seconds"),
        (lambda: Link("l", "a", "b", 1, price_per_gigabyte=math.nan), "price_per_gigabyte"),
        (lambda: replace(CHAT, arrivals_per_second=0), "arrivals_per_second"),
        (lambda: replace(CHAT, arrivals_per_second=-2), "arrivals_per_second"),
        (lambda: replace(CHAT, arrivals_per_second=math.nan), "arrivals_per_second"),
        (lambda: replace(CHAT, ttft_seconds=0), "ttft_seconds"),
        (lambda: replace(NORTH, utilisation_max=0), "utilisation_max"),
        (lambda: Instances(maximum=-1), "maximum"),
        (lambda: Instances(maximum=1, minimum=2), "minimum"),
        (lambda: Instances(maximum=2, current=1.5), "current"),  # type: ignore[arg-type]
        (lambda: Instances(maximum=2, accelerators_each=0), "accelerators_each"),
        (lambda: Instances(maximum=2, price_per_hour=-1), "price_per_hour"),
        (lambda: Instances(maximum=2, start_seconds=math.inf), "start_seconds"),
        (lambda: Quota("q", frozenset(), -1), "accelerators"),
        (lambda: Route("p", "d", prefill_hit_share=1.0), "prefill_hit_share"),
        (lambda: Residency(frozenset({"eu"}), frozenset({"eu"})), "residency"),
        (lambda: Residency(frozenset()), "residency.allowed"),
        (lambda: Options(time_limit_seconds=0), "time_limit_seconds"),
        (lambda: Options(buckets=0), "buckets"),
        (lambda: Options(gap=-0.1), "gap"),
        (lambda: Options(keep_within=math.nan), "keep_within"),
    ],
)
def test_a_bad_value_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("problem", "field", "words"),
    [
        (replace(BASE, decode_pools=()), "decode_pools", "there is none"),
        (replace(BASE, prefill_pools=(NORTH, NORTH, WEST)), "prefill_pools[north-fast]", "given twice"),
        (
            replace(BASE, prefill_pools=(NORTH, WEST, replace(WEST, name="west-chat"))),
            "decode_pools[west-chat]",
            "has this name too",
        ),
        (
            replace(BASE, routes=(Route("x", "west-chat"),)),
            "routes[x to west-chat]",
            "no prefill pool is named x",
        ),
        (
            replace(BASE, routes=(Route("west-slow", "x"),)),
            "routes[west-slow to x]",
            "no decode pool is named x",
        ),
        (
            replace(BASE, routes=(Route("west-slow", "west-chat"),) * 2),
            "routes[west-slow to west-chat]",
            "given twice",
        ),
        (
            replace(BASE, routes=(Route("north-fast", "west-chat"),)),
            "routes[north-fast to west-chat].links",
            "they lead to north, not to west",
        ),
        (
            replace(BASE, routes=(Route("north-fast", "west-chat", ("x",)),)),
            "routes[north-fast to west-chat].links",
            "no link is named x",
        ),
        (
            replace(BASE, routes=(Route("west-slow", "west-chat", ("north-west",)),)),
            "routes[west-slow to west-chat].links",
            "begins at north, not at west",
        ),
        (
            replace(BASE, quotas=(Quota("q", frozenset({"x"}), 1),)),
            "quotas[q].pools",
            "no pool is named x",
        ),
        (
            replace(BASE, regions=(*BASE.regions, Region("a", "b"), Region("b", "a"))),
            "regions[a].within",
            "the regions contain each other: a in b in a",
        ),
        (replace(BASE, regions=(Region("eu", "x"),)), "regions[eu].within", "no region is named x"),
        (
            replace(BASE, clusters=(Cluster("north", "x"),)),
            "clusters[north].region",
            "no region is named x",
        ),
        (
            with_decode(BASE, residency=Residency(frozenset({"us"}))),
            "decode_pools[west-chat].residency",
            "no region is named us",
        ),
        (
            replace(with_decode(BASE, residency=Residency(frozenset({"eu"}))), clusters=()),
            "prefill_pools[north-fast].cluster",
            "residency asks for it",
        ),
        (
            with_decode(BASE, prefill_pools=frozenset({"x"})),
            "decode_pools[west-chat].prefill_pools",
            "no prefill pool is named x",
        ),
        (
            two_regions(remote=Instances(maximum=4)),
            "prefill_pools[north-fast].instances.price_per_hour",
            "is missing",
        ),
    ],
)
def test_a_problem_that_makes_no_sense(problem: Problem, field: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        solved(problem)
    assert caught.value.field == field
    assert words in str(caught.value)
