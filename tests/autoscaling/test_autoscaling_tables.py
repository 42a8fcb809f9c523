"""Single decisions: what is seen, what follows, and what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prfaas.autoscaling import (
    Arrivals,
    Attainment,
    Cause,
    Limit,
    LinkState,
    Load,
    Observation,
    PoolSettings,
    Quota,
    Role,
    RouteObservation,
    Settings,
    Shortage,
    SignalEntry,
    Signals,
    State,
    Waiting,
    decide,
)
from prfaas.capacity import InvalidInputError
from tests.autoscaling.autoscaling_world import a_link, a_pool, across_regions, quick

HOUR = 3600.0


def decided(observation: Observation, settings: Settings, now: float = 1e6) -> Any:
    """The second of two equal decisions: windows of 0 s are over by then."""
    first = decide(observation, settings, State(), now - 1)
    return decide(observation, settings, first.state, now)


@pytest.mark.parametrize(
    ("load", "desired", "cause"),
    [
        (Load(2, 0.5), 2, Cause.STEADY),
        (Load(2, 0.9), 3, Cause.LOAD_ROSE),
        (Load(2, 0.2), 1, Cause.LOAD_FELL),
        # Between the targets of growing and shrinking it stays: 0.64 of one target, 0.75 of the other.
        (Load(2, 0.34), 2, Cause.STEADY),
        (Load(2, 0.5, queued=5), 3, Cause.QUEUE_GREW),
        (Load(2, 0.5, queued=20), 4, Cause.QUEUE_GREW),
        # 12 requests of 30 s have to be worked off in the 180 s that an instance takes to come.
        (Load(2, 0.9, queued=3, service_seconds=60), 4, Cause.LOAD_ROSE),
        # Who does not tell counts as idle for growing and as busy for shrinking.
        (Load(1, 1.0), 2, Cause.STEADY),
        (Load(1, 0.1), 2, Cause.STEADY),
        (Load(2, 0.9, age_seconds=1000), 2, Cause.LOAD_UNKNOWN),
        (None, 2, Cause.LOAD_UNKNOWN),
    ],
)
def test_measured_load(load: Load | None, desired: int, cause: Cause) -> None:
    seen = Observation((a_pool("p", load=load),))
    found = decided(seen, Settings({"p": quick()})).pool("p")
    assert (found.desired, found.cause) == (desired, cause)
    assert found.active == (cause is not Cause.LOAD_UNKNOWN)
    assert found.sentence


@pytest.mark.parametrize(
    ("share", "requests", "utilisation", "desired"),
    [
        (0.8, 100, 0.6, 3),
        # Too few to say, good enough, or not the pool's fault: it has hardly anything to do.
        (0.8, 5, 0.6, 2),
        (0.96, 100, 0.6, 2),
        (0.8, 100, 0.3, 2),
    ],
)
def test_a_missed_objective_is_answered_by_the_pool_that_is_busy(
    share: float, requests: int, utilisation: float, desired: int
) -> None:
    pool = a_pool("chat", Role.DECODE, load=Load(2, utilisation), attainment=Attainment(share, requests))
    own = quick(shrink_window_seconds=1e9)
    assert decided(Observation((pool,)), Settings({"chat": own})).pool("chat").desired == desired


@pytest.mark.parametrize(
    ("link", "limit"),
    [
        ({"share": 0.95}, Limit.LINK_SATURATED),
        ({"share": 0.5, "state": LinkState.CONGESTED}, Limit.LINK_SATURATED),
        ({"share": 0.5, "state": LinkState.DOWN}, Limit.LINK_DOWN),
        ({"share": 0.5, "state": LinkState.UNKNOWN}, Limit.LINK_UNKNOWN),
        ({"share": 0.5, "age_seconds": 1e4}, Limit.LINK_UNKNOWN),
    ],
)
def test_nothing_grows_behind_a_link_without_room_and_another_region_takes_over(
    link: dict[str, Any], limit: Limit
) -> None:
    seen = across_regions(**link)
    busy = replace(seen.pools[0], load=Load(2, 1.0))
    found = decided(
        replace(seen, pools=(busy, *seen.pools[1:])),
        Settings({"far": quick(), "near": quick(), "chat": quick()}),
    )
    far, near = found.pool("far"), found.pool("near")
    assert (far.desired, far.needed, far.limit) == (2, 3, limit)
    assert "us-eu" in far.limit_sentence
    assert (near.desired, near.cause) == (3, Cause.TAKES_OVER)
    assert any("link" in each for each in far.would_change)


def test_a_path_without_a_known_link_is_no_path() -> None:
    seen = replace(across_regions(), links=())
    busy = replace(seen.pools[0], load=Load(2, 1.0))
    found = decided(replace(seen, pools=(busy, *seen.pools[1:])), Settings({"far": quick()})).pool("far")
    assert (found.desired, found.limit) == (2, Limit.LINK_UNKNOWN)


def test_growth_ends_where_the_link_would_be_full() -> None:
    seen = across_regions(0.7)
    busy = replace(seen.pools[0], replicas=4, ready=4, load=Load(4, 1.0))
    found = decided(
        replace(seen, pools=(busy, *seen.pools[1:])), Settings({"far": quick(20, utilisation_target=0.5)})
    ).pool("far")
    # 8 are needed; 4 fill 70 %, so 5 fill 88 % of at most 90 %.
    assert (found.needed, found.desired, found.limit) == (8, 5, Limit.LINK_SATURATED)


def test_what_nobody_here_can_take_is_offered_to_another_region() -> None:
    seen = Observation(
        (
            a_pool(
                "near",
                load=Load(2, 1.0),
                waiting=Waiting(1, 1000.0, Shortage.NO_CAPACITY),
                replicas=3,
                ready=2,
            ),
            a_pool("idle", region="us", cluster="us", managed=False, load=Load(2, 0.1)),
            a_pool("lost", region="ap", cluster="ap", managed=False, load=Load(2, 0.1)),
            a_pool("chat", Role.DECODE),
        ),
        tuple(RouteObservation(name, "chat") for name in ("near", "idle", "lost")),
        (a_link(), a_link("ap", share=0.95)),
    )
    found = decided(seen, Settings({"near": quick()}))
    assert (found.pool("near").desired, found.pool("near").limit) == (3, Limit.NO_CAPACITY)
    (offer,) = found.offers
    assert (offer.pool, offer.to_pools, offer.instances) == ("near", ("idle",), 1)


@pytest.mark.parametrize(
    ("waiting", "limit", "offered"),
    [
        # Just asked for: nobody complains, and nothing more is asked for.
        (Waiting(1, 10.0), None, False),
        (Waiting(1, 10.0, Shortage.NO_CAPACITY), Limit.NO_CAPACITY, False),
        (Waiting(1, 10.0, Shortage.QUOTA_PENDING), Limit.QUOTA_PENDING, True),
        (Waiting(1, 1000.0), Limit.NO_CAPACITY, True),
    ],
)
def test_while_an_instance_waits_for_a_node_no_more_are_asked_for(
    waiting: Waiting, limit: Limit | None, offered: bool
) -> None:
    pool = a_pool("p", replicas=3, ready=2, load=Load(2, 1.0, queued=50), waiting=waiting)
    found = decided(Observation((pool,)), Settings({"p": quick()}))
    assert (found.pool("p").desired, found.pool("p").limit, bool(found.offers)) == (3, limit, offered)


def both_roles(prefill: float, decode: float, **fields: Any) -> Observation:
    return Observation(
        (
            a_pool("long", replicas=4, load=Load(4, prefill), **fields),
            a_pool("chat", Role.DECODE, replicas=4, load=Load(4, decode)),
        ),
        (RouteObservation("long", "chat"),),
    )


@pytest.mark.parametrize(
    ("prefill", "decode", "sizes"), [(0.2, 0.95, (2, 6)), (0.95, 0.2, (6, 2)), (0.6, 0.6, (4, 4))]
)
def test_a_role_with_too_many_gives_to_the_one_with_too_few(
    prefill: float, decode: float, sizes: tuple[int, int]
) -> None:
    slow = PoolSettings(10, grow_window_seconds=0, shrink_window_seconds=3600)
    settings = Settings({"long": slow, "chat": slow}, conversion_window_seconds=0)
    found = decided(both_roles(prefill, decode), settings)
    assert (found.pool("long").desired, found.pool("chat").desired) == sizes
    if sizes == (4, 4):
        assert not found.conversions
    else:
        (conversion,) = found.conversions
        assert conversion.instances == 2
        assert found.pool(conversion.to_pool).cause is Cause.CONVERTED


@pytest.mark.parametrize(
    "fields",
    [{"cluster": "other"}, {"model": "other"}, {"waiting": Waiting(1, 5.0)}],
    ids=["another cluster", "another model", "a donor that waits itself"],
)
def test_roles_are_converted_only_where_that_is_possible(fields: dict[str, Any]) -> None:
    slow = PoolSettings(10, grow_window_seconds=0, shrink_window_seconds=3600)
    settings = Settings({"long": slow, "chat": slow}, conversion_window_seconds=0)
    seen = both_roles(0.2, 0.95, **fields)
    if "model" in fields:
        seen = replace(seen, routes=())
    found = decided(seen, settings)
    assert not found.conversions
    assert found.pool("long").desired == 4


def test_bounds_hold_whatever_the_load() -> None:
    pool = a_pool("p", load=Load(2, 1.0, queued=1000))
    most = decided(Observation((pool,)), Settings({"p": quick(2)})).pool("p")
    assert (most.desired, most.limit) == (2, Limit.MAXIMUM)
    assert any("maxReplicas" in each for each in most.would_change)
    idle = a_pool("p", replicas=3, load=Load(3, 0.0))
    least = decided(Observation((idle,)), Settings({"p": quick(minimum=3)})).pool("p")
    assert (least.desired, least.limit) == (3, Limit.MINIMUM)
    outside = decided(Observation((a_pool("p", replicas=9),)), Settings({"p": quick(5)})).pool("p")
    assert outside.desired <= 5


def test_quotas_and_budgets_cut_the_dearest_growth_first() -> None:
    seen = Observation((a_pool("a", load=Load(2, 1.0)), a_pool("b", load=Load(2, 1.0))))
    pools = {"a": quick(price_per_hour=1.0), "b": quick(price_per_hour=5.0)}
    quota = replace(seen, quotas=(Quota("gpus", frozenset({"a", "b"}), 5),))
    found = decided(quota, Settings(pools))
    assert (found.pool("a").desired, found.pool("b").desired) == (3, 2)
    assert found.pool("b").limit is Limit.QUOTA
    dear = decided(seen, Settings(pools, budget_per_hour=14))
    assert (dear.pool("a").desired, dear.pool("b").desired) == (3, 2)
    assert dear.pool("b").limit is Limit.BUDGET
    less = decided(seen, Settings(pools, budget_per_hour=8))
    assert (less.pool("a").desired, less.pool("b").desired) == (2, 1)
    assert less.pool("b").cause is Cause.BUDGET
    assert "minimums" in decided(seen, Settings(pools, budget_per_hour=1)).notes[-1]


@pytest.mark.parametrize(
    ("fields", "desired"),
    [
        ({"arrivals": Arrivals(0.1)}, 1),
        ({"load": Load(0, 0.0, queued=1)}, 1),
        ({"arrivals": Arrivals(0.0)}, 0),
        ({"load": None}, 0),
    ],
)
def test_a_pool_at_zero_wakes_by_the_first_request_at_once(fields: dict[str, Any], desired: int) -> None:
    pool = a_pool("chat", Role.DECODE, replicas=0, **{"load": None, **fields})
    own = PoolSettings(4, minimum=0, grow_window_seconds=3600)
    found = decide(Observation((pool,)), Settings({"chat": own}), State(), 1e6).pool("chat")
    assert found.desired == desired
    assert found.cause is (Cause.WOKE_UP if desired else Cause.IDLE)


def test_a_prefill_pool_at_zero_wakes_by_what_comes_to_the_pools_that_it_serves() -> None:
    seen = Observation(
        (
            a_pool("long", replicas=0, load=None),
            a_pool("chat", Role.DECODE, arrivals=Arrivals(1.0)),
        ),
        (RouteObservation("long", "chat"),),
    )
    own = PoolSettings(4, minimum=0)
    assert decide(seen, Settings({"long": own}), State(), 0.0).pool("long").desired == 1


@pytest.mark.parametrize(
    ("link", "desired"),
    [
        ({"state": LinkState.UNKNOWN}, 1),
        ({"age_seconds": 1e4}, 1),
        ({"state": LinkState.DOWN}, 0),
        ({"state": LinkState.CONGESTED}, 0),
    ],
)
def test_a_pool_at_zero_wakes_behind_a_link_that_nobody_used_lately(
    link: dict[str, Any], desired: int
) -> None:
    seen = across_regions(far=0, near=0, **link)
    far, _, chat = seen.pools
    seen = replace(seen, pools=(far, replace(chat, arrivals=Arrivals(1.0))), routes=seen.routes[:1])
    found = decide(seen, Settings({"far": PoolSettings(4, minimum=0)}), State(), 0.0).pool("far")
    assert found.desired == desired


def test_a_pool_goes_to_zero_only_after_it_was_idle_for_long_enough() -> None:
    pool = a_pool("chat", Role.DECODE, replicas=1, load=Load(1, 0.0), arrivals=Arrivals(0.0))
    settings = Settings({"chat": quick(minimum=0, idle_seconds=600)})
    state, sizes = State(), []
    for now in (0.0, 300.0, 599.0, 600.0):
        found = decide(Observation((pool,)), settings, state, now)
        state = found.state
        sizes.append(found.pool("chat").desired)
    assert sizes == [1, 1, 1, 0]


def test_fresh_prices_decide_who_takes_over_and_old_ones_do_not() -> None:
    seen = Observation(
        (
            a_pool("far", region="us", cluster="us", load=Load(2, 1.0)),
            a_pool("dear", region="eu", load=Load(2, 0.5)),
            a_pool("cheap", region="eu2", cluster="eu2", load=Load(2, 0.5)),
            a_pool("chat", Role.DECODE),
        ),
        tuple(RouteObservation(name, "chat") for name in ("far", "dear", "cheap")),
        (a_link(share=0.99), a_link("eu2", share=0.1)),
    )
    settings = Settings({name: quick(price_per_hour=2.0) for name in ("far", "dear", "cheap")})
    told = Signals(1e6, (SignalEntry("eu", price_per_hour=4.0), SignalEntry("eu2", price_per_hour=1.0)))
    fresh = decided(replace(seen, signals=told), settings)
    assert (fresh.pool("cheap").desired, fresh.pool("dear").desired) == (3, 2)
    stale = decided(replace(seen, signals=replace(told, as_of_seconds=0.0)), settings)
    assert any("old" in note for note in stale.notes)
    # Without prices the one with more room: inside the region there is no link to fill.
    assert (stale.pool("cheap").desired, stale.pool("dear").desired) == (2, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Load(1, float("nan")),
        lambda: Load(1, -1.0),
        lambda: a_link(share=float("nan")),
        lambda: a_link("eu", "eu"),
        lambda: a_link(capacity_bits_per_second=0.0),
        lambda: Observation((a_pool("p"), a_pool("p"))),
        lambda: Observation((a_pool("p"),), (RouteObservation("p", "chat"),)),
        lambda: Observation((), (), (a_link(), a_link())),
        lambda: PoolSettings(1, minimum=2),
        lambda: PoolSettings(1, utilisation_target=0.0),
        lambda: Settings({}, link_full_above=0.5),
        lambda: Settings({}, budget_per_hour=-1),
    ],
)
def test_values_that_make_no_sense_are_refused_with_a_remedy(make: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert caught.value.field
    assert caught.value.remedy


def test_pools_that_are_not_managed_are_left_alone() -> None:
    seen = Observation((a_pool("p", managed=False, load=Load(2, 1.0)), a_pool("q", load=Load(2, 1.0))))
    assert decided(seen, Settings({"p": quick()})).pools == ()
