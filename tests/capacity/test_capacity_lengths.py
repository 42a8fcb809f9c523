from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import (
    Curve,
    InvalidInputError,
    LengthBeyondProfileError,
    Lengths,
    LengthSketch,
    TruncatedLogNormal,
    equal_work_buckets,
    mean_length,
    mean_of,
    paper,
    share_above,
    square_mean_of,
)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((math.nan, 1, 1, 2), "mu"),
        ((1, 0, 1, 2), "sigma"),
        ((1, -1, 1, 2), "sigma"),
        ((1, 1, 0, 2), "min_tokens"),
        ((1, 1, 2, 2), "max_tokens"),
        ((1, 1, 2, math.inf), "max_tokens"),
        ((1000, 1, 1, 2), "mu"),
    ],
)
def test_bad_log_normal(arguments: tuple[float, float, float, float], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        TruncatedLogNormal(*arguments)
    assert caught.value.field == field


def test_bad_sketches() -> None:
    with pytest.raises(InvalidInputError, match=r"lengths\[1\]: is 0"):
        LengthSketch.of([5, 0])
    with pytest.raises(InvalidInputError, match="nothing was counted"):
        LengthSketch.of([])
    with pytest.raises(InvalidInputError, match="bins"):
        LengthSketch((1.0,))
    with pytest.raises(InvalidInputError, match=r"lengths\[0\]"):
        LengthSketch.of([math.nan])


def test_log_normal_moments_against_a_sum() -> None:
    lengths, parts = paper.LENGTHS, 20_000
    mass, first, second = lengths.moments(5_000, 60_000)
    low, high = (share_above(lengths, edge) for edge in (60_000, 5_000))
    draws = [lengths.quantile(1 - low - (high - low) * (k + 0.5) / parts) for k in range(parts)]
    assert mass == pytest.approx(high - low, rel=1e-9)
    assert first == pytest.approx(mass * sum(draws) / parts, rel=1e-4)
    assert second == pytest.approx(mass * sum(x * x for x in draws) / parts, rel=1e-4)


lengths_lists = st.lists(st.integers(1, 200_000), min_size=1, max_size=200)
any_lengths: st.SearchStrategy[Lengths] = st.one_of(
    lengths_lists.map(LengthSketch.of),
    st.builds(
        TruncatedLogNormal,
        mu=st.floats(4, 11),
        sigma=st.floats(0.2, 2),
        min_tokens=st.floats(1, 100),
        max_tokens=st.floats(20_000, 200_000),
    ),
)


@given(any_lengths, st.integers(1, 40))
def test_buckets_divide_the_whole(lengths: Lengths, count: int) -> None:
    buckets = equal_work_buckets(lengths, count)
    assert len(buckets) <= count
    assert math.fsum(bucket.share for bucket in buckets) == pytest.approx(1.0, rel=1e-6)
    whole = mean_length(lengths, lengths.min_tokens, lengths.max_tokens)
    assert math.fsum(bucket.moments[1] for bucket in buckets) == pytest.approx(whole, rel=1e-6)


@given(any_lengths, st.floats(0, 1))
def test_quantile_inverts_the_share(lengths: Lengths, share: float) -> None:
    assert share_above(lengths, lengths.quantile(share)) == pytest.approx(1 - share, abs=1e-6)


@given(lengths_lists)
def test_a_sketch_keeps_the_mean_and_the_order(values: list[int]) -> None:
    sketch = LengthSketch.of(values)
    mean = sum(values) / len(values)
    assert mean_length(sketch, sketch.min_tokens, sketch.max_tokens) == pytest.approx(mean, rel=0.045)
    assert sketch.max_tokens >= max(values) * (1 - 1e-9)
    assert LengthSketch.of(reversed(values)) == sketch


@given(lengths_lists, lengths_lists)
def test_sketches_merge_exactly(one: list[int], other: list[int]) -> None:
    assert LengthSketch.of(one).merged(LengthSketch.of(other)) == LengthSketch.of(one + other)


def test_an_old_sketch_fades() -> None:
    merged = LengthSketch.of([10] * 100).merged(LengthSketch.of([1000] * 100), own_factor=0.25)
    assert share_above(merged, 100) == pytest.approx(0.8)


@given(any_lengths)
def test_a_convex_curve_costs_more_than_at_the_mean(lengths: Lengths) -> None:
    curve = Curve.polynomial(0.389, 4.1e-5, 9.5e-11, to_tokens=300_000)
    low, high = lengths.min_tokens, lengths.max_tokens
    exact = mean_of(curve, lengths, low, high)
    assert exact >= curve.at(mean_length(lengths, low, high)) * (1 - 1e-9)
    assert square_mean_of(curve, lengths) >= exact**2 * (1 - 1e-9)


def test_a_profile_that_is_too_short_is_refused() -> None:
    with pytest.raises(LengthBeyondProfileError):
        mean_of(Curve.polynomial(1, 0, to_tokens=1000), paper.LENGTHS, 0, math.inf)


def test_nothing_in_a_class() -> None:
    assert mean_of(paper.PREFILL_H200, paper.LENGTHS, 200_000, 300_000) == 0
    assert share_above(paper.LENGTHS, 200_000) == 0
    with pytest.raises(InvalidInputError, match="buckets"):
        equal_work_buckets(paper.LENGTHS, 0)


def test_a_sketch_survives_being_written_down() -> None:
    sketch = LengthSketch.of([1, 2, 3, 100, 101, 5000, 131_072, 2**24])
    assert LengthSketch.weighted(sketch.counted) == sketch
    with pytest.raises(InvalidInputError, match=r"lengths\[0\]\.count"):
        LengthSketch.weighted([(5, -1.0)])
