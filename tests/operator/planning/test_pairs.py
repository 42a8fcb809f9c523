"""Two pools of one route whose model is replaced at the same time, by whole passes and statuses alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_operator.planning.partner import summarise
from tests.operator.planning.pool_world import World, observed, spec


def introduce(world: World, other: World) -> None:
    """What the runtime gathers of the other pool before each pass."""
    seen = summarise(
        other.pool.key, identity="spiffe://x", generation=other.pool.generation, status=other.pool.status
    )
    world.pool = replace(world.pool, partners=(seen,))


def passes(prefill: World, decode: World) -> None:
    for _ in range(600):
        still = True
        for world, other in ((prefill, decode), (decode, prefill)):
            introduce(world, other)
            still &= world.step().is_empty
            still &= not world.cluster()
            world.now += timedelta(seconds=2)
            assert_level(prefill, decode)
        if still:
            return
    raise AssertionError("still moving")


def rolls(world: World) -> bool:
    assert world.pool.spec is not None
    assert world.pool.spec.workload.template is not None
    return bool(world.pool.spec.workload.template.spec["containers"][0]["image"] == "engine:2")


def assert_level(prefill: World, decode: World) -> None:
    """No side is further ahead of the other's ready share than one stride, while both roll."""
    for one, other in ((prefill, decode), (decode, prefill)):
        if not all(each.deployments().get("engine-1") and rolls(each) for each in (one, other)):
            continue
        ready = sum(
            pod.ready and pod.revision == "engine-2" and pod.deletion_ends_at is None
            for pod in other.pool.pods
        )
        assert one.pool.spec is not None
        assert other.pool.spec is not None
        mine, theirs = one.pool.spec.replicas, other.pool.spec.replicas
        assert one.deployments().get("engine-2", 0) <= ready * mine // theirs + 1


def pair(prefill: int, decode: int) -> tuple[World, World]:
    worlds = (
        World(observed("PrefillPool", "long", spec=spec(replicas=prefill)), accelerators=prefill),
        World(observed("DecodePool", "chat", spec=spec(replicas=decode)), accelerators=decode),
    )
    passes(*worlds)
    return worlds


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_both_sides_shift_together_and_arrive(prefill: int, decode: int) -> None:
    worlds = pair(prefill, decode)
    for world, replicas in zip(worlds, (prefill, decode), strict=True):
        world.change(replicas=replicas, image="engine:2")
    passes(*worlds)
    assert [world.deployments() for world in worlds] == [
        {"engine-1": 0, "engine-2": prefill},
        {"engine-1": 0, "engine-2": decode},
    ]


def test_a_side_that_does_not_roll_is_not_waited_for() -> None:
    prefill, decode = pair(4, 2)
    prefill.change(replicas=4, image="engine:2")
    passes(prefill, decode)
    assert prefill.deployments() == {"engine-1": 0, "engine-2": 4}
    assert decode.deployments() == {"engine-1": 2}


def test_a_side_whose_partner_is_stuck_waits_and_says_for_whom() -> None:
    prefill, decode = pair(4, 4)
    decode.failing_images = {"engine-2"}
    for world in (prefill, decode):
        world.change(replicas=4, image="engine:2")
    passes(prefill, decode)
    assert prefill.deployments() == {"engine-1": 3, "engine-2": 1}
    assert prefill.ready == 4
    assert decode.ready == 3
    assert "DecodePool serving/chat" in prefill.message("Reconciling")
    decode.change(replicas=4)
    passes(prefill, decode)
    assert prefill.deployments() == {"engine-1": 0, "engine-2": 4}
