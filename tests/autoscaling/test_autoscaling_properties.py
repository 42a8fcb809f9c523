"""What holds for every load: bounds, calm, monotone answers, and nothing behind a link that is full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.autoscaling import (
    Arrivals,
    Load,
    Observation,
    PoolSettings,
    Quota,
    Role,
    RouteObservation,
    Settings,
    State,
    decide,
)
from tests.autoscaling.autoscaling_world import (
    Loop,
    a_link,
    a_pool,
    across_regions,
    load_of,
    quick,
    turns,
)

loads = st.builds(
    Load,
    reporting=st.integers(0, 8),
    utilisation=st.floats(0, 1.5),
    running=st.floats(0, 100),
    queued=st.floats(0, 1000),
    service_seconds=st.none() | st.floats(0.01, 100),
    age_seconds=st.floats(0, 200),
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_sizes_never_leave_their_bounds_quotas_or_budget(data: st.DataObject) -> None:
    low, high = sorted((data.draw(st.integers(0, 5)), data.draw(st.integers(1, 12))))
    own = PoolSettings(max(1, high), minimum=low, price_per_hour=1.0, grow_window_seconds=0)
    budget, quota = data.draw(st.floats(0, 30)), data.draw(st.integers(0, 30))
    rules = Settings({"far": own, "near": own, "chat": own}, budget_per_hour=budget)
    state, sizes = State(), {"far": low, "near": low, "chat": low}
    for step in range(6):
        pools = []
        for name, replicas in sizes.items():
            role = Role.DECODE if name == "chat" else Role.PREFILL
            region = "us" if name == "far" else "eu"
            ready = data.draw(st.integers(0, replicas))
            load = data.draw(st.none() | loads)
            pools.append(a_pool(name, role, replicas, region=region, cluster=region, ready=ready, load=load))
        seen = Observation(
            tuple(pools),
            (RouteObservation("far", "chat"), RouteObservation("near", "chat")),
            (a_link(share=data.draw(st.floats(0, 1))),),
            (Quota("all", frozenset(sizes), quota),),
        )
        decision = decide(seen, rules, state, 15.0 * step)
        least = sum(max(size, low) for size in sizes.values())
        state, sizes = decision.state, {each.pool: each.desired for each in decision.pools}
        assert all(low <= size <= max(1, high) for size in sizes.values())
        assert sum(sizes.values()) <= max(budget, 3 * low)
        assert sum(sizes.values()) <= max(quota, least)


def one_pool(seen: Mapping[str, tuple[int, int, float]], _: float) -> Observation:
    replicas, ready, work = seen["p"]
    return Observation((a_pool("p", replicas=replicas, ready=ready, load=load_of(ready, work)),))


@given(work=st.floats(0.1, 14), noise=st.floats(0, 0.07), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_constant_load_with_noise_does_not_make_a_pool_oscillate(
    work: float, noise: float, seed: int
) -> None:
    loop = Loop(Settings({"p": PoolSettings(20)}), lambda *_: work, one_pool, noise=noise, seed=seed)
    loop.run(3600)
    sizes = loop.sizes["p"]
    assert turns(sizes) <= 1
    # It has settled, and is big enough.
    assert len(set(sizes[-60:])) == 1
    assert work / sizes[-1] <= 0.75 * (1 + noise) + 1e-9


@given(work=st.floats(0.2, 10), step=st.floats(1.3, 4))
@settings(max_examples=30, deadline=None)
def test_a_step_of_load_is_followed_once_up_and_once_down(work: float, step: float) -> None:
    def load(_: str, now: float) -> float:
        return work * step if 1800 <= now < 5400 else work

    loop = Loop(Settings({"p": PoolSettings(60)}), load, one_pool)
    loop.run(9000)
    assert turns(loop.sizes["p"]) <= 2
    assert max(loop.sizes["p"]) >= work * step / 0.75 - 1e-9
    assert loop.sizes["p"][-1] <= max(1, work / (0.75 * 0.85) + 1)


@given(
    one=st.floats(0, 1),
    other=st.floats(0, 1),
    queued=st.floats(0, 100),
    more=st.floats(0, 100),
    size=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_more_load_never_means_fewer_instances(
    one: float, other: float, queued: float, more: float, size: int
) -> None:
    low, high = sorted((one, other))

    def desired(load: Load) -> int:
        seen = Observation((a_pool("p", replicas=size, load=load),))
        rules = Settings({"p": quick(50)})
        first = decide(seen, rules, State(), 0.0)
        return decide(seen, rules, first.state, 1.0).pool("p").desired

    assert desired(Load(size, low, queued=queued)) <= desired(Load(size, high, queued=queued + more))


@given(
    share=st.floats(0.9, 1.5),
    utilisation=st.floats(0, 1),
    queued=st.floats(0, 1000),
    far=st.integers(1, 6),
    steps=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_nothing_ever_grows_behind_a_saturated_link(
    share: float, utilisation: float, queued: float, far: int, steps: int
) -> None:
    rules = Settings({name: quick(50) for name in ("far", "near", "chat")})
    state, sizes = State(), {"far": far, "near": 1, "chat": 2}
    for step in range(steps):
        seen = across_regions(share, near=sizes["near"], far=sizes["far"])
        pools = tuple(replace(pool, load=Load(pool.ready, utilisation, queued=queued)) for pool in seen.pools)
        decision = decide(replace(seen, pools=pools), rules, state, 15.0 * step)
        assert decision.pool("far").desired <= sizes["far"]
        state, sizes = decision.state, {each.pool: each.desired for each in decision.pools}


@pytest.mark.parametrize("period_seconds", [15.0, 30.0, 60.0, 120.0])
def test_a_flapping_link_moves_nothing_to_and_fro(period_seconds: float) -> None:
    def make(seen: Mapping[str, tuple[int, int, float]], now: float) -> Observation:
        up = int(now / period_seconds) % 2 == 0
        pools = [a_pool("chat", Role.DECODE, managed=False)]
        for name, region in (("far", "us"), ("near", "eu")):
            replicas, ready, work = seen[name]
            load = load_of(ready, work)
            pools.append(
                a_pool(name, replicas=replicas, ready=ready, region=region, cluster=region, load=load)
            )
        return Observation(
            tuple(pools),
            (RouteObservation("far", "chat"), RouteObservation("near", "chat")),
            (a_link(share=0.5 if up else 0.97),),
        )

    rules = Settings({"far": PoolSettings(10), "near": PoolSettings(10)})
    loop = Loop(rules, lambda name, _: 2.4 if name == "far" else 0.6, make, replicas=2)
    loop.run(3600)
    assert all(turns(sizes) <= 1 for sizes in loop.sizes.values())
    # Before it has ever been full it may grow; once it is known to flap nothing is added behind it.
    assert len(set(loop.sizes["far"][24:])) == 1
    assert max(loop.sizes["far"]) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_roles_follow_a_shift_of_load_once_on_the_accelerators_that_there_are(seed: int) -> None:
    """Eight accelerators for both roles: what prefill does not need any more decode gets, and keeps."""

    def make(seen: Mapping[str, tuple[int, int, float]], _: float) -> Observation:
        pools = []
        for name, role in (("long", Role.PREFILL), ("chat", Role.DECODE)):
            replicas, ready, work = seen[name]
            pools.append(
                a_pool(name, role, replicas, ready=ready, load=load_of(ready, work) if ready else None)
            )
        return Observation(
            tuple(pools), (RouteObservation("long", "chat"),), (), (Quota("gpus", frozenset(seen), 8),)
        )

    def load(name: str, now: float) -> float:
        busy, calm = (3.6, 1.0) if now < 1800 else (1.0, 3.6)
        return busy if name == "long" else calm

    rules = Settings({"long": PoolSettings(8), "chat": PoolSettings(8)}, start_seconds=60)
    loop = Loop(rules, load, make, noise=0.05, seed=seed, replicas=4)
    loop.run(5400)
    total = [sum(sizes) for sizes in zip(*loop.sizes.values(), strict=True)]
    assert max(total) <= 8
    converted = [each for decision in loop.decisions for each in decision.conversions]
    assert converted
    assert {each.to_pool for each in converted if each.from_pool == "long"} == {"chat"}
    assert loop.sizes["chat"][-1] * 0.75 >= 3.6 * 0.95
    assert turns(loop.sizes["long"]) <= 2
    assert turns(loop.sizes["chat"]) <= 2


def test_the_same_arguments_give_the_same_decision_and_order_does_not_matter() -> None:
    rules = Settings({name: quick() for name in ("far", "near", "chat")})
    seen = across_regions(0.95)
    turned = replace(seen, pools=seen.pools[::-1], routes=seen.routes[::-1])
    assert decide(seen, rules, State(), 1.0) == decide(seen, rules, State(), 1.0)
    assert decide(seen, rules, State(), 1.0) == decide(turned, rules, State(), 1.0)


def test_what_is_remembered_is_bounded() -> None:
    loop = Loop(
        Settings({"p": PoolSettings(30, shrink_window_seconds=1e6)}),
        lambda _, now: 1 + 5 * (int(now / 15) % 2),
        lambda seen, now: replace(
            one_pool(seen, now),
            pools=(
                replace(one_pool(seen, now).pools[0], arrivals=Arrivals(1.0), start_seconds=(60.0, 61.0)),
            ),
        ),
    )
    loop.run(15 * 2000)
    memory = loop.state.pools["p"]
    assert len(memory.wanted) <= 256
    assert len(memory.start_seconds) <= 32
    assert len(memory.demand.means) <= 288 + 24 + 16
