"""Monotone curves over prompt length: T_prefill(l) in seconds, S_kv(l) in bytes.

A curve is made of polynomials of degree two at most. That is enough for measured tables (linear between the
points) and for fits, and it makes every expectation over a length distribution exact: only the first three
moments of a piece of the distribution are needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from prfaas.capacity.errors import InvalidInputError, LengthBeyondProfileError, require_positive

SHORTEST_TOKENS = 1.0
_SLOPE_SLACK = 1e-9
_INVERSION_STEPS = 60


@dataclass(frozen=True, slots=True)
class Segment:
    """constant + linear·l + quadratic·l² for lengths l in (from_tokens, to_tokens]."""

    from_tokens: float
    to_tokens: float
    constant: float
    linear: float
    quadratic: float = 0.0

    def at(self, tokens: float) -> float:
        """The polynomial's value; also beyond its ends."""
        return self.constant + tokens * (self.linear + tokens * self.quadratic)

    def slope_at(self, tokens: float) -> float:
        """First derivative, per token."""
        return self.linear + 2 * self.quadratic * tokens


@dataclass(frozen=True, slots=True)
class Curve:
    """A positive curve that never falls with length.

    Attributes:
        segments: adjoining, by ascending length.
        extrapolates: whether lengths above the last segment are answered, along its last slope, which is too
            little for a convex curve. Otherwise they raise LengthBeyondProfileError. Below the first segment
            its first value holds, which is never too little. `covers` tells whoever has to report either.
    """

    segments: tuple[Segment, ...]
    extrapolates: bool = False

    def __post_init__(self) -> None:
        if not self.segments:
            raise InvalidInputError("points", "there is none", "give at least one measured point")
        for segment in self.segments:
            _check_segment(segment)
        for earlier, later in pairwise(self.segments):
            end, start = earlier.at(earlier.to_tokens), later.at(earlier.to_tokens)
            if earlier.to_tokens != later.from_tokens:
                raise InvalidInputError(
                    "points",
                    f"nothing is said between {earlier.to_tokens:g} and {later.from_tokens:g} tokens",
                    "let each segment begin where the one before it ends",
                )
            if start < end * (1 - 1e-9):
                raise InvalidInputError(
                    "points",
                    f"the value falls from {end:g} to {start:g} at {earlier.to_tokens:g} tokens",
                    "a longer prompt cannot need less: measure again, or leave the point out",
                )

    @classmethod
    def from_points(cls, points: Sequence[tuple[float, float]], *, extrapolates: bool = False) -> Curve:
        """Straight lines between measured points (tokens, value), shortest first. One point is a constant.

        Raises:
            InvalidInputError: no point, a length or value that is not positive and finite, lengths that do
                not ascend, or values that fall.
        """
        for index, (tokens, value) in enumerate(points):
            require_positive(f"points[{index}].tokens", tokens)
            require_positive(f"points[{index}].value", value)
        for index, (one, other) in enumerate(pairwise(points), start=1):
            if other[0] <= one[0]:
                raise InvalidInputError(
                    f"points[{index}].tokens", f"{other[0]:g} follows {one[0]:g}", "sort the points by length"
                )
            if other[1] < one[1]:
                raise InvalidInputError(
                    f"points[{index}].value",
                    f"falls from {one[1]:g} to {other[1]:g} between {one[0]:g} and {other[0]:g} tokens",
                    "a longer prompt cannot need less: measure again, or leave the point out",
                )
        if len(points) == 1:
            tokens, value = points[0]
            return cls((Segment(min(SHORTEST_TOKENS, tokens), tokens, value, 0.0),), extrapolates)
        segments = []
        for (from_tokens, low), (to_tokens, high) in pairwise(points):
            slope = (high - low) / (to_tokens - from_tokens)
            segments.append(Segment(from_tokens, to_tokens, low - slope * from_tokens, slope))
        return cls(tuple(segments), extrapolates)

    @classmethod
    def polynomial(
        cls,
        constant: float,
        linear: float,
        quadratic: float = 0.0,
        *,
        to_tokens: float,
        from_tokens: float = SHORTEST_TOKENS,
    ) -> Curve:
        """One polynomial over [from_tokens, to_tokens]; InvalidInputError if it falls anywhere there."""
        return cls((Segment(from_tokens, to_tokens, constant, linear, quadratic),))

    @classmethod
    def fitted(cls, points: Sequence[tuple[float, float]], *, degree: int, to_tokens: float) -> Curve:
        """The polynomial of degree 1 or 2 with the least squared relative error at the points.

        Raises:
            InvalidInputError: fewer points than coefficients, or a fit that is negative or falls somewhere.
        """
        if degree not in (1, 2):
            raise InvalidInputError("degree", f"is {degree}", "give 1 or 2")
        if len({tokens for tokens, _ in points}) <= degree:
            raise InvalidInputError(
                "points", f"there are {len(points)}", f"give at least {degree + 1} different lengths"
            )
        scale = max(tokens for tokens, _ in points)
        rows = [[(tokens / scale) ** k / value for k in range(degree + 1)] for tokens, value in points]
        solved = _least_squares(rows)
        constant, linear, *rest = (value / scale**k for k, value in enumerate(solved))
        return cls.polynomial(constant, linear, rest[0] if rest else 0.0, to_tokens=to_tokens)

    @property
    def from_tokens(self) -> float:
        """The shortest length that the curve was made for."""
        return self.segments[0].from_tokens

    @property
    def to_tokens(self) -> float:
        """The longest length that the curve was made for."""
        return self.segments[-1].to_tokens

    def covers(self, from_tokens: float, to_tokens: float) -> bool:
        """Whether the curve was made for all lengths between the two."""
        return self.from_tokens <= from_tokens and to_tokens <= self.to_tokens

    def at(self, tokens: float) -> float:
        """The value at a length in tokens; LengthBeyondProfileError above, unless it extrapolates."""
        self.require(tokens, tokens)
        if tokens < self.from_tokens:
            return self.segments[0].at(self.from_tokens)
        index = min(
            bisect_left(self.segments, tokens, key=lambda segment: segment.to_tokens), len(self.segments) - 1
        )
        segment = self.segments[index]
        if tokens > segment.to_tokens:
            end = segment.to_tokens
            return segment.at(end) + (tokens - end) * segment.slope_at(end)
        return segment.at(tokens)

    def require(self, from_tokens: float, to_tokens: float) -> None:
        """Raise LengthBeyondProfileError when a length between the two cannot be answered."""
        if not (math.isfinite(from_tokens) and math.isfinite(to_tokens)):
            raise InvalidInputError("tokens", f"{from_tokens} to {to_tokens}", "give finite lengths")
        if not self.extrapolates and to_tokens > self.to_tokens:
            raise LengthBeyondProfileError(
                "tokens",
                f"lengths up to {to_tokens:g} are beyond the profile, which ends at {self.to_tokens:g}",
                "measure the longer prompts, bound the lengths, or let the profile extrapolate",
            )

    def pieces(self, from_tokens: float, to_tokens: float) -> Iterator[Segment]:
        """The polynomials over (from_tokens, to_tokens], cut to it, those of the extrapolation included."""
        self.require(from_tokens, to_tokens)
        first, last = self.segments[0], self.segments[-1]
        if from_tokens < first.from_tokens:
            yield Segment(
                from_tokens, min(to_tokens, first.from_tokens), first.at(first.from_tokens), 0.0, 0.0
            )
        for segment in self.segments:
            low, high = max(from_tokens, segment.from_tokens), min(to_tokens, segment.to_tokens)
            if low < high:
                yield replace(segment, from_tokens=low, to_tokens=high)
        if to_tokens > last.to_tokens:
            end, slope = last.to_tokens, last.slope_at(last.to_tokens)
            yield Segment(max(from_tokens, end), to_tokens, last.at(end) - slope * end, slope, 0.0)

    def longest_within(self, value: float) -> float:
        """The longest length whose value is at most `value`, in tokens; 0 when there is none.

        Bisection between the ends of the curve; an extrapolated part is not searched.
        """
        low, high = self.from_tokens, self.to_tokens
        if self.at(high) <= value:
            return high
        if self.at(low) > value:
            return 0.0
        for _ in range(_INVERSION_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle) <= value else (low, middle)
        return low

    def of_share(self, share: float) -> Curve:
        """l ↦ curve(share·l): when only that share of each prompt, above 0, has to be processed."""
        if share == 1:
            return self
        require_positive("share", share)
        return Curve(
            tuple(
                Segment(
                    segment.from_tokens / share,
                    segment.to_tokens / share,
                    segment.constant,
                    segment.linear * share,
                    segment.quadratic * share**2,
                )
                for segment in self.segments
            ),
            self.extrapolates,
        )


