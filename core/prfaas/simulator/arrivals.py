"""When requests come and how long they are: drawn in chunks, from streams of their own.

Every decode pool has its own random streams, made from the seed and the pool's name, so that what comes is
the same whatever the policy does with it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from itertools import count

import numpy as np
import numpy.typing as npt

from prfaas.capacity import DecodeRate, Lengths
from prfaas.simulator.request import BLOCK_TOKENS, Request
from prfaas.simulator.settings import (
    HOURS_PER_DAY,
    Bursty,
    Demand,
    Diurnal,
    Outputs,
    Pattern,
)

Floats = npt.NDArray[np.float64]

CHUNK = 4_096
SECONDS_PER_HOUR = 3600.0
_QUANTILES = 2_049
_TAIL = 60


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random stream that belongs to these names alone."""
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(digest)]))


class LengthSampler:
    """Lengths in whole tokens by inversion of the quantile function, tabulated with a fine upper tail."""

    def __init__(self, lengths: Lengths, random: np.random.Generator) -> None:
        body = np.linspace(0.0, 1.0, _QUANTILES)[:-1]
        tail = 1 - np.geomspace(1 - body[-1], 1e-9, _TAIL)
        self._shares = np.unique(np.concatenate([body, tail, [1.0]]))
        self._tokens = np.array([lengths.quantile(float(share)) for share in self._shares])
        self._random = random

    def draw(self, size: int) -> list[int]:
        """That many lengths."""
        drawn = np.interp(self._random.random(size), self._shares, self._tokens)
        return [max(1, int(tokens)) for tokens in np.rint(drawn)]


class OutputSampler:
    """Numbers of output tokens."""

    def __init__(self, decode: DecodeRate, outputs: Outputs, random: np.random.Generator) -> None:
        self._mean = decode.output_tokens
        self._outputs = outputs
        self._random = random

    def draw(self, size: int) -> list[int]:
        """That many numbers, of the pool's mean."""
        if self._outputs is Outputs.CONSTANT or self._mean <= 1:
            return [max(1, round(self._mean))] * size
        return [int(each) for each in self._random.geometric(1 / self._mean, size)]


def times(
    pattern: Pattern,
    per_second: float,
    duration_seconds: float,
    start_hour: float,
    random: np.random.Generator,
) -> Iterator[float]:
    """Arrival times in seconds, ascending, up to the duration; `per_second` is the mean rate."""
    if isinstance(pattern, Bursty):
        yield from _bursty(pattern, per_second, duration_seconds, random)
        return
    highest = per_second
    if isinstance(pattern, Diurnal):
        highest = per_second * 2 / (1 + pattern.trough_share)
    begun = 0.0
    while begun < duration_seconds:
        chunk = begun + np.cumsum(random.exponential(1 / highest, CHUNK))
        begun = float(chunk[-1])
        if isinstance(pattern, Diurnal):
            chunk = chunk[random.random(CHUNK) < diurnal_share(pattern, chunk, start_hour)]
        for at in chunk.tolist():
            if at >= duration_seconds:
                return
            yield at


def diurnal_share(pattern: Diurnal, seconds: Floats, start_hour: float) -> Floats:
    """The rate at these times as a share of the highest."""
    hours = start_hour + seconds / SECONDS_PER_HOUR - pattern.peak_hour
    wave = (1 + np.cos(2 * math.pi * hours / HOURS_PER_DAY)) / 2
    share: Floats = pattern.trough_share + (1 - pattern.trough_share) * wave
    return share


def _bursty(
    pattern: Bursty, per_second: float, duration_seconds: float, random: np.random.Generator
) -> Iterator[float]:
    span = pattern.burst_seconds + pattern.quiet_seconds
    quiet = per_second * span / (pattern.quiet_seconds + pattern.factor * pattern.burst_seconds)
    now, bursting = 0.0, bool(random.random() < pattern.burst_seconds / span)
    while now < duration_seconds:
        mean = pattern.burst_seconds if bursting else pattern.quiet_seconds
        until = min(duration_seconds, now + float(random.exponential(mean)))
        rate = quiet * (pattern.factor if bursting else 1.0)
        number = int(random.poisson(rate * (until - now)))
        yield from np.sort(random.uniform(now, until, number)).tolist()
        now, bursting = until, not bursting


