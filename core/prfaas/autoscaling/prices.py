"""What an instance costs now: by signals while they are fresh, else by the settings, else all alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prfaas.autoscaling.observation import Observation, PoolObservation
from prfaas.autoscaling.settings import Settings


@dataclass(frozen=True, slots=True)
class Prices:
    """Attributes:
    by_pool: (price, kilograms of carbon) per instance and hour.
    note: what is wrong with the signals, or "".
    known: some price was given; without any an accelerator counts as 1.
    """

    by_pool: Mapping[str, tuple[float, float]]
    carbon_price_per_kilogram: float
    note: str
    known: bool

    def of(self, pool: PoolObservation) -> tuple[float, float]:
        """(price, kilograms of carbon) per instance and hour."""
        return self.by_pool[pool.name]

    def total(self, pool: str) -> float:
        """Price of one instance and hour, its carbon included."""
        price, carbon = self.by_pool[pool]
        return price + carbon * self.carbon_price_per_kilogram


def prices_of(observation: Observation, settings: Settings, now: float) -> Prices:
    """Of all pools. Signals that are too old are not used: what they were is no reason to move load."""
    signals, note = observation.signals, ""
    if signals is not None:
        age = now - signals.as_of_seconds
        if age > settings.signals_max_age_seconds:
            note = (
                f"price and carbon signals are {age:.0f} s old, more than"
                f" {settings.signals_max_age_seconds:.0f} s: the prices of the settings count"
            )
            signals = None
    found: dict[str, tuple[float | None, float, int]] = {}
    for pool in observation.pools:
        own = settings.pools.get(pool.name)
        each = own.accelerators_each if own is not None else 1
        hardware = own.hardware if own is not None else None
        price = own.price_per_hour if own is not None else None
        carbon = own.carbon_kilograms_per_hour if own is not None else 0.0
        if signals is not None:
            told = signals.price_per_hour(pool.region, hardware, now)
            price = price if told is None else told * each
            said = signals.carbon_kilograms_per_hour(pool.region, hardware, now)
            carbon = carbon if said is None else said * each
        found[pool.name] = (price, carbon, each)
    known = any(price is not None for price, _, _ in found.values())
    # A pool without a price beside priced ones counts as the dearest: nothing moves there for its price.
    dearest = max((price / each for price, _, each in found.values() if price is not None), default=1.0)
    return Prices(
        {
            name: (dearest * each if price is None else price, carbon)
            for name, (price, carbon, each) in found.items()
        },
        settings.carbon_price_per_kilogram,
        note,
        known,
    )
