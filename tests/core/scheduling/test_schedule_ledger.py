"""The ledger's sums and error bars, the guard's falls and returns, and prefill times that are learned."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import LengthSketch
from prfaas.scheduling.guard import Guard, GuardRule, watched, wilson_low
from prfaas.scheduling.learned import FEWEST, LearnedPrefill
from prfaas.scheduling.ledger import Moments, Outcome, Tally, estimate, length_bin, merged

OUTCOMES = st.builds(
    Outcome,
    uncached_tokens=st.integers(0, 200_000),
    worth_it=st.booleans(),
    remote=st.booleans(),
    local_seconds=st.none() | st.floats(0, 100),
    remote_seconds=st.none() | st.floats(0, 100),
    local_compute_seconds=st.none() | st.floats(0, 100),
    remote_compute_seconds=st.none() | st.floats(0, 100),
    first_token_seconds=st.none() | st.floats(0, 100),
    late=st.none() | st.booleans(),
)


def tally_of(outcomes: list[Outcome], seconds: float = 0.0) -> Tally:
    tally = Tally(seconds=seconds)
    for outcome in outcomes:
        tally.count(outcome)
    return tally


def flat(tally: Tally) -> list[float]:
    values: list[float] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                walk(value[key])
        elif isinstance(value, list):
            for each in value:
                walk(each)
        else:
            assert isinstance(value, int | float)
            values.append(float(value))

    walk(tally.to_document())
    return values


@given(st.lists(OUTCOMES, max_size=12), st.lists(OUTCOMES, max_size=12))
def test_tallies_of_two_gateways_add_up_to_that_of_one(one: list[Outcome], other: list[Outcome]) -> None:
    assert flat(merged([tally_of(one), tally_of(other)])) == pytest.approx(flat(tally_of([*one, *other])))


@given(st.lists(OUTCOMES, max_size=12))
def test_a_tally_survives_json(outcomes: list[Outcome]) -> None:
    tally = tally_of(outcomes, 60)
    document = json.loads(json.dumps(tally.to_document()))
    document["from_a_newer_gateway"] = {"x": 1}
    assert Tally.from_document(document) == tally


@pytest.mark.parametrize(
    "document",
    [
        {"requests": "many"},
        {"requests": True},
        {"requests": math.nan},
        {"lengths": {"385": 1}},
        {"lengths": [1]},
        {"gain": [1, 2]},
        {"gain": [-1, 2, 3]},
        {"treated": {"x": [1, 2, 3]}},
        {"treated": {"3": None}},
    ],
)
def test_what_is_no_tally_is_refused_by_field(document: dict[str, object]) -> None:
    (name,) = document
    with pytest.raises(ValueError, match=name):
        Tally.from_document(document)


@given(st.integers(1, 2**24))
def test_lengths_are_binned_as_the_planner_has_them(tokens: int) -> None:
    tally = tally_of([Outcome(tokens, worth_it=False, remote=False)])
    assert tally.length_sketch() == LengthSketch.of([tokens])
    assert 0 <= length_bin(0) <= length_bin(tokens) <= length_bin(2**30)


def test_nothing_counted_says_nothing() -> None:
    assert Tally().length_sketch() is None
    nothing = estimate(Tally(seconds=3600))
    assert nothing.requests_per_second == 0
    assert nothing.gain_seconds is None
    assert nothing.freed_seconds_per_day is None
    assert nothing.measured_gain_seconds is None


def traffic(count: int, *, off: float, chance: random.Random) -> list[Outcome]:
    """Local prefill takes `off` times what is predicted."""
    outcomes = []
    for number in range(count):
        worth_it = number % 2 == 0
        local = chance.uniform(2, 6)
        outcomes.append(
            Outcome(
                20_000 if worth_it else 500,
                worth_it=worth_it,
                remote=False,
                local_seconds=local,
                remote_seconds=local / 2 if worth_it else None,
                local_compute_seconds=local,
                first_token_seconds=local * off * chance.uniform(0.9, 1.1),
            )
        )
    return outcomes


def test_bars_shrink_with_traffic_and_widen_with_predictions_that_are_off() -> None:
    chance = random.Random(5)
    few = estimate(tally_of(traffic(40, off=1.0, chance=chance), 3600)).gain_seconds
    many = estimate(tally_of(traffic(4000, off=1.0, chance=chance), 3600)).gain_seconds
    off = estimate(tally_of(traffic(4000, off=1.5, chance=chance), 3600)).gain_seconds
    assert few is not None
    assert many is not None
    assert off is not None
    assert many.value == pytest.approx(2, rel=0.05)
    # The remote side has not been compared with anything: half of its two seconds stays open.
    assert many.error == pytest.approx(1, rel=0.1)
    assert few.error > many.error
    assert off.error > math.hypot(1, 0.45 * 4)


def test_savings_are_per_day() -> None:
    half_a_day = estimate(tally_of(traffic(4000, off=1.0, chance=random.Random(5)), 43_200))
    assert half_a_day.freed_seconds_per_day is not None
    assert half_a_day.freed_seconds_per_day.value == pytest.approx(2000 * 4 * 2, rel=0.05)
    assert half_a_day.freed_seconds_per_day.error < 0.1 * half_a_day.freed_seconds_per_day.value
    assert half_a_day.remote_share == 0.5


def test_a_canary_is_compared_with_what_was_held_back_at_equal_length() -> None:
    """Treated requests are longer on average: without matching, remote would look slower."""
    chance = random.Random(6)
    outcomes = []
    for number in range(2000):
        remote = number % 4 == 0
        long = chance.random() < (0.9 if remote else 0.1)
        seconds = (10 if long else 2) - (1 if remote else 0)
        outcomes.append(
            Outcome(
                60_000 if long else 6_000,
                worth_it=True,
                remote=remote,
                first_token_seconds=seconds * chance.uniform(0.9, 1.1),
            )
        )
    measured = estimate(tally_of(outcomes, 60)).measured_gain_seconds
    assert measured is not None
    assert abs(measured.value - 1) <= measured.error * 1.5
    assert measured.error < 0.2


def test_moments_of_little() -> None:
    one = Moments()
    one.add(3)
    assert (one.mean, one.variance, one.variance_of_mean) == (3, 0, math.inf)


RULE = GuardRule()


def run(guard: Guard, count: int, *, late: float, remote: bool = True, start: float = 0.0) -> Guard:
    """`late` of each ten are late; a request a second."""
    for number in range(count):
        guard = watched(guard, remote=remote, late=number % 10 < late * 10, now=start + number)
    return guard


def test_it_falls_when_remote_is_late_and_local_is_not() -> None:
    guard = run(Guard(), 40, late=0, remote=False)
    guard = run(guard, 40, late=0.5, start=40)
    assert guard.fallen(guard.at)
    assert not guard.fallen(guard.at + RULE.hold_seconds)


def test_it_stays_while_everybody_is_late() -> None:
    guard = Guard()
    for second in range(200):
        guard = watched(guard, remote=second % 2 == 0, late=True, now=second)
    assert not guard.fallen(200)


def test_few_requests_and_few_late_ones_prove_nothing() -> None:
    assert not run(Guard(), 15, late=1).fallen(15)
    assert not run(Guard(), 100, late=0).fallen(100)


def test_each_fall_in_a_row_holds_twice_as_long_and_time_heals() -> None:
    holds, now = [], 0.0
    guard = Guard()
    for _ in range(4):
        while not guard.fallen(now):
            guard, now = watched(guard, remote=True, late=True, now=now), now + 1
        assert guard.fallen_until is not None
        holds.append(round(guard.fallen_until - guard.at))
        now = guard.fallen_until
    assert holds == [60, 120, 240, 480]
    for _ in range(700):
        guard, now = watched(guard, remote=True, late=False, now=now), now + 1
    assert guard.falls == 0


def test_while_fallen_nothing_is_counted() -> None:
    fallen = Guard(fallen_until=100, falls=1)
    assert watched(fallen, remote=False, late=True, now=50) is fallen


@given(st.floats(0, 1000), st.floats(0, 1))
def test_wilson_is_below_the_share(seen: float, share: float) -> None:
    assert 0 <= wilson_low(seen * share, seen) <= max(share, 0) + 1e-9


def test_prefill_times_are_learned_from_few_and_hardly_moved_by_strange_ones() -> None:
    learned = LearnedPrefill()
    assert learned.curve() is None
    chance = random.Random(4)
    for _ in range(400):
        tokens = int(2 ** chance.uniform(9, 16))
        strange = chance.random() < 0.1
        learned.observe(tokens, (0.1 + tokens * 1e-4) * chance.uniform(0.9, 1.1) * (20 if strange else 1))
    curve = learned.curve()
    assert curve is not None
    for tokens in (1_000, 8_000, 40_000):
        assert curve.at(tokens) == pytest.approx(0.1 + tokens * 1e-4, rel=0.35)


def test_what_is_learned_follows_a_change() -> None:
    learned = LearnedPrefill()
    for _ in range(50):
        learned.observe(10_000, 1.0)
    for _ in range(100):
        learned.observe(10_000, 3.0)
    curve = learned.curve()
    assert curve is not None
    assert curve.at(10_000) == pytest.approx(3, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 200_000), st.floats(1e-4, 1e3)), max_size=150))
def test_what_is_learned_always_rises(observed: list[tuple[int, float]]) -> None:
    learned = LearnedPrefill()
    for tokens, seconds in observed:
        for _ in range(FEWEST):
            learned.observe(tokens, seconds)
    points = learned.points()
    assert points == sorted(points)
    assert [value for _, value in points] == sorted(value for _, value in points)
    curve = learned.curve()
    if curve is not None:
        assert curve.at(10) <= curve.at(1000) <= curve.at(300_000)


def test_nonsense_is_not_learned() -> None:
    learned = LearnedPrefill()
    for tokens, seconds in ((0, 1.0), (5, 0.0), (5, -1.0), (5, math.inf), (5, math.nan)):
        for _ in range(FEWEST):
            learned.observe(tokens, seconds)
    assert learned.points() == []
