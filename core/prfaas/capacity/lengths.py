"""How long the prompts are: distributions of the uncached length L in tokens.

What the model needs of one is the mass and the first two moments of any of its pieces. With curves of degree
two that gives exact conditional means (`mean_of`), which matters: T_prefill is convex, so T(E[L]) is too
little.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import InvalidInputError, require_not_negative, require_positive, require_share

Moments = tuple[float, float, float]
"""(P(piece), E[L; piece], E[L²; piece]): of the whole distribution, not conditional on the piece."""

SKETCH_BINS_PER_OCTAVE = 16
SKETCH_OCTAVES = 24
_SKETCH_BINS = SKETCH_BINS_PER_OCTAVE * SKETCH_OCTAVES + 1
_SKETCH_EDGES: tuple[float, ...] = tuple(
    2.0 ** (index / SKETCH_BINS_PER_OCTAVE) for index in range(-1, _SKETCH_BINS)
)
"""Bin k lies between edges k and k + 1."""
_EDGE_STEPS = 32
_NORMAL = NormalDist()


class Lengths(Protocol):
    """A distribution of lengths between two bounds."""

    @property
    def min_tokens(self) -> float:
        """No prompt is shorter."""
        ...

    @property
    def max_tokens(self) -> float:
        """No prompt is longer."""
        ...

    def moments(self, from_tokens: float, to_tokens: float) -> Moments:
        """Moments of the piece from_tokens < L <= to_tokens. Empty or outside: zeros."""
        ...

    def quantile(self, share: float) -> float:
        """The smallest length x in tokens with P(L <= x) >= share."""
        ...


@dataclass(frozen=True)
class TruncatedLogNormal:
    """ln L is normal with mean mu and standard deviation sigma, L confined to [min_tokens, max_tokens]."""

    mu: float
    sigma: float
    min_tokens: float
    max_tokens: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mu):
            raise InvalidInputError("mu", f"is {self.mu}", "give the mean of ln(tokens)")
        require_positive("sigma", self.sigma)
        require_positive("min_tokens", self.min_tokens)
        require_positive("max_tokens", self.max_tokens)
        if self.min_tokens >= self.max_tokens:
            raise InvalidInputError(
                "max_tokens", f"is {self.max_tokens:g}", f"give more than min_tokens, {self.min_tokens:g}"
            )
        if self._mass <= 0:
            raise InvalidInputError(
                "mu",
                f"{self.mu:g} leaves nothing between {self.min_tokens:g} and {self.max_tokens:g} tokens",
                "give the mean of ln(tokens), or wider bounds",
            )

    def moments(self, from_tokens: float, to_tokens: float) -> Moments:
        """See `Lengths.moments`; closed form."""
        low, high = max(from_tokens, self.min_tokens), min(to_tokens, self.max_tokens)
        if low >= high:
            return 0.0, 0.0, 0.0
        below, above = self._standard(low), self._standard(high)
        zeroth, first, second = (
            math.exp(k * self.mu + (k * self.sigma) ** 2 / 2)
            * (_phi(above - k * self.sigma) - _phi(below - k * self.sigma))
            / self._mass
            for k in range(3)
        )
        return zeroth, first, second

    def quantile(self, share: float) -> float:
        """See `Lengths.quantile`."""
        require_share("share", share)
        if share <= 0:
            return self.min_tokens
        if share >= 1:
            return self.max_tokens
        inside = _phi(self._standard(self.min_tokens)) + share * self._mass
        tokens = math.exp(self.mu + self.sigma * _NORMAL.inv_cdf(min(max(inside, 1e-300), 1 - 1e-16)))
        return min(max(tokens, self.min_tokens), self.max_tokens)

    def _standard(self, tokens: float) -> float:
        return (math.log(tokens) - self.mu) / self.sigma

    @cached_property
    def _mass(self) -> float:
        return _phi(self._standard(self.max_tokens)) - _phi(self._standard(self.min_tokens))


@dataclass(frozen=True)
class LengthSketch:
    """Counted lengths in bins of equal ratio: 385 counters for 1 to 16.7 million tokens.

    Within a bin lengths count as evenly spread, so a quantile is off by 4.4 % at most (2^(1/16)) and a mean
    by less. Sketches merge exactly, and a factor below one makes an old one count less.

    Attributes:
        counts: of bin k, which holds 2^((k-1)/16) < L <= 2^(k/16).
    """

    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != _SKETCH_BINS:
            raise InvalidInputError(
                "counts",
                f"has {len(self.counts)} bins",
                f"give {_SKETCH_BINS}; LengthSketch.of counts lengths",
            )
        for index, count in enumerate(self.counts):
            require_not_negative(f"counts[{index}]", count)
        if self.total <= 0:
            raise InvalidInputError("counts", "nothing was counted", "count at least one length")

    @classmethod
    def of(cls, lengths_tokens: Iterable[float]) -> LengthSketch:
        """Count lengths in tokens. InvalidInputError for none, or one below 1 or above 2^24."""
        return cls.weighted((tokens, 1.0) for tokens in lengths_tokens)

    @classmethod
    def weighted(cls, counted: Iterable[tuple[float, float]]) -> LengthSketch:
        """The same from (length in tokens, how many of it)."""
        counts = [0.0] * _SKETCH_BINS
        for index, (tokens, count) in enumerate(counted):
            if not 1 <= tokens <= 2**SKETCH_OCTAVES:
                raise InvalidInputError(
                    f"lengths[{index}]", f"is {tokens}", f"give lengths of 1 to {2**SKETCH_OCTAVES} tokens"
                )
            require_not_negative(f"lengths[{index}].count", count)
            counts[math.ceil(round(math.log2(tokens) * SKETCH_BINS_PER_OCTAVE, 9))] += count
        return cls(tuple(counts))

    @property
    def counted(self) -> tuple[tuple[float, float], ...]:
        """(length amid a bin, how many) of bins with any; `weighted` makes the same sketch of it."""
        return tuple(
            (max(1.0, float(f"{2.0 ** ((index - 0.5) / SKETCH_BINS_PER_OCTAVE):.6g}")), count)
            for index, count in enumerate(self.counts)
            if count > 0
        )

    def merged(self, other: LengthSketch, *, own_factor: float = 1.0) -> LengthSketch:
        """Both together; `own_factor` below one lets what was counted before fade."""
        require_share("own_factor", own_factor)
        return LengthSketch(
            tuple(own * own_factor + new for own, new in zip(self.counts, other.counts, strict=True))
        )

    @cached_property
    def total(self) -> float:
        """How many lengths were counted, faded ones in part."""
        return math.fsum(self.counts)

    @cached_property
    def min_tokens(self) -> float:
        """Lower edge of the first bin that is not empty."""
        return _SKETCH_EDGES[next(index for index, count in enumerate(self.counts) if count > 0)]

    @cached_property
    def max_tokens(self) -> float:
        """Upper edge of the last bin that is not empty."""
        return _SKETCH_EDGES[max(index for index, count in enumerate(self.counts) if count > 0) + 1]

    def moments(self, from_tokens: float, to_tokens: float) -> Moments:
        """See `Lengths.moments`."""
        if from_tokens >= to_tokens:
            return 0.0, 0.0, 0.0
        below, upto = self._moments_upto(from_tokens), self._moments_upto(to_tokens)
        return upto[0] - below[0], upto[1] - below[1], upto[2] - below[2]

    def _moments_upto(self, tokens: float) -> Moments:
        index = bisect_left(_SKETCH_EDGES, tokens) - 1
        if index < 0:
            return 0.0, 0.0, 0.0
        if index >= _SKETCH_BINS:
            return self._cumulated[-1]
        zeroth, first, second = self._cumulated[index]
        lower, upper = _SKETCH_EDGES[index], _SKETCH_EDGES[index + 1]
        part = self._bin_moments(index, lower, tokens, (tokens - lower) / (upper - lower))
        return zeroth + part[0], first + part[1], second + part[2]

    def _bin_moments(self, index: int, low: float, high: float, part: float) -> Moments:
        mass = self.counts[index] / self.total * part
        return mass, mass * (low + high) / 2, mass * (low * low + low * high + high * high) / 3

    @cached_property
    def _cumulated(self) -> tuple[Moments, ...]:
        """Moments below each edge; the last is the whole."""
        rows = [(0.0, 0.0, 0.0)]
        for index, (low, high) in enumerate(pairwise(_SKETCH_EDGES)):
            zeroth, first, second = self._bin_moments(index, low, high, 1.0)
            rows.append((rows[-1][0] + zeroth, rows[-1][1] + first, rows[-1][2] + second))
        return tuple(rows)

    def quantile(self, share: float) -> float:
        """See `Lengths.quantile`."""
        wanted = require_share("share", share) * self.total
        before = 0.0
        for index, count in enumerate(self.counts):
            if count > 0 and before + count >= wanted:
                lower, upper = _SKETCH_EDGES[index], _SKETCH_EDGES[index + 1]
                return lower + (upper - lower) * max(0.0, wanted - before) / count
            before += count
        return self.max_tokens


@dataclass(frozen=True, slots=True)
class Bucket:
    """The prompts of from_tokens < L <= to_tokens.

    Attributes:
        moments: unconditional, see `Moments`.
    """

    from_tokens: float
    to_tokens: float
    moments: Moments

    @property
    def share(self) -> float:
        """P(bucket)."""
        return self.moments[0]

    @property
    def mean_tokens(self) -> float:
        """E[L given bucket], in tokens."""
        return self.moments[1] / self.moments[0] if self.moments[0] > 0 else self.to_tokens


def share_above(lengths: Lengths, threshold_tokens: float) -> float:
    """p = P(L > t), the share that a threshold t sends away (paper, Table 4)."""
    return lengths.moments(threshold_tokens, lengths.max_tokens)[0]


def mean_length(lengths: Lengths, from_tokens: float, to_tokens: float) -> float:
    """l_long, l_short: E[L given from_tokens < L <= to_tokens]; to_tokens where no prompt is."""
    mass, first, _ = lengths.moments(from_tokens, to_tokens)
    return first / mass if mass > 0 else to_tokens


def mean_of(curve: Curve, lengths: Lengths, from_tokens: float, to_tokens: float) -> float:
    """E[curve(L) given from_tokens < L <= to_tokens], exact, in the curve's unit; 0 where no prompt is there.

    Raises:
        LengthBeyondProfileError: the piece reaches beyond a curve that does not extrapolate.
    """
    low, high = max(from_tokens, lengths.min_tokens), min(to_tokens, lengths.max_tokens)
    if low >= high:
        return 0.0
    mass = total = 0.0
    for piece in curve.pieces(low, high):
        zeroth, first, second = lengths.moments(piece.from_tokens, piece.to_tokens)
        mass += zeroth
        total += piece.constant * zeroth + piece.linear * first + piece.quadratic * second
    return total / mass if mass > 0 else 0.0


def square_mean_of(curve: Curve, lengths: Lengths, *, parts: int = 64) -> float:
    """E[curve(L)²], for the variability of service times; by means over `parts` buckets of equal work."""
    return math.fsum(
        bucket.share * mean_of(curve, lengths, bucket.from_tokens, bucket.to_tokens) ** 2
        for bucket in equal_work_buckets(lengths, parts)
    )


def equal_work_buckets(lengths: Lengths, count: int) -> tuple[Bucket, ...]:
    """Buckets that hold equally many tokens, shortest prompts first: the tail gets the most.

    Fewer than `count` come back where the distribution has too few different lengths.
    """
    if count < 1:
        raise InvalidInputError("buckets", f"is {count}", "give at least 1")
    bottom, top = lengths.min_tokens, lengths.max_tokens
    total = lengths.moments(bottom, top)[1]
    edges = [bottom]
    for index in range(1, count):
        low, high = edges[-1], top
        wanted = total * index / count
        for _ in range(_EDGE_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if lengths.moments(bottom, middle)[1] < wanted else (low, middle)
        edges.append(high)
    edges.append(top)
    return tuple(
        bucket
        for low, high in pairwise(edges)
        if low < high and (bucket := Bucket(low, high, lengths.moments(low, high))).share > 0
    )


def _phi(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2
