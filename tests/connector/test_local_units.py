"""Ranges of units behave like the sets of numbers that they stand for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.local_api.units import Ranges, count, intersect, normalise, position, subtract

EDGE = 40
pairs = st.lists(
    st.tuples(st.integers(0, EDGE), st.integers(0, EDGE)).map(lambda p: (min(p), max(p))), max_size=8
)
ranges = pairs.map(normalise)


def members(of: Ranges) -> set[int]:
    return {unit for start, end in of for unit in range(start, end)}


@pytest.mark.parametrize(
    ("given_ranges", "expected"),
    [
        ([], ()),
        ([(3, 3)], ()),
        ([(0, 0), (2, 4)], ((2, 4),)),
        ([(2, 4), (4, 6)], ((2, 6),)),
        ([(2, 4), (5, 6)], ((2, 4), (5, 6))),
        ([(5, 9), (0, 2)], ((0, 2), (5, 9))),
        ([(0, 9), (2, 3)], ((0, 9),)),
        ([(0, 3), (2, 5), (4, 7)], ((0, 7),)),
        ([[1, 2]], ((1, 2),)),
    ],
)
def test_normalise(given_ranges: list[tuple[int, int]], expected: Ranges) -> None:
    assert normalise(given_ranges) == expected


@pytest.mark.parametrize(
    "wrong", [[(2, 1)], [(-1, 4)], [(1,)], [(1, 2, 3)], [(0, True)], [(0.0, 1)], [("0", "1")], [(None, 2)]]
)
def test_what_is_no_range_is_refused(wrong: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="a range"):
        normalise(wrong)


@given(pairs)
def test_normalised_ranges_are_sorted_disjoint_and_apart(given_pairs: list[tuple[int, int]]) -> None:
    normal = normalise(given_pairs)
    assert members(normal) == {unit for start, end in given_pairs for unit in range(start, end)}
    assert all(start < end for start, end in normal)
    assert all(before[1] < after[0] for before, after in pairwise(normal))
    assert normalise(normal) == normal


@given(ranges, ranges)
def test_operations_are_those_of_sets(left: Ranges, right: Ranges) -> None:
    assert count(left) == len(members(left))
    for result, expected in (
        (intersect(left, right), members(left) & members(right)),
        (subtract(left, right), members(left) - members(right)),
        (normalise((*left, *right)), members(left) | members(right)),
    ):
        assert members(result) == expected
        assert normalise(result) == result


@given(ranges)
def test_position_numbers_the_units_without_gaps(of: Ranges) -> None:
    places = [position(of, unit) for unit in sorted(members(of))]
    assert places == list(range(count(of)))
    for unit in set(range(EDGE + 2)) - members(of):
        with pytest.raises(KeyError):
            position(of, unit)
