"""The paper's system: one remote prefill cluster, one that prefills and decodes, one link between them.

The planner solves any number of each; this is what its results are held against, and what `prfaas plan
--paper` prints. Instances of the remote cluster, and the sum N_p + N_d, are given; t and N_p are looked for
(section 2.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from prfaas.capacity import equations
from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import InvalidInputError, require_not_negative
from prfaas.capacity.lengths import Lengths, mean_length, mean_of, share_above
from prfaas.capacity.profiles import BITS_PER_BYTE, DecodeRate, KVSize

_BISECTION_STEPS = 60


class Means(StrEnum):
    """What stands for the prefill time and KV size of a class of requests."""

    AT_MEAN_LENGTH = "AtMeanLength"
    """T(E[L given class]), as in the paper: too little where T is convex."""
    EXACT = "Exact"
    """E[T(L) given class]."""


class Stage(StrEnum):
    """A stage that can bind."""

    REMOTE_PREFILL = "RemotePrefill"
    EGRESS = "Egress"
    LOCAL_PREFILL = "LocalPrefill"
    DECODE = "Decode"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The system at one threshold and one division of the local cluster.

    Attributes:
        threshold_tokens: t; longer prompts go away. Infinite: none does.
        remote_share: p.
        long_tokens: l_long.
        short_tokens: l_short.
        remote_prefill: Θ_prfaas, local_prefill: Θ_pd-p, decode: Θ_pd-d, throughput: Λ_max, in requests/s.
        binding: the stage that makes throughput what it is.
        egress_bits_per_second: what the link carries at that throughput.
    """

    threshold_tokens: float
    remote_instances: int
    local_prefill_instances: int
    decode_instances: int
    remote_share: float
    long_tokens: float
    short_tokens: float
    remote_prefill: float
    local_prefill: float
    decode: float
    throughput: float
    binding: Stage
    egress_bits_per_second: float


