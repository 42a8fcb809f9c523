"""Throughput over the threshold t at given sizes: the paper's Fig. 5 for any pools and links.

At t, prompts with more tokens are prefilled remotely and the others locally, without exception; each of the
stages then has a largest rate, and the least of them is what the decode pool can serve (Eq. 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from prfaas.capacity.errors import InvalidInputError
from prfaas.capacity.lengths import equal_work_buckets, mean_of, share_above
from prfaas.capacity.profiles import BITS_PER_BYTE
from prfaas.planner.problem import DecodePool, PrefillPool, Problem, Route
from prfaas.planner.routes import usable_routes


class Stage(StrEnum):
    """What limits the throughput."""

    REMOTE_PREFILL = "RemotePrefill"
    LINK = "Link"
    LOCAL_PREFILL = "LocalPrefill"
    DECODE = "Decode"


@dataclass(frozen=True, slots=True)
class Point:
    """The decode pool at one threshold. Rates are requests per second of all lengths together, infinite where
    a stage has nothing to do.

    Attributes:
        threshold_tokens: t.
        remote_share: p.
        remote, local, decode: what each stage would allow.
        binding: the stage that makes `throughput` what it is.
    """

    threshold_tokens: float
    remote_share: float
    remote: float
    local: float
    decode: float
    throughput: float
    binding: Stage


@dataclass(frozen=True, slots=True)
class Shares:
    """What of pools and links other decode pools use, as a plan says: instances, and bits per second."""

    busy_instances: Mapping[str, float] = field(default_factory=dict)
    link_bits_per_second: Mapping[str, float] = field(default_factory=dict)


def throughput_over_threshold(
    problem: Problem,
    decode_pool: str,
    sizes: Mapping[str, int],
    *,
    others: Shares = Shares(),
    thresholds_tokens: Sequence[float] | None = None,
    points: int = 48,
) -> tuple[Point, ...]:
    """One decode pool over thresholds, which are quantiles of equal work by default.

    Where instances prefill beside decoding, both together bind as DECODE: the same instances do it.

    Args:
        sizes: instances by pool.

    Raises:
        InvalidInputError: there is no such pool, or a length lies beyond a profile.
    """
    pool = next((each for each in problem.decode_pools if each.name == decode_pool), None)
    if pool is None:
        names = ", ".join(each.name for each in problem.decode_pools)
        raise InvalidInputError("decode_pool", f"there is no {decode_pool}", f"name one of {names}")
    prefill = {each.name: each for each in problem.prefill_pools}
    routes = [route for route in usable_routes(problem)[0] if route.decode_pool == decode_pool]
    if thresholds_tokens is None:
        buckets = equal_work_buckets(pool.lengths, points)
        thresholds_tokens = (buckets[0].from_tokens, *(bucket.to_tokens for bucket in buckets))
    view = _View(problem, pool, prefill, routes, sizes, others)
    return tuple(view.at(threshold) for threshold in thresholds_tokens)


@dataclass(frozen=True, slots=True)
class _View:
    problem: Problem
    pool: DecodePool
    prefill: Mapping[str, PrefillPool]
    routes: Sequence[Route]
    sizes: Mapping[str, int]
    others: Shares

    def at(self, threshold_tokens: float) -> Point:
        low, high = self.pool.lengths.min_tokens, self.pool.lengths.max_tokens
        cut = min(max(threshold_tokens, low), high)
        share = share_above(self.pool.lengths, cut)
        compute, carried = self._remote(cut, high) if share > 0 else (0.0, math.inf)
        remote = min(compute, carried)
        remote_limit = remote / share if share > 0 else math.inf
        own = self._instances(self.pool.name) * self.pool.utilisation_max
        decode_seconds = 1 / self.pool.decode.requests_per_second
        local_rate, shared_seconds = self._local(low, cut) if share < 1 else (0.0, None)
        local_limit = local_rate / (1 - share) if share < 1 else math.inf
        decode_limit = own / decode_seconds
        if shared_seconds is not None:
            # Whatever other local pools leave to them, they prefill in the time that they do not decode.
            with_prefill = (own + local_rate * shared_seconds) / (
                decode_seconds + (1 - share) * shared_seconds
            )
            decode_limit = min(decode_limit, with_prefill)
            local_limit = math.inf
        throughput = min(remote_limit, local_limit, decode_limit)
        if decode_limit <= min(remote_limit, local_limit):
            binding = Stage.DECODE
        elif local_limit < remote_limit:
            binding = Stage.LOCAL_PREFILL
        else:
            binding = Stage.LINK if carried < compute else Stage.REMOTE_PREFILL
        return Point(threshold_tokens, share, remote_limit, local_limit, decode_limit, throughput, binding)

    def _remote(self, low: float, high: float) -> tuple[float, float]:
        """Long requests per second by prefill, and by links."""
        by_link: dict[tuple[str, ...], float] = {}
        computed: dict[str, float] = {}
        bits = 0.0
        for route in self.routes:
            if not route.links:
                continue
            wire, kv = route.wire, self.pool.kv
            tokens = mean_of(kv.token_bytes, self.pool.lengths, low, high)
            bits = BITS_PER_BYTE * wire.bytes_of(kv.state_bytes, tokens)
            by_link[route.links] = (
                min(self._free_bits(name) for name in route.links) / bits if bits else math.inf
            )
            computed[route.prefill_pool] = self._rate(route, low, high)
        # A pool behind a narrow link cannot give more than the link takes.
        behind: dict[tuple[str, ...], float] = {}
        for route in self.routes:
            if route.links:
                behind[route.links] = behind.get(route.links, 0.0) + computed[route.prefill_pool]
        total = sum(min(rate, by_link[links]) for links, rate in behind.items())
        compute = sum(computed.values())
        return compute, total if total < compute else math.inf

    def _local(self, low: float, high: float) -> tuple[float, float | None]:
        """Short requests per second of local pools with instances of their own; and seconds per request of
        the decode pool's instances, where they prefill too.
        """
        rate, shared = 0.0, None
        for route in self.routes:
            if route.links:
                continue
            pool = self.prefill[route.prefill_pool]
            if pool.instances_of == self.pool.name:
                shared = self._seconds(route, low, high)
            else:
                rate += self._rate(route, low, high)
        return rate, shared

    def _rate(self, route: Route, low: float, high: float) -> float:
        pool = self.prefill[route.prefill_pool]
        seconds = self._seconds(route, low, high)
        return self._instances(pool.name) * pool.utilisation_max / seconds if seconds > 0 else math.inf

    def _seconds(self, route: Route, low: float, high: float) -> float:
        curve = self.prefill[route.prefill_pool].prefill.of_share(1 - route.prefill_hit_share)
        return mean_of(curve, self.pool.lengths, low, high)

    def _instances(self, name: str) -> float:
        return max(0.0, self.sizes.get(name, 0) - self.others.busy_instances.get(name, 0.0))

    def _free_bits(self, name: str) -> float:
        link = next(each for each in self.problem.links if each.name == name)
        return max(0.0, link.usable_bits_per_second - self.others.link_bits_per_second.get(name, 0.0))
