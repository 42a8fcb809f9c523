"""The threshold of one route by the production planner, from what was measured. Needs the extra `planner`.

A decode region decides its own t: given the lengths that come, the engines that run and the links there are,
t is where local and remote prefill run out together (Eq. 6 to 8), so that neither side holds the other up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import InvalidInputError, require_positive
from prfaas.capacity.lengths import LengthSketch
from prfaas.capacity.profiles import DecodeRate, KVSize

if TYPE_CHECKING:
    from prfaas.planner import Plan

_DECODE = "decode"
_LOCAL = "its own engines"
_HERE = "here"
_AMPLE_REQUESTS_PER_SECOND = 1e6
_NEVER_BINDS = 1e15
THRESHOLD_MOST_TOKENS = 100_000_000
LINK_SHARE = 0.8
"""Of a link that may be planned for, as in the regime's border."""


@dataclass(frozen=True, slots=True)
class RemotePrefill:
    """A prefill pool that may serve the route.

    Attributes:
        instances: that run now.
        bits_per_second: of the link from there; None where it never binds or nobody has measured it.
        hit_share: of each prompt that it finds in its own cache.
    """

    name: str
    prefill: Curve
    instances: int
    bits_per_second: float | None = None
    rtt_seconds: float = 0.0
    hit_share: float = 0.0


@dataclass(frozen=True, slots=True)
class RouteMeasurements:
    """What a threshold is planned from.

    Attributes:
        lengths: of the uncached part of the prompts that came.
        requests_per_second: how many.
        local_prefill: of the decode pool's own engines.
        local_instances: how many of them run.
        kv: None while nobody has measured it, and then links are not counted.
        decode: of one instance; None leaves decoding out.
    """

    lengths: LengthSketch
    requests_per_second: float
    local_prefill: Curve
    local_instances: int
    remote: tuple[RemotePrefill, ...]
    kv: KVSize | None = None
    decode: DecodeRate | None = None


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """A threshold with what stands behind it.

    Attributes:
        threshold_tokens: t; `THRESHOLD_MOST_TOKENS` when nothing is worth sending.
        remote_share: p, of the requests.
        highest_requests_per_second: that could be served at these sizes.
        sentence: what binds.
        gap: how far from the best it may be.
    """

    threshold_tokens: int
    remote_share: float
    highest_requests_per_second: float
    sentence: str
    gap: float


def plan_threshold(
    measured: RouteMeasurements, *, time_limit_seconds: float, elapsed_seconds: Callable[[], float]
) -> ThresholdPlan:
    """The threshold for what was measured, at the sizes that run.

    Raises:
        InvalidInputError: something measured makes no sense, or no engine runs; names it and the remedy.
        PlanTimeoutError: no plan in time; the previous one stays in force.
    """
    from prfaas.planner import Goal, Options, plan

    require_positive("requests_per_second", measured.requests_per_second)
    options = Options(goal=Goal.MOST_SERVED, time_limit_seconds=time_limit_seconds)
    found = plan(_problem(measured), options, elapsed_seconds=elapsed_seconds)
    pool = found.decode_pool(_DECODE)
    tokens = pool.threshold_tokens
    threshold = _first_remote(found) if tokens is None else tokens
    bounded = THRESHOLD_MOST_TOKENS if math.isinf(threshold) else round(threshold)
    sentence = found.summary
    if measured.kv is None and any(each.bits_per_second for each in measured.remote):
        sentence += "; links are not counted, because nobody has measured the size of the KV"
    return ThresholdPlan(
        min(bounded, THRESHOLD_MOST_TOKENS), pool.remote_share, found.served_per_second, sentence, found.gap
    )


def _problem(measured: RouteMeasurements):  # type: ignore[no-untyped-def]  # the planner is imported late
    from prfaas.planner import DecodePool, Instances, Link, PrefillPool, Problem, Route

    def fixed(count: int) -> Instances:
        return Instances(maximum=count, minimum=count, current=count)

    if measured.local_instances < 1:
        raise InvalidInputError("local_instances", "is 0", "start an engine of the decode pool")
    remote = [each for each in measured.remote if each.instances > 0]
    if not remote:
        raise InvalidInputError("remote", "no prefill engine runs", "start one, or take the route away")
    kv = measured.kv or KVSize.per_token(1.0, to_tokens=measured.lengths.max_tokens)
    ample = DecodeRate(1.0, _AMPLE_REQUESTS_PER_SECOND, 1.0)
    prefill = [
        PrefillPool(_LOCAL, _HERE, "m", _covering(measured.local_prefill), fixed(measured.local_instances))
    ]
    routes, links = [Route(_LOCAL, _DECODE)], []
    for each in remote:
        # The planner calls remote what another cluster prefills; a pool beside has a link that never binds.
        bits = each.bits_per_second if measured.kv is not None else None
        link = f"{each.name} to {_HERE}"
        prefill.append(PrefillPool(each.name, each.name, "m", _covering(each.prefill), fixed(each.instances)))
        links.append(Link(link, each.name, _HERE, bits or _NEVER_BINDS, LINK_SHARE, each.rtt_seconds))
        routes.append(Route(each.name, _DECODE, (link,), prefill_hit_share=min(each.hit_share, 0.99)))
    decode = DecodePool(
        _DECODE,
        _HERE,
        "m",
        kv,
        measured.decode or ample,
        measured.lengths,
        measured.requests_per_second,
        fixed(measured.local_instances),
    )
    return Problem(tuple(prefill), (decode,), tuple(routes), tuple(links))


def _covering(curve: Curve) -> Curve:
    """Traffic may be longer than what was measured; along the last slope is better than no plan."""
    return curve if curve.extrapolates else Curve(curve.segments, extrapolates=True)


def _first_remote(found: Plan) -> float:
    """Of a plan that is no single threshold: the shortest length that is mostly sent."""
    pool = found.decode_pool(_DECODE)
    edges = pool.bucket_edges_tokens
    for index, share in enumerate(pool.remote_by_bucket):
        if share > 0.5:
            return edges[index]
    return math.inf
