"""Small scenarios with known answers."""

from __future__ import annotations

import math
from typing import Any

from prfaas.capacity import Curve, DecodeRate, KVSize, Lengths, LengthSketch
from prfaas.planner import DecodePool, Instances, Link, Options, PrefillPool, Problem, direct_routes
from prfaas.simulator import Policy, RouterKind, Settings

OPTIONS = Options(buckets=4, gap=0.01, time_limit_seconds=5)
SELDOM: dict[str, Any] = {"replan_seconds": 1e6, "control_seconds": 100.0}
"""One plan at the start is enough where nothing changes."""
ALWAYS = Curve.from_points([(1, 0.001)], extrapolates=True)


def constant(seconds: float) -> Curve:
    """Every prompt takes as long."""
    return Curve.from_points([(1, seconds)], extrapolates=True)


def lengths(*tokens: float) -> Lengths:
    return LengthSketch.of(tokens or (1024.0,))


def one_site(
    *,
    arrivals_per_second: float,
    prefill: Curve = ALWAYS,
    prefill_instances: int = 1,
    decode: DecodeRate | None = None,
    decode_instances: int = 1,
    prompt_lengths: Lengths | None = None,
    ttft_seconds: float | None = None,
) -> Problem:
    """A prefill pool and a decode pool in one cluster."""
    pools = (PrefillPool("p", "c", "m", prefill, _fixed(prefill_instances)),)
    decoders = (
        DecodePool(
            "d",
            "c",
            "m",
            kv=KVSize.per_token(1000.0, to_tokens=1e6),
            decode=decode or DecodeRate(0.001, 100_000, 2),
            lengths=prompt_lengths or lengths(),
            arrivals_per_second=arrivals_per_second,
            instances=_fixed(decode_instances),
            ttft_seconds=ttft_seconds,
        ),
    )
    return Problem(pools, decoders, direct_routes(pools, decoders, []))


def two_sites(
    *,
    arrivals_per_second: float = 4.0,
    bits_per_second: float = 1e9,
    rtt_seconds: float = 0.05,
    remote: Curve | None = None,
    local: Curve | None = None,
    prompt_lengths: Lengths | None = None,
    kv: KVSize | None = None,
    ttft_seconds: float | None = 10.0,
    sizes: tuple[int | None, int | None, int | None] = (4, 4, 2),
) -> Problem:
    """A remote and a local prefill pool, a decode pool, a link; sizes in that order."""
    prefill = (
        PrefillPool("far", "north", "m", remote or constant(0.2), _fixed(sizes[0])),
        PrefillPool("near", "west", "m", local or constant(0.4), _fixed(sizes[1])),
    )
    decode = (
        DecodePool(
            "d",
            "west",
            "m",
            kv=kv or KVSize.per_token(1000.0, to_tokens=1e6),
            decode=DecodeRate(0.01, 50, 20),
            lengths=prompt_lengths or lengths(*(2.0**k for k in range(8, 16))),
            arrivals_per_second=arrivals_per_second,
            instances=_fixed(sizes[2]),
            ttft_seconds=ttft_seconds,
        ),
    )
    links = (Link("north-west", "north", "west", bits_per_second, 0.8, rtt_seconds, 0.01),)
    return Problem(prefill, decode, direct_routes(prefill, decode, links), links)


def settings(
    router: RouterKind = RouterKind.THRESHOLD, *, anytime: bool = False, **fields: object
) -> Settings:
    """Ten minutes; without anytime KV a transfer is waited for, however long it takes."""
    policy = fields.pop("policy", None)
    given = policy if isinstance(policy, Policy) else Policy(router=router, anytime=anytime, **SELDOM)
    return Settings.model_validate({"duration_seconds": 600.0, "policy": given, **fields})


def _fixed(instances: int | None) -> Instances:
    most = instances if instances is not None else 20
    return Instances(maximum=max(most, 20), current=instances, price_per_hour=10.0, start_seconds=60.0)


def close(found: float | None, expected: float, relative: float) -> bool:
    assert found is not None
    return math.isclose(found, expected, rel_tol=relative)