@dataclass(frozen=True, slots=True)
class TwoSite:
    """The paper's system of section 2 with its symbols.

    Attributes:
        remote_instances: N_prfaas.
        local_instances: N_p + N_d.
        egress_bits_per_second: B_out.
        remote_prefill: T_prefill(l) of the remote hardware, in seconds.
        local_prefill: the same of the local hardware.
    """

    remote_instances: int
    local_instances: int
    egress_bits_per_second: float
    remote_prefill: Curve
    local_prefill: Curve
    kv: KVSize
    decode: DecodeRate
    lengths: Lengths
    means: Means = Means.AT_MEAN_LENGTH

    def __post_init__(self) -> None:
        require_not_negative("remote_instances", self.remote_instances)
        require_not_negative("egress_bits_per_second", self.egress_bits_per_second)
        if self.local_instances < 1:
            raise InvalidInputError("local_instances", f"is {self.local_instances}", "give at least 1")

    def at(self, threshold_tokens: float, local_prefill_instances: int) -> OperatingPoint:
        """Eq. 3 to 6 at threshold t with N_p local prefill instances; the others decode.

        Raises:
            InvalidInputError: N_p is not between 0 and N_p + N_d, or t is negative or NaN.
        """
        if not 0 <= local_prefill_instances <= self.local_instances:
            raise InvalidInputError(
                "local_prefill_instances",
                f"is {local_prefill_instances}",
                f"give 0 to {self.local_instances}",
            )
        if not threshold_tokens >= 0:
            raise InvalidInputError("threshold_tokens", f"is {threshold_tokens}", "give at least 0")
        bottom, top = self.lengths.min_tokens, self.lengths.max_tokens
        cut = min(max(threshold_tokens, bottom), top)
        share = share_above(self.lengths, cut)
        decoders = self.local_instances - local_prefill_instances
        remote = compute = local = 0.0
        if share > 0:
            seconds = self._seconds(self.remote_prefill, cut, top)
            size_bytes = self._size_bytes(cut, top)
            compute = equations.local_prefill_throughput(self.remote_instances, seconds)
            remote = equations.remote_prefill_throughput(
                self.remote_instances, seconds, size_bytes, self.egress_bits_per_second
            )
        if share < 1:
            local = equations.local_prefill_throughput(
                local_prefill_instances, self._seconds(self.local_prefill, bottom, cut)
            )
        decode = equations.decode_throughput(
            decoders, self.decode.batch_max, self.decode.step_seconds, self.decode.output_tokens
        )
        throughput = equations.system_throughput(remote, local, decode, share)
        remote_limit, local_limit = equations.prefill_limits(remote, local, share)
        if decode <= min(remote_limit, local_limit):
            binding = Stage.DECODE
        elif local_limit < remote_limit:
            binding = Stage.LOCAL_PREFILL
        else:
            binding = Stage.EGRESS if remote < compute else Stage.REMOTE_PREFILL
        sent_bytes = self.kv.mean(self.lengths, cut, top) if share > 0 else 0.0
        return OperatingPoint(
            threshold_tokens=threshold_tokens,
            remote_instances=self.remote_instances,
            local_prefill_instances=local_prefill_instances,
            decode_instances=decoders,
            remote_share=share,
            long_tokens=mean_length(self.lengths, cut, top),
            short_tokens=mean_length(self.lengths, bottom, cut),
            remote_prefill=remote,
            local_prefill=local,
            decode=decode,
            throughput=throughput,
            binding=binding,
            egress_bits_per_second=throughput * share * sent_bytes * BITS_PER_BYTE,
        )

    def best_threshold(self, local_prefill_instances: int) -> OperatingPoint:
        """Eq. 7 for a given N_p: the t at which both prefill producers saturate together, by bisection."""
        low, high = self.lengths.min_tokens, self.lengths.max_tokens
        for _ in range(_BISECTION_STEPS):
            middle = (low + high) / 2
            point = self.at(middle, local_prefill_instances)
            imbalance = equations.threshold_imbalance(
                point.remote_prefill, point.local_prefill, point.remote_share
            )
            low, high = (middle, high) if imbalance < 0 else (low, middle)
        return self.at(high, local_prefill_instances)

    def best(self) -> OperatingPoint:
        """Eq. 7 and 8: the best t and N_p. Of equals, the fewest local prefill instances."""
        points = [self.best_threshold(count) for count in range(self.local_instances + 1)]
        return max(points, key=lambda point: (point.throughput, -point.local_prefill_instances))

    def best_without_threshold(self, *, everything_remote: bool) -> OperatingPoint:
        """The paper's baselines: all prompts remote (naive) or none (homogeneous), best N_p."""
        threshold = 0.0 if everything_remote else math.inf
        points = [self.at(threshold, count) for count in range(self.local_instances + 1)]
        return max(points, key=lambda point: (point.throughput, -point.local_prefill_instances))

    def mean_service_seconds(self, threshold_tokens: float) -> float:
        """Mean prefill time over all requests, in seconds: the time to first token of an idle system."""
        bottom, top = self.lengths.min_tokens, self.lengths.max_tokens
        cut = min(max(threshold_tokens, bottom), top)
        share = share_above(self.lengths, cut)
        return share * mean_of(self.remote_prefill, self.lengths, cut, top) + (1 - share) * mean_of(
            self.local_prefill, self.lengths, bottom, cut
        )

    def service_seconds_quantile(self, threshold_tokens: float, share: float) -> float:
        """The prefill time, in seconds, that this share of all requests stays within (0.9: P90)."""
        bottom, top = self.lengths.min_tokens, self.lengths.max_tokens
        cut = min(max(threshold_tokens, bottom), top)
        low, high = 0.0, max(self.remote_prefill.at(top), self.local_prefill.at(top))
        for _ in range(_BISECTION_STEPS):
            middle = (low + high) / 2
            within = (
                self.lengths.moments(bottom, min(cut, self.local_prefill.longest_within(middle)))[0]
                + self.lengths.moments(cut, max(cut, self.remote_prefill.longest_within(middle)))[0]
            )
            low, high = (middle, high) if within < share else (low, middle)
        return high

    def _seconds(self, curve: Curve, low: float, high: float) -> float:
        if self.means is Means.EXACT:
            return mean_of(curve, self.lengths, low, high)
        return curve.at(mean_length(self.lengths, low, high))

    def _size_bytes(self, low: float, high: float) -> float:
        if self.means is Means.EXACT:
            return self.kv.mean(self.lengths, low, high)
        return self.kv.at(mean_length(self.lengths, low, high))
