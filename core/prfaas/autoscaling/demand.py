"""What load each pool has to be ready for: now, and when what is asked for now will have come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prfaas.autoscaling.forecast import Forecast, Forecaster, forecast
from prfaas.autoscaling.needs import has_load
from prfaas.autoscaling.observation import Observation, PoolObservation, Role
from prfaas.autoscaling.settings import Settings
from prfaas.autoscaling.state import STARTS_MAX, PoolState

RISE_MAX = 4.0


@dataclass(frozen=True, slots=True)
class Expected:
    """Attributes:
    now_per_second: measured arrivals; None: unknown.
    per_second: what is to be planned for: the measured, or the forecast while that is more and has proven
        itself.
    """

    now_per_second: float | None
    per_second: float
    forecast: Forecast | None = None

    @property
    def rise(self) -> float:
        """How many times the present load is to come; 1: no more."""
        if not self.now_per_second or self.per_second <= self.now_per_second:
            return 1.0
        return min(RISE_MAX, self.per_second / self.now_per_second)


def remembered(
    observation: Observation, before: Mapping[str, PoolState], settings: Settings, now: float
) -> dict[str, PoolState]:
    """What is known of each pool after this observation. Pools that are gone are forgotten."""
    after = {}
    for pool in observation.pools:
        memory = before.get(pool.name, PoolState(since=now))
        demand = memory.demand
        arrivals = pool.arrivals
        fresh = arrivals is not None and arrivals.age_seconds <= settings.load_max_age_seconds
        if settings.forecast is not None and arrivals is not None and fresh:
            demand = demand.with_value(arrivals.requests_per_second, now, settings.forecast)
        after[pool.name] = replace(
            memory,
            start_seconds=(*memory.start_seconds, *pool.start_seconds)[-STARTS_MAX:],
            busy_at=now if has_load(pool) else memory.busy_at,
            demand=demand,
        )
    return after


def start_seconds_of(memory: PoolState, settings: Settings) -> float:
    """How long an instance takes to come."""
    usual = memory.usual_start_seconds
    return settings.start_seconds if usual is None else usual


def expected(
    pools: Iterable[PoolObservation],
    memories: Mapping[str, PoolState],
    settings: Settings,
    forecaster: Forecaster,
) -> dict[str, Expected]:
    """By pool that has arrivals."""
    found = {}
    for pool in pools:
        arrivals = pool.arrivals
        if arrivals is None or arrivals.age_seconds > settings.load_max_age_seconds:
            continue
        rate = arrivals.requests_per_second
        to_come = None
        if settings.forecast is not None:
            memory = memories[pool.name]
            to_come = forecast(
                memory.demand, start_seconds_of(memory, settings), settings.forecast, forecaster
            )
        per_second = rate
        if to_come is not None and to_come.used and to_come.value is not None:
            per_second = max(rate, to_come.value)
        found[pool.name] = Expected(rate, per_second, to_come)
    return found


def rise_of(pool: PoolObservation, observation: Observation, expectations: Mapping[str, Expected]) -> float:
    """How many times its present load is to come; of a prefill pool, by those that it serves."""
    if pool.name in expectations or pool.role is Role.DECODE:
        own = expectations.get(pool.name)
        return own.rise if own is not None else 1.0
    return max(
        (
            expectations[route.decode_pool].rise
            for route in observation.routes
            if route.prefill_pool == pool.name and route.decode_pool in expectations
        ),
        default=1.0,
    )


def is_called(pool: PoolObservation, observation: Observation, expectations: Mapping[str, Expected]) -> bool:
    """Whether a pool without instances has something to do: requests, a queue, or a forecast of them; of a
    prefill pool that nothing is known of, at the decode pools that it serves.
    """
    own = expectations.get(pool.name)
    if has_load(pool) or (own is not None and own.per_second > 0):
        return True
    if own is not None or pool.role is Role.DECODE:
        return False
    return any(
        expectations[route.decode_pool].per_second > 0
        for route in observation.routes
        if route.prefill_pool == pool.name and route.decode_pool in expectations
    )
