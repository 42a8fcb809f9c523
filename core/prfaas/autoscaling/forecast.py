"""What load is to come. A forecast counts only while it has been better than none on the recent past.

Demand is kept as means over slots of equal length, one season and a little more. Seasonal-naive: what was at
the same time a season ago, scaled by how the last slots compare with theirs. "No forecast" is: it stays as
it is. Both are scored by what they would have said, `lead` slots before, of the last `scored_slots` slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

from prfaas.capacity.errors import require_positive


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """Attributes:
    slot_seconds: of one mean.
    season_seconds: after which load repeats; a day.
    scored_slots: on how many of the last slots a forecast is judged.
    better_by: share by which its error has to be smaller than that of no forecast.
    """

    slot_seconds: float = 300.0
    season_seconds: float = 86_400.0
    scored_slots: int = 24
    better_by: float = 0.1

    def __post_init__(self) -> None:
        require_positive("slot_seconds", self.slot_seconds)
        require_positive("season_seconds", self.season_seconds)
        require_positive("scored_slots", self.scored_slots)

    @property
    def season_slots(self) -> int:
        """Slots of one season."""
        return max(1, round(self.season_seconds / self.slot_seconds))


@dataclass(frozen=True, slots=True)
class Demand:
    """A row of means, and the slot that is being filled.

    Attributes:
        slot: number of the open slot since the epoch; -1: nothing yet.
        means: of the closed slots before it, the last one last. NaN: nothing was seen in it.
        total, count: of the open slot.
    """

    slot: int = -1
    means: tuple[float, ...] = ()
    total: float = 0.0
    count: int = 0

    def with_value(self, value: float, now: float, settings: ForecastSettings) -> Demand:
        """After one more observation."""
        slot = math.floor(now / settings.slot_seconds)
        if slot <= self.slot or self.slot < 0:
            return replace(self, slot=max(slot, self.slot), total=self.total + value, count=self.count + 1)
        keep = settings.season_slots + settings.scored_slots + 16
        closed = self.total / self.count if self.count else math.nan
        missed = min(slot - self.slot - 1, keep)
        means = (*self.means, closed, *(math.nan,) * missed)[-keep:]
        return Demand(slot, means, value, 1)


class Forecaster(Protocol):
    """Something that says what comes."""

    def predict(self, means: tuple[float, ...], lead: int, settings: ForecastSettings) -> float | None:
        """The mean of the slot `lead` slots after the last of `means`; None: it cannot say."""
        ...


class SeasonalNaive:
    """As a season ago, times the ratio of the last slots to theirs (between a half and two)."""

    recent_slots = 3

    def predict(self, means: tuple[float, ...], lead: int, settings: ForecastSettings) -> float | None:
        """See `Forecaster.predict`."""
        season = settings.season_slots
        index = len(means) - 1 + lead - season
        if lead > season or not 0 <= index < len(means) or math.isnan(means[index]):
            return None
        pairs = [
            (means[-back], means[-back - season])
            for back in range(1, self.recent_slots + 1)
            if back + season <= len(means)
            and not math.isnan(means[-back])
            and not math.isnan(means[-back - season])
        ]
        then = sum(old for _, old in pairs)
        ratio = sum(new for new, _ in pairs) / then if then > 0 else 1.0
        return means[index] * min(2.0, max(0.5, ratio))


SEASONAL_NAIVE = SeasonalNaive()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes, and why that is believed.

    Attributes:
        value: the forecast; None: there is none.
        used: it has beaten no forecast.
        error, error_without: mean absolute errors over the scored slots; NaN: could not be scored.
    """

    value: float | None
    used: bool
    error: float
    error_without: float
    lead_seconds: float


def forecast(
    demand: Demand, lead_seconds: float, settings: ForecastSettings, forecaster: Forecaster = SEASONAL_NAIVE
) -> Forecast:
    """What is to be expected `lead_seconds` from now (rounded up to slots)."""
    lead = max(1, math.ceil(lead_seconds / settings.slot_seconds))
    value = forecaster.predict(demand.means, lead, settings)
    errors, without = [], []
    for back in range(settings.scored_slots):
        end = len(demand.means) - back - lead
        if end < 1:
            break
        truth, last = demand.means[end + lead - 1], demand.means[end - 1]
        if math.isnan(truth) or math.isnan(last):
            continue
        said = forecaster.predict(demand.means[:end], lead, settings)
        if said is not None:
            errors.append(abs(said - truth))
            without.append(abs(last - truth))
    if len(errors) < settings.scored_slots // 2:
        return Forecast(value, False, math.nan, math.nan, lead * settings.slot_seconds)
    error, error_without = fmean(errors), fmean(without)
    used = value is not None and error < error_without * (1 - settings.better_by)
    return Forecast(value, used, error, error_without, lead * settings.slot_seconds)
