from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_operator.planning.rollout import Fleet, Partner, RevisionCount, Step, Trouble, Wait, next_step
from tests.operator.planning.rollout_simulator import Pool, Revision, settle


def healthy(name: str, count: int) -> RevisionCount:
    return RevisionCount(name, count, count, count)


def none(name: str = "new") -> RevisionCount:
    return RevisionCount(name, 0, 0, 0)


def starting(name: str, count: int, *, ready: int = 0, broken: int = 0) -> RevisionCount:
    return RevisionCount(name, count, count, ready, broken)


@pytest.mark.parametrize(
    ("fleet", "step"),
    [
        pytest.param(Fleet(3, 1, 0, none()), Step(3, ()), id="a new pool gets all at once"),
        pytest.param(Fleet(0, 1, 0, healthy("new", 3)), Step(0, ()), id="to zero"),
        pytest.param(
            Fleet(3, 1, 0, healthy("new", 2), ending=1),
            Step(2, (), Wait.ENDING),
            id="the last of the old revision is still ending",
        ),
        pytest.param(Fleet(3, 1, 0, healthy("new", 3)), Step(3, ()), id="nothing to do"),
        pytest.param(
            Fleet(5, 1, 0, starting("new", 3, ready=2), trouble=Trouble.NO_CAPACITY),
            Step(3, (), Wait.NO_CAPACITY),
            id="nothing is added while one waits for capacity",
        ),
        pytest.param(
            Fleet(2, 1, 0, starting("new", 3, ready=2), trouble=Trouble.NO_CAPACITY),
            Step(2, ()),
            id="but it may shrink",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (healthy("old", 4),)),
            Step(0, (3,)),
            id="without surge the old one goes first",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (healthy("old", 3),), ending=1),
            Step(0, (3,), Wait.ENDING),
            id="its accelerator is busy until it has ended",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (healthy("old", 3),)),
            Step(1, (3,), Wait.NEW_NOT_READY),
            id="then one comes",
        ),
        pytest.param(
            Fleet(4, 1, 0, starting("new", 1), (healthy("old", 3),)),
            Step(1, (3,), Wait.NEW_NOT_READY),
            id="not ready yet: nobody else goes",
        ),
        pytest.param(
            Fleet(4, 1, 0, healthy("new", 1), (healthy("old", 3),)), Step(1, (2,)), id="ready: the next goes"
        ),
        pytest.param(
            Fleet(4, 0, 1, none(), (healthy("old", 4),)),
            Step(1, (4,), Wait.NEW_NOT_READY),
            id="with surge the new one comes first",
        ),
        pytest.param(
            Fleet(4, 1, 1, starting("new", 1, broken=1), (healthy("old", 4),), trouble=Trouble.FAILING),
            Step(1, (4,), Wait.FAILING),
            id="a revision that cannot start takes nobody's place",
        ),
        pytest.param(
            Fleet(4, 1, 1, starting("new", 1), (healthy("old", 4),), trouble=Trouble.NO_CAPACITY),
            Step(1, (3,), Wait.NO_CAPACITY),
            id="no room for the surge: an old one makes room",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (starting("old", 4, broken=4),)),
            Step(0, (0,)),
            id="broken ones may go at once",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (starting("old", 4, ready=2),)),
            Step(0, (4,)),
            id="what is not ready for a moment is left to recover",
        ),
        pytest.param(
            Fleet(4, 1, 0, none(), (starting("old", 4, ready=2, broken=1),)),
            Step(0, (3,)),
            id="of two not ready ones the broken one goes",
        ),
        pytest.param(
            Fleet(4, 1, 0, healthy("old", 3), (starting("new", 1, broken=1),)),
            Step(3, (0,), Wait.NOTHING),
            id="a rollback removes what is broken",
        ),
        pytest.param(
            Fleet(4, 4, 0, none(), (healthy("old", 4),), partners=(Partner("p", 4, 0),)),
            Step(0, (0,)),
            id="a stride is maxUnavailable",
        ),
        pytest.param(
            Fleet(8, 1, 0, healthy("new", 1), (healthy("old", 7),), partners=(Partner("p", 4, 0),)),
            Step(1, (7,), Wait.PARTNER, "p"),
            id="level with its partner: it waits",
        ),
        pytest.param(
            Fleet(8, 1, 0, healthy("new", 1), (healthy("old", 7),), partners=(Partner("p", 4, 1),)),
            Step(1, (6,), Wait.NOTHING, "p"),
            id="its partner went on: so does it",
        ),
        pytest.param(
            Fleet(2, 1, 0, none(), (healthy("old", 6),)),
            Step(0, (1,)),
            id="a smaller pool shrinks the old one",
        ),
    ],
)
def test_next_step(fleet: Fleet, step: Step) -> None:
    assert next_step(fleet) == step


