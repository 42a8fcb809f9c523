from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.capacity import Curve, InvalidInputError, KVSize, LengthBeyondProfileError, Wire

NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    ("points", "field", "words"),
    [
        ([], "points", "at least one"),
        ([(0, 1.0)], "points[0].tokens", "greater than 0"),
        ([(1, -1.0)], "points[0].value", "greater than 0"),
        ([(1, NAN)], "points[0].value", "finite"),
        ([(INFINITE, 1.0)], "points[0].tokens", "finite"),
        ([(2, 1.0), (1, 2.0)], "points[1].tokens", "sort"),
        ([(1, 1.0), (1, 2.0)], "points[1].tokens", "sort"),
        ([(1, 2.0), (2, 1.0)], "points[1].value", "falls from 2 to 1 between 1 and 2 tokens"),
    ],
)
def test_bad_points_name_field_and_remedy(points: list[tuple[float, float]], field: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Curve.from_points(points)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "coefficients",
    [(-1.0, 0.0, 0.0), (1.0, -0.1, 0.0), (1.0, 0.1, -1e-3), (NAN, 0.0, 0.0), (1.0, INFINITE, 0.0)],
)
def test_a_falling_or_senseless_polynomial_is_refused(coefficients: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidInputError):
        Curve.polynomial(*coefficients, to_tokens=1000)


def test_too_few_points_for_a_fit() -> None:
    with pytest.raises(InvalidInputError, match="at least 3 different lengths"):
        Curve.fitted([(1, 1.0), (2, 2.0)], degree=2, to_tokens=10)
    with pytest.raises(InvalidInputError, match="give 1 or 2"):
        Curve.fitted([(1, 1.0), (2, 2.0)], degree=3, to_tokens=10)


def test_lengths_above_a_profile_are_refused_or_continued() -> None:
    points = [(1_000, 1.0), (2_000, 3.0)]
    with pytest.raises(LengthBeyondProfileError, match="measure the longer prompts"):
        Curve.from_points(points).at(2_001)
    continued = Curve.from_points(points, extrapolates=True)
    assert continued.at(3_000) == pytest.approx(5.0)
    assert not continued.covers(500, 1_500)
    assert not continued.covers(1_500, 2_001)
    assert continued.covers(1_000, 2_000)


def test_below_the_first_point_its_value_holds() -> None:
    curve = Curve.from_points([(1_000, 1.0), (2_000, 3.0)])
    assert curve.at(1) == curve.at(1_000) == 1.0


def test_one_point_is_a_constant() -> None:
    assert Curve.from_points([(100, 5.0)]).at(50) == 5.0


def test_a_gap_between_segments_is_refused() -> None:
    one, other = Curve.polynomial(1, 0, to_tokens=10), Curve.polynomial(2, 0, from_tokens=11, to_tokens=20)
    with pytest.raises(InvalidInputError, match="between 10 and 11"):
        Curve(one.segments + other.segments)
    lower = Curve.polynomial(0.5, 0, from_tokens=10, to_tokens=20)
    with pytest.raises(InvalidInputError, match=r"falls from 1 to 0\.5"):
        Curve(one.segments + lower.segments)


tables = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(0.001, 1000)),
    min_size=1,
    max_size=12,
    unique_by=lambda p: p[0],
).map(lambda points: list(zip(sorted(p[0] for p in points), sorted(p[1] for p in points), strict=True)))


@given(tables, st.floats(0.5, 2e6), st.floats(0.5, 2e6))
def test_a_curve_never_falls(points: list[tuple[float, float]], one: float, other: float) -> None:
    curve = Curve.from_points(points, extrapolates=True)
    low, high = min(one, other), max(one, other)
    assert curve.at(low) <= curve.at(high) * (1 + 1e-9)


@given(tables)
def test_a_curve_goes_through_its_points(points: list[tuple[float, float]]) -> None:
    curve = Curve.from_points(points)
    for tokens, value in points:
        assert curve.at(tokens) == pytest.approx(value, rel=1e-6)


@given(tables, st.floats(0.05, 1.0), st.floats(1, 1e6))
def test_a_share_of_each_prompt(points: list[tuple[float, float]], share: float, tokens: float) -> None:
    curve = Curve.from_points(points, extrapolates=True)
    assert curve.of_share(share).at(tokens) == pytest.approx(curve.at(share * tokens), rel=1e-6)


@given(tables, st.floats(0.0005, 2000))
def test_longest_within_inverts(points: list[tuple[float, float]], value: float) -> None:
    curve = Curve.from_points(points)
    longest = curve.longest_within(value)
    if longest > 0:
        assert curve.at(longest) <= value * (1 + 1e-6)
    else:
        assert curve.at(curve.from_tokens) > value


def test_state_must_leave_something_for_the_tokens() -> None:
    with pytest.raises(InvalidInputError, match="state_bytes"):
        KVSize.from_points([(100, 1000), (200, 2000)], state_bytes=1000)
    size = KVSize.from_points([(100, 1000), (200, 2000)], state_bytes=500)
    assert size.at(150) == pytest.approx(1500)


def test_state_is_never_sent_as_a_delta() -> None:
    assert Wire(held_share=1.0).bytes_of(100, 1000) == 100
    assert Wire(state_ratio=2, token_ratio=4, held_share=0.5).bytes_of(100, 1000) == 50 + 125


@pytest.mark.parametrize("wrong", [{"token_ratio": 0}, {"state_ratio": NAN}, {"held_share": 1.1}])
def test_bad_wire(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError):
        Wire(**wrong)
