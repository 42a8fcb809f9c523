"""Lanes and units: how a prompt's KV is cut, addressed and counted.

A *lane* is all KV of one (KV cache group, layer, shard) of one transfer: a row of equally large *units*. A
unit is one engine block of an attention group, or one snapshot of a state group. Units are numbered from 0 in
the order of the prompt. *Ranges* are sorted, disjoint, half-open pairs of unit numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Range = tuple[int, int]
Ranges = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """Shape of one lane. ``unit_bytes`` is the size of one unit of this shard."""

    group: int
    layer: int
    shard: int
    units: int
    unit_bytes: int


def normalise(ranges: Iterable[Sequence[int]]) -> Ranges:
    """Sort and merge ranges; empty ones vanish.

    Raises:
        ValueError: a range is not a pair of integers with ``0 <= start <= end``.
    """
    checked: list[Range] = []
    for pair in ranges:
        if len(pair) != 2 or not all(type(edge) is int for edge in pair):
            raise ValueError(f"a range is a pair of integers, not {pair!r}")
        start, end = pair
        if not 0 <= start <= end:
            raise ValueError(f"a range needs 0 <= start <= end, not {start}..{end}")
        if start < end:
            checked.append((start, end))
    merged: list[Range] = []
    for start, end in sorted(checked):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def count(ranges: Ranges) -> int:
    """Number of units in normalised ranges."""
    return sum(end - start for start, end in ranges)


def position(ranges: Ranges, unit: int) -> int:
    """Place of ``unit`` among the units of ``ranges``, counted from 0.

    An extent holds only the wanted units, packed: unit ``u`` lies at ``offset + position(want, u) *
    unit_bytes``.

    Raises:
        KeyError: the unit is not in the ranges.
    """
    before = 0
    for start, end in ranges:
        if start <= unit < end:
            return before + unit - start
        before += end - start
    raise KeyError(unit)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """Units that are in both."""
    found: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def subtract(left: Ranges, right: Ranges) -> Ranges:
    """Units of ``left`` that are not in ``right``."""
    remaining: list[Range] = []
    for begin, finish in left:
        cursor = begin
        for start, end in right:
            if end <= cursor or start >= finish:
                continue
            if start > cursor:
                remaining.append((cursor, start))
            cursor = max(cursor, end)
        if cursor < finish:
            remaining.append((cursor, finish))
    return tuple(remaining)
