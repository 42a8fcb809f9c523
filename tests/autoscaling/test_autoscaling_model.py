"""With profiles the sizes are the planner's: one capacity model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prfaas.autoscaling import (
    Cause,
    Limit,
    Load,
    Observation,
    Profile,
    Role,
    RouteObservation,
    Settings,
    State,
    decide,
)
from tests.autoscaling.autoscaling_world import a_link, a_pool, arriving, profiled, quick


def world(per_second: float, *, link: dict[str, Any] | None = None, **sizes: int) -> Observation:
    pools = []
    for name, role, region in (
        ("far", Role.PREFILL, "us"),
        ("near", Role.PREFILL, "eu"),
        ("chat", Role.DECODE, "eu"),
    ):
        replicas = sizes.get(name, 2)
        pools.append(
            a_pool(
                name,
                role,
                replicas,
                region=region,
                cluster=region,
                profile=profiled(role),
                load=Load(replicas, 0.6),
                arrivals=arriving(per_second) if role is Role.DECODE else None,
            )
        )
    return Observation(
        tuple(pools),
        (RouteObservation("far", "chat"), RouteObservation("near", "chat")),
        (a_link(**(link or {"share": 0.1})),),
    )


def rules(**prices: float) -> Settings:
    given = {"far": 1.0, "near": 3.0, "chat": 3.0, **prices}
    return Settings(
        {
            name: quick(40, price_per_hour=price, minimum=0 if name == "far" else 1)
            for name, price in given.items()
        }
    )


def test_sizes_grow_with_demand_and_cheap_compute_behind_a_wide_link_comes_first() -> None:
    sizes = []
    for demand in (1.0, 4.0, 8.0, 16.0):
        found = decide(world(demand), rules(), State(), 0.0)
        assert len(found.plans) == 1
        assert not found.notes
        sizes.append({each.pool: each.needed for each in found.pools})
    for name in ("far", "chat"):
        row = [size[name] for size in sizes]
        assert row == sorted(row)
    assert sizes[-1]["far"] > sizes[-1]["near"]
    assert sum(sizes[-1].values()) > sum(sizes[0].values())


def test_a_narrow_link_bounds_what_grows_behind_it_by_its_bandwidth() -> None:
    wide = decide(world(12.0), rules(), State(), 0.0)
    narrow = decide(
        world(12.0, link={"share": 0.1, "capacity_bits_per_second": 0.3e9}), rules(), State(), 0.0
    )
    assert narrow.pool("far").needed < wide.pool("far").needed
    here = [found.pool("near").needed + found.pool("chat").needed for found in (wide, narrow)]
    assert here[1] > here[0]


def test_a_saturated_link_adds_nothing_even_where_a_plan_would() -> None:
    found = decide(world(16.0, link={"share": 0.95}, far=1), rules(), State(), 0.0)
    assert found.pool("far").desired <= 1
    if found.pool("far").needed > 1:
        assert found.pool("far").limit is Limit.LINK_SATURATED


def test_trouble_that_is_measured_counts_more_than_what_a_profile_promises() -> None:
    calm = world(1.0)
    before = decide(calm, rules(), State(), 0.0).pool("chat").needed
    pools = tuple(
        replace(pool, load=Load(2, 1.0, queued=30)) if pool.name == "chat" else pool for pool in calm.pools
    )
    found = decide(replace(calm, pools=pools), rules(), State(), 0.0).pool("chat")
    assert found.needed > before
    assert found.cause in {Cause.QUEUE_GREW, Cause.LOAD_ROSE}


def test_what_the_model_does_not_know_is_said_and_measured_load_decides() -> None:
    seen = world(4.0)
    pools = tuple(replace(pool, profile=Profile()) if pool.name == "far" else pool for pool in seen.pools)
    found = decide(replace(seen, pools=pools), rules(), State(), 0.0)
    assert not found.plans
    assert any("far has no profile" in note for note in found.notes)
    assert found.pool("chat").desired == 2


def test_no_demand_needs_nothing_beyond_the_minimum() -> None:
    found = decide(world(0.0), rules(), State(), 0.0)
    later = decide(world(0.0), rules(), found.state, 1000.0)
    # Engines still report work, which must end first.
    assert later.pool("far").desired >= 1
    idle = world(0.0)
    pools = tuple(replace(pool, load=Load(2, 0.0)) for pool in idle.pools)
    first = decide(replace(idle, pools=pools), rules(), State(), 0.0)
    last = decide(replace(idle, pools=pools), rules(), first.state, 1000.0)
    assert (last.pool("far").desired, last.pool("near").desired, last.pool("chat").desired) == (0, 1, 1)
    assert last.pool("far").cause is Cause.IDLE


def test_a_small_decode_pool_is_not_charged_a_whole_instance_for_the_little_that_it_prefills() -> None:
    seen = Observation(
        (
            a_pool(
                "chat",
                Role.DECODE,
                2,
                profile=profiled(Role.DECODE),
                load=Load(2, 0.1),
                arrivals=arriving(0.2),
            ),
        )
    )
    first = decide(seen, Settings({"chat": quick()}), State(), 0.0)
    assert first.pool("chat").needed == 1


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_profile_that_is_wrong_by_thirty_percent_moves_sizes_in_proportion(factor: float) -> None:
    from prfaas.autoscaling.learning import scaled

    seen = world(12.0)
    right = decide(seen, rules(), State(), 0.0)
    pools = tuple(
        replace(
            pool,
            profile=replace(pool.profile, prefill=scaled(pool.profile.prefill, factor)),  # type: ignore[arg-type]
        )
        for pool in seen.pools
    )
    wrong = decide(replace(seen, pools=pools), rules(), State(), 0.0)
    total = [sum(each.needed for each in found.pools if each.pool != "chat") for found in (right, wrong)]
    assert abs(total[1] / total[0] - factor) < 0.35
