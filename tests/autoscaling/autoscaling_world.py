"""Observations for tests, and a small closed loop: load per instance follows from the decided size."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from prfaas.autoscaling import (
    Arrivals,
    Decision,
    LinkObservation,
    LinkState,
    Load,
    Observation,
    PoolObservation,
    PoolSettings,
    Profile,
    Role,
    RouteObservation,
    Settings,
    State,
    decide,
)
from prfaas.capacity import Curve, DecodeRate, KVSize, TruncatedLogNormal

GBIT = 1e9
INTERVAL_SECONDS = 15.0
SECONDS_OF_PREFILL = Curve.polynomial(0.05, 2e-5, 2e-10, to_tokens=131_072)
LENGTHS = TruncatedLogNormal(9.5, 1.0, 128, 131_072)
KV = KVSize.per_token(20_000, to_tokens=131_072)
DECODING = DecodeRate(step_seconds=0.025, batch_max=32, output_tokens=500)


def a_pool(name: str, role: Role = Role.PREFILL, replicas: int = 2, **fields: Any) -> PoolObservation:
    given = {
        "cluster": "eu",
        "region": "eu",
        "model": "m",
        "ready": replicas,
        "load": Load(replicas, 0.5),
        **fields,
    }
    return PoolObservation(name, role, replicas=replicas, **given)


def a_link(source: str = "us", target: str = "eu", share: float = 0.3, **fields: Any) -> LinkObservation:
    given = {
        "state": LinkState.HEALTHY,
        "capacity_bits_per_second": 10 * GBIT,
        "goodput_bits_per_second": 10 * GBIT * share,
        **fields,
    }
    return LinkObservation(source, target, **given)


def settled(**pools: PoolSettings) -> Settings:
    """Settings under which growth is not delayed, for tables of single decisions."""
    return Settings(pools)


def quick(maximum: int = 10, **fields: Any) -> PoolSettings:
    given = {"grow_window_seconds": 0.0, "shrink_window_seconds": 0.0, "cool_down_seconds": 0.0, **fields}
    return PoolSettings(maximum, **given)


def profiled(role: Role) -> Profile:
    if role is Role.PREFILL:
        return Profile(prefill=SECONDS_OF_PREFILL)
    return Profile(prefill=SECONDS_OF_PREFILL, kv=KV, decode=DECODING)


def across_regions(share: float = 0.3, *, near: int = 2, far: int = 2, **link: Any) -> Observation:
    """`far` (us) and `near` (eu) prefill for `chat` (eu)."""
    return Observation(
        (
            a_pool("far", replicas=far, region="us", cluster="us"),
            a_pool("near", replicas=near),
            a_pool("chat", Role.DECODE),
        ),
        (RouteObservation("far", "chat"), RouteObservation("near", "chat")),
        (a_link(share=share, **link),),
    )


class Loop:
    """Decides again and again. Instances take `start_seconds` to become ready.

    Args:
        load: work in instances, by pool and time.
        make: an observation from the pools.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[str, float], float],
        make: Callable[[Mapping[str, tuple[int, int, float]], float], Observation],
        *,
        start_seconds: float = 60.0,
        noise: float = 0.0,
        seed: int = 0,
        replicas: int = 1,
    ) -> None:
        self.settings, self.load, self.make = settings, load, make
        self.start_seconds, self.noise = start_seconds, noise
        self.random = random.Random(seed)
        self.now = 0.0
        self.state = State()
        self.asked: dict[str, list[float]] = {name: [-1e9] * replicas for name in settings.pools}
        self.sizes: dict[str, list[int]] = {name: [] for name in settings.pools}
        self.decisions: list[Decision] = []

    def step(self) -> Decision:
        seen = {}
        for name, since in self.asked.items():
            ready = sum(self.now - each >= self.start_seconds for each in since)
            work = self.load(name, self.now) * (1 + self.random.uniform(-self.noise, self.noise))
            seen[name] = (len(since), ready, work)
        decision = decide(self.make(seen, self.now), self.settings, self.state, self.now)
        for each in decision.pools:
            since = self.asked[each.pool]
            del since[each.desired :]
            since.extend([self.now] * (each.desired - len(since)))
            self.sizes[each.pool].append(each.desired)
        self.state = decision.state
        self.decisions.append(decision)
        self.now += INTERVAL_SECONDS
        return decision

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / INTERVAL_SECONDS)):
            self.step()


def load_of(ready: int, work: float, **fields: Any) -> Load:
    """What engines tell when so much work is shared by so many of them."""
    if ready == 0:
        return Load(0, 0.0, queued=work, **fields)
    return Load(ready, min(1.0, work / ready), running=work, **fields)


def turns(sizes: list[int]) -> int:
    """How often a row of sizes changes its direction."""
    steps = [later - earlier for earlier, later in pairwise(sizes) if later != earlier]
    return sum((one > 0) != (other > 0) for one, other in pairwise(steps))


def arriving(per_second: float, **fields: Any) -> Arrivals:
    return Arrivals(per_second, LENGTHS, **fields)