def _check_segment(segment: Segment) -> None:
    numbers = (
        segment.from_tokens,
        segment.to_tokens,
        segment.constant,
        segment.linear,
        segment.quadratic,
    )
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidInputError("points", f"{segment} is not finite", "give finite numbers")
    if not 0 <= segment.from_tokens < segment.to_tokens and segment.from_tokens != segment.to_tokens:
        raise InvalidInputError(
            "points",
            f"a segment from {segment.from_tokens:g} to {segment.to_tokens:g} tokens",
            "sort the points by length",
        )
    low, high = segment.at(segment.from_tokens), segment.at(segment.to_tokens)
    if low <= 0:
        raise InvalidInputError(
            "points", f"the value at {segment.from_tokens:g} tokens is {low:g}", "give values greater than 0"
        )
    slack = _SLOPE_SLACK * max(low, high) / max(segment.to_tokens, 1.0)
    if min(segment.slope_at(segment.from_tokens), segment.slope_at(segment.to_tokens)) < -slack:
        raise InvalidInputError(
            "points",
            f"the curve falls between {segment.from_tokens:g} and {segment.to_tokens:g} tokens",
            "a longer prompt cannot need less: measure again, or use straight lines between the points",
        )


def _least_squares(rows: list[list[float]]) -> list[float]:
    """Solve rows · x ≈ 1 by the normal equations; two or three unknowns of like scale."""
    size = len(rows[0])
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda index: abs(matrix[index][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for index in range(size):
            if index != column:
                factor = matrix[index][column] / matrix[column][column]
                matrix[index] = [a - factor * b for a, b in zip(matrix[index], matrix[column], strict=True)]
    return [matrix[index][size] / matrix[index][index] for index in range(size)]