def test_a_whole_rollout_of_two_instances_without_surge() -> None:
    pool = Pool("p", 2, revisions={"old": Revision(2, 2)}, accelerators=2)
    seen: list[tuple[int, int]] = []

    def note() -> None:
        now = (pool.revisions["old"].replicas, pool.revisions["new"].replicas)
        if not seen or seen[-1] != now:
            seen.append(now)

    settle([pool], note)
    assert seen == [(1, 0), (1, 1), (0, 1), (0, 2)]


pools = st.builds(
    lambda name, desired, unavailable, surge, old: Pool(
        name,
        desired,
        max_unavailable=unavailable if unavailable or surge else 1,
        max_surge=surge,
        revisions={f"old{i}": Revision(count, count) for i, count in enumerate(old)},
        accelerators=max(desired + surge, sum(old)),
    ),
    st.just("a"),
    st.integers(0, 12),
    st.integers(0, 4),
    st.integers(0, 3),
    st.lists(st.integers(0, 6), max_size=3),
)


@given(pools, st.data())
def test_bounds_hold_at_every_step_and_it_ends(pool: Pool, data: st.DataObject) -> None:
    ready_floor = min(pool.ready, max(0, pool.desired - max(pool.max_unavailable, 0)))
    ceiling = max(pool.existing, pool.desired + pool.max_surge)

    def check() -> None:
        assert pool.ready >= ready_floor
        assert pool.existing <= ceiling

    for _ in range(data.draw(st.integers(0, 30))):
        data.draw(st.sampled_from([lambda: pool.plan([]), *pool.moves]))()
        check()
    settle([pool], check)
    assert pool.revisions["new"].ready == pool.desired
    assert pool.ready == pool.desired
    before = pool.fleet([])
    assert next_step(before) == Step(pool.desired, (0,) * len(before.old))


@given(pools, pools, st.data())
def test_pairs_keep_level_and_never_wait_for_each_other(a: Pool, b: Pool, data: st.DataObject) -> None:
    b.name = "b"

    def check() -> None:
        for one, other in ((a, b), (b, a)):
            if one.fleet([]).rolling and other.fleet([]).rolling and one.desired and other.desired:
                stride = max(1, one.max_unavailable + one.max_surge)
                ahead = one.revisions["new"].replicas * other.desired
                level = other.revisions["new"].ready * one.desired + stride * other.desired
                assert ahead <= level

    moves = [lambda: a.plan([b]), lambda: b.plan([a]), *a.moves, *b.moves]
    for _ in range(data.draw(st.integers(0, 40))):
        data.draw(st.sampled_from(moves))()
        check()
    settle([a, b], check)
    for pool in (a, b):
        assert pool.revisions["new"].ready == pool.ready == pool.desired


@given(pools)
def test_a_revision_that_never_becomes_ready_does_not_eat_the_old_one(pool: Pool) -> None:
    pool.revisions["new"] = Revision(never_ready=True)
    ready_before = pool.ready
    bound = min(ready_before, pool.desired - pool.max_unavailable)
    settle([pool], lambda: None)
    assert pool.ready >= max(0, bound)
    stuck = pool.revisions["new"].broken
    pool.new = "repaired"
    settle([pool], lambda: None)
    assert pool.revisions["repaired"].ready == pool.ready == pool.desired, stuck


@given(pools, st.integers(0, 12), st.integers(0, 40))
def test_the_size_may_change_half_way(pool: Pool, later: int, moves: int) -> None:
    for index in range(moves):
        [lambda: pool.plan([]), *pool.moves][index % 4]()
    pool.desired = later
    pool.accelerators = None
    settle([pool], lambda: None)
    assert pool.revisions["new"].ready == pool.ready == later


@given(pools, st.integers(0, 60))
def test_a_rollback_uses_what_is_there(pool: Pool, moves: int) -> None:
    pool.revisions = {"first": Revision(pool.desired, pool.desired)}
    pool.accelerators = pool.desired + pool.max_surge
    for index in range(moves):
        [lambda: pool.plan([]), *pool.moves][index % 4]()
    kept = pool.revisions["first"].replicas
    pool.new = "first"
    floor = min(pool.ready, pool.desired - pool.max_unavailable)

    def check() -> None:
        assert pool.revisions["first"].replicas >= min(kept, pool.desired)
        assert pool.ready >= floor

    settle([pool], check)
    assert pool.revisions["first"].ready == pool.ready == pool.desired
