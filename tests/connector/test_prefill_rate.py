"""The estimate of this engine's own prefill rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.rate import (
    MAX_STEP_SECONDS,
    MAX_STEPS_IN_FLIGHT,
    MIN_STEP_TOKENS,
    SMOOTHING,
    PrefillRate,
)

Event = tuple[float, int] | float
"""A step that was scheduled (when, prefill tokens), or the time at which the oldest one ended."""


def rate_after(*events: Event, configured: float | None = None) -> float | None:
    rate = PrefillRate(configured)
    for event in events:
        if isinstance(event, tuple):
            rate.step_scheduled(*event)
        else:
            rate.step_ended(event)
    return rate.tokens_per_second


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], None, id="nothing seen"),
        pytest.param([(10.0, 1000)], None, id="the first step has not ended"),
        pytest.param([(10.0, 1000), 12.0], 500.0, id="one step"),
        pytest.param([(10.0, MIN_STEP_TOKENS - 1), 12.0], None, id="too small to measure"),
        pytest.param([(10.0, MIN_STEP_TOKENS), 12.0], MIN_STEP_TOKENS / 2, id="just large enough"),
        pytest.param([(10.0, 0), 12.0], None, id="no prefill"),
        pytest.param([(10.0, 1000), 10.0], None, id="the clock stood still"),
        pytest.param([(10.0, 1000), 9.0], None, id="the clock went back"),
        pytest.param([12.0], None, id="an end without a beginning"),
        pytest.param([(10.0, 1000), 10.0 + MAX_STEP_SECONDS], 1000 / MAX_STEP_SECONDS, id="a slow step"),
        pytest.param([(10.0, 1000), 10.1 + MAX_STEP_SECONDS], None, id="stopped in between"),
        pytest.param([(10.0, 1000), 12.0, (72.0, 1000), 74.0], 500.0, id="idle between two steps"),
        pytest.param(
            [(10.0, 1000), 12.0, (12.0, 1000), 13.0], 500 + SMOOTHING * 500, id="a new sample has its weight"
        ),
        pytest.param([(10.0, 1000), 12.0, (12.0, 0), 13.0], 500.0, id="other steps change nothing"),
        # Scheduled ahead: each runs when the one before it has ended.
        pytest.param(
            [(10.0, 1000), (10.001, 1000), 12.0, (12.001, 1000), 14.0, 16.0], 500.0, id="two in flight"
        ),
        pytest.param([(10.0, 0), (10.001, 1000), 13.0, 15.0], 500.0, id="behind a decode step"),
        pytest.param([(10.0, 1000), (10.001, 1), 12.0, 12.01], 500.0, id="before a decode step"),
    ],
)
def test_estimates(events: list[Event], expected: float | None) -> None:
    assert rate_after(*events) == (None if expected is None else pytest.approx(expected))


def test_a_configured_rate_stands() -> None:
    assert rate_after((10.0, 1000), 12.0, configured=123.0) == 123.0
    assert rate_after(configured=123.0) == 123.0


@given(
    st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 10_000)), min_size=1, max_size=30),
    st.integers(1, MAX_STEPS_IN_FLIGHT),
)
def test_however_far_ahead_steps_are_scheduled_the_rate_is_that_of_running_them(
    steps: list[tuple[float, int]], ahead: int
) -> None:
    """Steps that run back to back, each scheduled when at most ``ahead`` are in flight."""
    rate, now, samples = PrefillRate(), 0.0, []
    waiting = list(steps)
    in_flight = []
    while waiting or in_flight:
        while waiting and len(in_flight) < ahead:
            in_flight.append(waiting.pop(0))
            rate.step_scheduled(now, in_flight[-1][1])
        seconds, tokens = in_flight.pop(0)
        now += seconds
        rate.step_ended(now)
        if tokens >= MIN_STEP_TOKENS:
            samples.append(tokens / seconds)
    if not samples:
        assert rate.tokens_per_second is None
    else:
        assert rate.tokens_per_second is not None
        # The times were summed up and subtracted again, which costs digits.
        assert min(samples) * 0.999 <= rate.tokens_per_second <= max(samples) * 1.001
