"""What a simulation remembers: one row per request that counts, and samples over time."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from prfaas.simulator.request import Request

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class PoolSeries:
    """Samples of one pool; each value stands for the time since the sample before."""

    ready: list[int] = field(default_factory=list)
    starting: list[int] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Series:
    """Samples over time.

    Attributes:
        at_seconds: ends of the intervals.
        cost_per_hour: of all pools and links.
    """

    at_seconds: list[float] = field(default_factory=list)
    arrivals_per_second: list[float] = field(default_factory=list)
    cost_per_hour: list[float] = field(default_factory=list)
    ttft_seconds: list[float] = field(default_factory=list)
    pools: dict[str, PoolSeries] = field(default_factory=dict)
    link_bits_per_second: dict[str, list[float]] = field(default_factory=dict)
    threshold_tokens: dict[str, list[float]] = field(default_factory=dict)


class Recorder:
    """Rows of requests that arrived after the warm-up."""

    def __init__(self, decode_pools: int, warm_up_seconds: float) -> None:
        self.warm_up_seconds = warm_up_seconds
        self.arrived = [0] * decode_pools
        self.arrived_ever = 0
        self.begun = [0] * decode_pools
        self.finished = [0] * decode_pools
        self.finished_ever = 0
        self.failed_ever = 0
        self.failed: list[Counter[str]] = [Counter() for _ in range(decode_pools)]
        self.reasons: Counter[str] = Counter()
        self.failed_before_first = [0] * decode_pools
        self.routed_count = [0] * decode_pools
        self.remote = [0] * decode_pools
        self.fallbacks: Counter[str] = Counter()
        self.pool = array("h")
        self.at = array("d")
        self.ttft = array("d")
        self.total_pool = array("h")
        self.total = array("d")
        self.output_tokens = 0
        self.ttft_sum = 0.0
        self.ttft_count = 0
        self.cached_tokens = 0
        self.prompt_tokens = 0

    def came(self, request: Request) -> None:
        """A request has arrived."""
        self.arrived_ever += 1
        if request.arrived >= self.warm_up_seconds:
            self.arrived[request.decode] += 1

    def routed(self, request: Request, reason: str, *, remote: bool, cached_tokens: int) -> None:
        """A request was sent to a prefill pool for the first time."""
        if request.arrived >= self.warm_up_seconds:
            self.reasons[reason] += 1
            self.routed_count[request.decode] += 1
            self.remote[request.decode] += remote
            self.cached_tokens += cached_tokens
            self.prompt_tokens += request.tokens

    def first_token(self, request: Request, ttft_seconds: float) -> None:
        """A request has its first token."""
        self.ttft_sum += ttft_seconds
        self.ttft_count += 1
        if request.arrived >= self.warm_up_seconds:
            self.begun[request.decode] += 1
            self.pool.append(request.decode)
            self.at.append(request.arrived)
            self.ttft.append(ttft_seconds)

    def done(self, request: Request, total_seconds: float) -> None:
        """A request has all its tokens."""
        self.finished_ever += 1
        if request.arrived >= self.warm_up_seconds:
            self.finished[request.decode] += 1
            self.output_tokens += request.output_tokens
            self.total_pool.append(request.decode)
            self.total.append(total_seconds)

    def lost(self, request: Request, reason: str) -> None:
        """A request will never be answered."""
        self.failed_ever += 1
        if request.arrived >= self.warm_up_seconds:
            self.failed[request.decode][reason] += 1
            self.failed_before_first[request.decode] += request.first_token < 0

    def columns(self) -> tuple[npt.NDArray[np.int16], Floats, npt.NDArray[np.int16], Floats]:
        """Decode pool and time to first token of each first token; decode pool and total of each answer."""
        return (
            np.array(self.pool, dtype=np.int16),
            np.array(self.ttft, dtype=np.float64),
            np.array(self.total_pool, dtype=np.int16),
            np.array(self.total, dtype=np.float64),
        )
