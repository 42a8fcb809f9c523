"""The estimate of this engine's own prefill rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.rate import MAX_STEP_SECONDS, MIN_STEP_TOKENS, SMOOTHING, PrefillRate


def rate_after(*steps: tuple[float, int], configured: float | None = None) -> float | None:
    rate = PrefillRate(configured)
    for now, tokens in steps:
        rate.step(now, tokens)
    return rate.tokens_per_second


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([], None, id="nothing seen"),
        pytest.param([(10.0, 1000)], None, id="the first step has not ended"),
        pytest.param([(10.0, 1000), (12.0, 0)], 500.0, id="one step"),
        pytest.param([(10.0, MIN_STEP_TOKENS - 1), (12.0, 0)], None, id="too small to measure"),
        pytest.param([(10.0, MIN_STEP_TOKENS), (12.0, 0)], MIN_STEP_TOKENS / 2, id="just large enough"),
        pytest.param([(10.0, 0), (12.0, 0)], None, id="no prefill"),
        pytest.param([(10.0, 1000), (10.0, 0)], None, id="the clock stood still"),
        pytest.param([(10.0, 1000), (9.0, 0)], None, id="the clock went back"),
        pytest.param([(10.0, 1000), (10.0 + MAX_STEP_SECONDS, 0)], 1000 / MAX_STEP_SECONDS, id="a slow step"),
        pytest.param([(10.0, 1000), (10.1 + MAX_STEP_SECONDS, 0)], None, id="idle in between"),
        pytest.param(
            [(10.0, 1000), (12.0, 1000), (13.0, 0)], 500 + SMOOTHING * 500, id="a new sample has its weight"
        ),
        pytest.param([(10.0, 1000), (12.0, 0), (13.0, 0)], 500.0, id="other steps change nothing"),
    ],
)
def test_estimates(steps: list[tuple[float, int]], expected: float | None) -> None:
    assert rate_after(*steps) == (None if expected is None else pytest.approx(expected))


def test_a_configured_rate_stands() -> None:
    assert rate_after((10.0, 1000), (12.0, 0), configured=123.0) == 123.0
    assert rate_after(configured=123.0) == 123.0


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 10_000)), min_size=2, max_size=30))
def test_the_estimate_stays_between_the_samples(steps: list[tuple[float, int]]) -> None:
    rate, now, samples = PrefillRate(), 0.0, []
    before = None
    for gap, tokens in steps:
        if before is not None and before >= MIN_STEP_TOKENS:
            samples.append(before / gap)
        now += gap
        rate.step(now, tokens)
        before = tokens
    if not samples:
        assert rate.tokens_per_second is None
    else:
        assert rate.tokens_per_second is not None
        # The gaps were summed up and subtracted again, which costs digits.
        assert min(samples) * 0.999 <= rate.tokens_per_second <= max(samples) * 1.001
