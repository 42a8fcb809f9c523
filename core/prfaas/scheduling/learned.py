"""How long prefills take, learned from what is measured: T_prefill of engines that nobody has profiled.

Lengths are counted in half octaves. Of each the median is followed by small steps whose size is a share of
the value: one request that waited behind others, or an engine that stood still, moves it by one step and no
more. Its memory is about `1 / step` observations. The curve runs through the medians, made to rise (pool
adjacent violators), and goes on along its last slope beyond them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prfaas.capacity.curves import Curve
from prfaas.scheduling.views import CompiledCurve

STEP = 0.05
FEWEST = 5
"""Observations of a half octave before it counts."""


@dataclass(slots=True)
class _Bin:
    tokens: float
    seconds: float
    count: int = 1


class LearnedPrefill:
    """Follows T_prefill of one kind of engine."""

    def __init__(self) -> None:
        self._bins: dict[int, _Bin] = {}
        self._curve: CompiledCurve | None = None
        self._stale = False

    def observe(self, uncached_tokens: int, seconds: float) -> None:
        """A prefill that had the engine to itself took so long."""
        if uncached_tokens < 1 or not 0 < seconds < math.inf:
            return
        index = round(2 * math.log2(uncached_tokens))
        known = self._bins.get(index)
        if known is None:
            self._bins[index] = _Bin(float(uncached_tokens), seconds)
        else:
            known.count += 1
            # The first few by their mean, so that a strange first one is left quickly.
            step = max(STEP, 1 / known.count)
            if known.count <= FEWEST:
                known.seconds += (seconds - known.seconds) * step
            else:
                known.seconds *= 1 + step if seconds > known.seconds else 1 - step
            known.tokens += (uncached_tokens - known.tokens) * step
        self._stale = True

    def points(self) -> list[tuple[float, float]]:
        """(tokens, seconds), rising; none while too little was seen."""
        pools: list[list[float]] = []
        for index in sorted(self._bins):
            known = self._bins[index]
            if known.count < FEWEST:
                continue
            pools.append([known.tokens, known.seconds, min(known.count, 1 / STEP)])
            while len(pools) > 1 and pools[-2][1] >= pools[-1][1]:
                tokens, seconds, weight = pools.pop()
                before = pools[-1]
                both = before[2] + weight
                before[0] = (before[0] * before[2] + tokens * weight) / both
                before[1] = (before[1] * before[2] + seconds * weight) / both
                before[2] = both
        return [(tokens, seconds) for tokens, seconds, _ in pools]

    def curve(self) -> CompiledCurve | None:
        """The curve; None while too little was seen."""
        if self._stale:
            self._stale = False
            points = self.points()
            if len(points) == 1:
                # One length says nothing of others but that a longer prompt takes longer.
                tokens, seconds = points[0]
                points = [(tokens / 2, seconds / 2), (tokens, seconds)]
            self._curve = CompiledCurve(Curve.from_points(points, extrapolates=True)) if points else None
        return self._curve
