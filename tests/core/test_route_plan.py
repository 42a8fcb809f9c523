"""The threshold of a route by the production planner: the paper's operating point, and what binds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prfaas.capacity import Curve, InvalidInputError, KVSize, LengthSketch, TruncatedLogNormal
from prfaas.capacity.profiles import DecodeRate
from prfaas.route_plan import THRESHOLD_MOST_TOKENS, RemotePrefill, RouteMeasurements, plan_threshold

LENGTHS = TruncatedLogNormal(9.90, 1.00, 128, 131_072)
SKETCH = LengthSketch.of([LENGTHS.quantile((number + 0.5) / 4000) for number in range(4000)])
H200 = Curve.polynomial(0.389, 4.107e-5, 9.476e-11, to_tokens=131_072)
H20 = Curve.polynomial(0.469, 1.300e-4, 2.94e-10, to_tokens=131_072)
KV = KVSize.per_token(17_280, state_bytes=173.9 * 2**20, to_tokens=131_072)
PAPER = RouteMeasurements(
    SKETCH,
    2.0,
    H20,
    3,
    (RemotePrefill("far", H200, 4, 100e9 / 0.8),),
    KV,
    DecodeRate(0.025, 20 * 5 / 3, 1024),
)


def threshold(measured: RouteMeasurements) -> int:
    return plan_threshold(measured, time_limit_seconds=10, elapsed_seconds=lambda: 0.0).threshold_tokens


def test_the_papers_operating_point() -> None:
    found = plan_threshold(PAPER, time_limit_seconds=10, elapsed_seconds=lambda: 0.0)
    assert found.threshold_tokens == pytest.approx(19_400, rel=0.05)
    assert found.remote_share == pytest.approx(0.496, rel=0.05)
    assert found.highest_requests_per_second == pytest.approx(3.24, rel=0.05)
    assert found.sentence


def test_a_slow_link_raises_it_and_is_named() -> None:
    slow = replace(PAPER, remote=(replace(PAPER.remote[0], bits_per_second=5e9 / 0.8),))
    found = plan_threshold(slow, time_limit_seconds=10, elapsed_seconds=lambda: 0.0)
    assert found.threshold_tokens > 1.5 * threshold(PAPER)
    assert "far to here" in found.sentence


def test_more_engines_there_lower_it() -> None:
    more = replace(PAPER, remote=(replace(PAPER.remote[0], instances=8),))
    assert threshold(more) < threshold(PAPER)


def test_without_the_size_of_the_kv_links_are_not_counted_and_it_says_so() -> None:
    unknown = replace(PAPER, kv=None, remote=(replace(PAPER.remote[0], bits_per_second=1e9),))
    found = plan_threshold(unknown, time_limit_seconds=10, elapsed_seconds=lambda: 0.0)
    assert "size of the KV" in found.sentence
    assert found.threshold_tokens < THRESHOLD_MOST_TOKENS


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"local_instances": 0}, "local_instances"),
        ({"remote": ()}, "remote"),
        ({"remote": (RemotePrefill("far", H200, 0),)}, "remote"),
        ({"requests_per_second": 0.0}, "requests_per_second"),
    ],
)
def test_what_cannot_be_planned_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        threshold(replace(PAPER, **change))  # type: ignore[arg-type]
