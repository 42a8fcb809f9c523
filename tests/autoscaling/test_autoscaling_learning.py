"""Profiles that learn, drift that is told, forecasts that have to earn their use, and signals from files."""

from __future__ import annotations

import math
import random

import pytest

from prfaas.autoscaling import ForecastSettings, Profile, SeasonalNaive, parse_signals
from prfaas.autoscaling.forecast import Demand, forecast
from prfaas.autoscaling.learning import (
    MEMORY_SECONDS,
    SAMPLES_MAX,
    SAMPLES_MIN,
    Learned,
    Quantity,
    Sample,
    decode_rate_of,
    drifts,
    fitted_line,
    learned_profile,
)
from prfaas.capacity import InvalidInputError
from tests.autoscaling.autoscaling_world import DECODING, KV, SECONDS_OF_PREFILL

PROFILE = Profile(SECONDS_OF_PREFILL, KV, DECODING)


def samples(factor: float, *, count: int = 40, wild: int = 0, seed: int = 1) -> list[Sample]:
    chance = random.Random(seed)
    found = []
    for index in range(count):
        tokens = 2.0 ** chance.uniform(8, 16)
        value = SECONDS_OF_PREFILL.at(tokens) * factor * chance.uniform(0.95, 1.05)
        if index < wild:
            value *= 100
        found.append(Sample(Quantity.PREFILL_SECONDS, tokens, value, float(index)))
    return found


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("wild", [0, 15])
def test_a_profile_is_scaled_to_what_is_measured_though_a_third_is_wild(factor: float, wild: int) -> None:
    learned = Learned().with_samples(samples(factor, wild=wild), 100.0)
    found = learned_profile(PROFILE, learned)
    assert found.prefill is not None
    assert found.prefill.at(10_000) == pytest.approx(SECONDS_OF_PREFILL.at(10_000) * factor, rel=0.08)
    assert found.kv == KV
    told = drifts(PROFILE, learned)
    assert bool(told) == (factor != 1.0)
    if told:
        assert told[0].quantity is Quantity.PREFILL_SECONDS
        assert f"{told[0].ratio.value:.2f}" in told[0].sentence


def test_few_samples_change_nothing() -> None:
    learned = Learned().with_samples(samples(2.0, count=SAMPLES_MIN - 1), 100.0)
    assert learned_profile(PROFILE, learned) == PROFILE
    assert not drifts(PROFILE, learned)


def test_memory_is_bounded_in_count_and_time() -> None:
    learned = Learned().with_samples(samples(1.0, count=500), 500.0)
    assert len(learned.of(Quantity.PREFILL_SECONDS)) == SAMPLES_MAX
    assert not learned.with_samples((), 500.0 + MEMORY_SECONDS).of(Quantity.PREFILL_SECONDS)


def test_without_a_profile_a_line_is_laid_through_the_samples() -> None:
    chance = random.Random(3)
    points = [
        Sample(Quantity.PREFILL_SECONDS, tokens, (0.1 + 1e-4 * tokens) * (50 if index % 4 == 0 else 1), 0.0)
        for index in range(40)
        for tokens in (2.0 ** chance.uniform(8, 15),)
    ]
    line = fitted_line(points)
    assert line is not None
    assert line.at(20_000) == pytest.approx(2.1, rel=0.15)
    assert line.at(1_000_000) > line.at(20_000)
    assert fitted_line([Sample(Quantity.PREFILL_SECONDS, 100, 1.0, 0.0)] * 40) is None


def test_only_steps_of_full_batches_tell_of_the_decode_rate() -> None:
    steps = [Sample(Quantity.DECODE_STEP_SECONDS, 2, 0.001, 0.0)] * 40
    assert decode_rate_of(steps, batch_max=32, output_tokens=100) is None
    steps += [Sample(Quantity.DECODE_STEP_SECONDS, 30, 0.05, 0.0)] * 20
    rate = decode_rate_of(steps, batch_max=32, output_tokens=100)
    assert rate is not None
    assert rate.step_seconds == 0.05


DAY = ForecastSettings(slot_seconds=3600)


def fed(row: list[float]) -> Demand:
    demand = Demand()
    for index, value in enumerate(row):
        demand = demand.with_value(value, index * 3600.0, DAY)
    return demand.with_value(0.0, len(row) * 3600.0, DAY)


def test_a_daily_rhythm_is_forecast_and_used() -> None:
    chance = random.Random(5)
    row = [10 + 8 * math.sin(hour / 24 * 2 * math.pi) + chance.uniform(-0.3, 0.3) for hour in range(72)]
    found = forecast(fed(row), 600.0, DAY)
    assert found.used
    assert found.error < found.error_without
    assert found.value == pytest.approx(10 + 8 * math.sin(72 / 24 * 2 * math.pi), abs=1.5)


@pytest.mark.parametrize("kind", ["steady", "random walk", "too short"])
def test_a_forecast_that_is_no_better_than_none_is_not_used(kind: str) -> None:
    chance = random.Random(7)
    row = [10.0]
    for _ in range(30 if kind == "too short" else 80):
        row.append(row[-1] + (0 if kind == "steady" else chance.uniform(-2, 2)))
    assert not forecast(fed([max(0.0, each) for each in row]), 600.0, DAY).used


def test_gaps_and_zeros_in_the_past_do_no_harm() -> None:
    demand = Demand().with_value(1.0, 0.0, DAY).with_value(1.0, 3600.0 * 1000, DAY)
    assert not forecast(demand, 600.0, DAY).used
    assert SeasonalNaive().predict((0.0,) * 60, 1, DAY) == 0.0


def test_signals_are_read_and_the_most_special_entry_counts() -> None:
    signals = parse_signals(
        """{"version": 1, "asOf": "2026-03-01T12:00:00Z", "entries": [
          {"region": "eu", "pricePerHour": 2.0, "carbonKilogramsPerHour": 0.1},
          {"region": "eu", "hardware": "h100", "pricePerHour": 3.0},
          {"region": "eu", "pricePerHour": 1.0,
           "from": "2026-03-01T20:00:00Z", "until": "2026-03-02T06:00:00Z"}]}"""
    )
    noon, night = signals.as_of_seconds, signals.as_of_seconds + 10 * 3600
    assert signals.price_per_hour("eu", None, noon) == 2.0
    assert signals.price_per_hour("eu", "h100", noon) == 3.0
    assert signals.price_per_hour("eu", None, night) == 1.0
    assert signals.carbon_kilograms_per_hour("eu", "h100", night) == 0.1
    assert signals.price_per_hour("us", None, noon) is None


def document(entries: str = "[]") -> str:
    return f'{{"version": 1, "asOf": "2026-03-01T12:00:00Z", "entries": {entries}}}'


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "signals"),
        ("[]", "signals"),
        ('{"version": 2, "asOf": "2026-03-01T12:00:00Z", "entries": []}', "signals.version"),
        ('{"version": 1, "asOf": "2026-03-01T12:00:00", "entries": []}', "signals.asOf"),
        (document('[{"region": "eu", "pricePerHour": -1}]'), "signals.entries.0.pricePerHour"),
        (document('[{"region": "eu", "pricePerHour": NaN}]'), "signals.entries.0.pricePerHour"),
        (document('[{"region": "eu"}]'), "signals.entries.0"),
        (document('[{"region": "eu", "price": 1}]'), "signals.entries.0.price"),
    ],
)
def test_signals_that_are_wrong_are_refused_by_field(text: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_signals(text)
    assert caught.value.field == field