class Drawn:
    """The requests of one decode pool that are drawn by chance, first turns of sessions included."""

    def __init__(
        self,
        index: int,
        name: str,
        lengths: Lengths,
        decode: DecodeRate,
        demand: Demand,
        per_second: float,
        *,
        duration_seconds: float,
        start_hour: float,
        seed: int,
        blocks: Iterator[int],
    ) -> None:
        self._index = index
        self._lengths = LengthSampler(lengths, stream(seed, name, "lengths"))
        self._outputs = OutputSampler(decode, demand.outputs, stream(seed, name, "outputs"))
        self._sessions = demand.sessions
        self._random = stream(seed, name, "sessions")
        self._blocks = blocks
        self._longest_tokens = int(lengths.max_tokens)
        self._numbers = count()
        self._left: dict[int, int] = {}
        first_per_second = per_second / (demand.sessions.turns_mean if demand.sessions else 1.0)
        self._times = times(
            demand.pattern, first_per_second, duration_seconds, start_hour, stream(seed, name, "arrivals")
        )
        self._tokens: list[int] = []
        self._output_tokens: list[int] = []
        self._prefixes = (
            [
                self._new_blocks(demand.sessions.shared_prefix_tokens)
                for _ in range(demand.sessions.shared_prefixes)
            ]
            if demand.sessions
            else []
        )

    def __iter__(self) -> Iterator[Request]:
        """The requests that do not follow from an earlier one."""
        for at in self._times:
            yield self._first(at)

    def next_turn(self, request: Request, now: float) -> Request | None:
        """The turn that follows on an answer, with the time at which it comes; None when it was the last."""
        sessions = self._sessions
        if sessions is None or request.session < 0:
            return None
        turns = self._left.pop(request.session, 0)
        added, output_tokens = self._draw()
        known = request.tokens + request.output_tokens
        if turns < 1 or known + added > self._longest_tokens:
            return None
        self._left[request.session] = turns - 1
        at = now + (
            float(self._random.exponential(sessions.think_seconds)) if sessions.think_seconds else 0.0
        )
        tokens = known + added
        blocks = request.blocks + self._new_blocks(tokens - len(request.blocks) * BLOCK_TOKENS)
        return Request(self._index, at, tokens, output_tokens, blocks, request.session)

    def _first(self, at: float) -> Request:
        tokens, output_tokens = self._draw()
        sessions = self._sessions
        if sessions is None:
            return Request(self._index, at, tokens, output_tokens)
        blocks: tuple[int, ...] = ()
        if self._prefixes:
            blocks = self._prefixes[int(self._random.integers(len(self._prefixes)))]
            tokens = min(tokens + sessions.shared_prefix_tokens, self._longest_tokens)
        blocks = blocks + self._new_blocks(tokens - len(blocks) * BLOCK_TOKENS)
        session = -1
        turns = int(self._random.geometric(1 / sessions.turns_mean)) - 1
        if turns > 0:
            session = next(self._numbers)
            self._left[session] = turns
        return Request(self._index, at, tokens, output_tokens, blocks, session)

    def _new_blocks(self, tokens: int) -> tuple[int, ...]:
        return tuple(next(self._blocks) for _ in range(max(0, tokens) // BLOCK_TOKENS))

    def _draw(self) -> tuple[int, int]:
        if not self._tokens:
            self._tokens = self._lengths.draw(CHUNK)
            self._output_tokens = self._outputs.draw(CHUNK)
        return self._tokens.pop(), self._output_tokens.pop()
