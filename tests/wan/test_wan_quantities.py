from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_wan.quantities import (
    format_rate,
    format_size,
    format_time,
    parse_fraction,
    parse_queue,
    parse_rate,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "bits_per_second"),
    [
        ("1Gbit", 1e9),
        ("1 gbit/s", 1e9),
        ("1.5Gbps", 1.5e9),
        ("200Mbit", 2e8),
        (".5kbit", 500),
        ("8bit", 8),
        ("unlimited", None),
    ],
)
def test_rates(text: str, bits_per_second: float | None) -> None:
    assert parse_rate(text) == bits_per_second


@pytest.mark.parametrize("text", ["", "1", "0Gbit", "-1Mbit", "1MB", "1e9bit", "fast", "1Gbit 2", "nan"])
def test_what_is_not_a_rate(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("200us", 0.0002), ("0", 0)])
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "50", "50 m", "-1ms", "1h"])
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_time(text)


@pytest.mark.parametrize(("text", "fraction"), [("0.1%", 0.001), ("0.001", 0.001), ("100%", 1), ("0", 0)])
def test_fractions(text: str, fraction: float) -> None:
    assert parse_fraction(text) == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["", "101%", "1.1", "5ms", "-1%"])
def test_what_is_not_a_fraction(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_fraction(text)


@pytest.mark.parametrize(
    ("text", "queue"),
    [("50ms", (0.05, None)), ("256KiB", (None, 262144)), ("1MB", (None, 10**6)), ("100b", (None, 100))],
)
def test_queue_lengths(text: str, queue: tuple[float | None, int | None]) -> None:
    assert parse_queue(text) == queue


@pytest.mark.parametrize("text", ["", "5", "0ms", "0KiB", "10Gbit"])
def test_what_is_not_a_queue_length(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_queue(text)


@given(st.floats(min_value=1, max_value=1e12))
def test_a_formatted_rate_reads_back(bits_per_second: float) -> None:
    assert parse_rate(format_rate(bits_per_second)) == pytest.approx(bits_per_second, rel=1e-3)


@given(st.floats(min_value=1e-6, max_value=60))
def test_a_formatted_time_reads_back(seconds: float) -> None:
    assert parse_time(format_time(seconds)) == pytest.approx(seconds, rel=1e-3)


def test_sizes() -> None:
    assert [format_size(size) for size in (0, 999, 1500, 6.25e6, 3e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "6.25 MB",
        "3 GB",
    ]
