"""What gateways have counted, as a route's status: sums, error bars, and how seldom it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prfaas.capacity import Curve
from prfaas.route_plan import ThresholdPlan
from prfaas.scheduling import Outcome, Tally
from prfaas_operator.planning.measured import (
    FEWEST_REQUESTS,
    RouteCount,
    RouteMeasured,
    Standing,
    counts_of,
    measurements,
    observation_status,
    plan_status,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POINTS = [[1000, 0.5], [30_000, 4.0]]
REMOTE = {
    "name": "serving/long",
    "instances": 2,
    "points": [[1000, 0.2], [30_000, 1.5]],
    "bits_per_second": 1e10,
}


def tally(requests: int = 100, seconds: float = 3600) -> Tally:
    made = Tally(seconds=seconds)
    for number in range(requests):
        worth_it = number % 4 == 0
        made.count(
            Outcome(
                30_000 if worth_it else 900,
                worth_it=worth_it,
                remote=False,
                local_seconds=4.0 if worth_it else 0.5,
                remote_seconds=1.5 if worth_it else None,
                local_compute_seconds=4.0 if worth_it else 0.5,
                first_token_seconds=4.1 if worth_it else 0.5,
            )
        )
    return made


def document(made: Tally, **more: object) -> dict[str, object]:
    entry = {
        "tally": made.to_document(),
        "fallen_seconds": 0,
        "local": {"instances": 3, "points": POINTS},
        "remote": [REMOTE],
        **more,
    }
    return {"version": 1, "routes": {"serving/chat": entry}}


def counted(*documents: dict[str, object]) -> RouteCount:
    return counts_of(documents)["serving/chat"]


def test_two_gateways_are_added_up_in_the_same_time() -> None:
    both = counted(document(tally(100)), document(tally(60, 1800), fallen_seconds=30))
    assert both.tally.requests == 160
    assert both.tally.seconds == 3600
    assert both.fallen == 1
    assert both.local_instances == 3
    assert both.remote[0].name == "serving/long"


@pytest.mark.parametrize(
    "broken",
    [
        {"tally": {"requests": "x"}},
        {"tally": None},
        {"remote": [{"name": "a", "instances": 1, "points": [[5, 2], [4, 3]]}]},
        {"remote": [{"points": POINTS}]},
        {"local": {"points": "x"}},
    ],
)
def test_a_route_that_cannot_be_read_is_left_out_and_the_others_count(broken: dict[str, object]) -> None:
    assert counted(document(tally()), document(tally(), **broken)).tally.requests == 100
    assert counts_of([{"version": 1}, {"routes": 5}]) == {}


def test_a_threshold_is_planned_once_enough_is_known() -> None:
    known = measurements(counted(document(tally())), None)
    assert known is not None
    assert known.requests_per_second == pytest.approx(100 / 3600)
    assert known.local_instances == 3
    assert measurements(counted(document(tally(FEWEST_REQUESTS - 1))), None) is None
    assert measurements(counted(document(tally(), local={})), None) is None
    assert measurements(counted(document(tally(), remote=[])), None) is None


def test_the_status_has_numbers_with_errors() -> None:
    shown = observation_status(None, RouteMeasured(counted(document(tally()))), NOW)
    assert shown is not None
    assert (shown.requests, shown.remote_percent, shown.hours) == (100, 25.0, 1.0)
    assert shown.saving_per_day is not None
    assert float(shown.saving_per_day.split("±")[0]) == pytest.approx(25 * 4 * 24 / 3600, abs=0.06)
    assert shown.saving_per_day.endswith("h")
    assert shown.ttft_difference is not None
    assert shown.ttft_difference.startswith("-2.50±")
    assert shown.measured_ttft_difference is None


def test_it_is_written_at_most_once_a_minute_and_only_for_a_change_that_matters() -> None:
    first = observation_status(None, RouteMeasured(counted(document(tally()))), NOW)
    more = RouteMeasured(counted(document(tally(200))))
    little = RouteMeasured(counted(document(tally(104))))
    assert observation_status(first, more, NOW + timedelta(seconds=59)) is first
    assert observation_status(first, little, NOW + timedelta(hours=1)) is first
    assert observation_status(first, RouteMeasured(), NOW + timedelta(hours=1)) is first
    written = observation_status(first, more, NOW + timedelta(seconds=60))
    assert written is not None
    assert written.requests == 200
    fallen = RouteMeasured(counted(document(tally(), fallen_seconds=9)))
    told = observation_status(first, fallen, NOW + timedelta(seconds=1))
    assert told is not None
    assert told.fallen_back_gateways == 1


PLAN = ThresholdPlan(12_000, 0.3, 5.0, "egress long to here binds", 0.0)


def test_a_plan_is_shown_and_marked_stale_and_stays_in_force() -> None:
    fresh = plan_status(None, RouteMeasured(None, Standing(PLAN, NOW)), NOW)
    assert fresh is not None
    assert (fresh.threshold_tokens, fresh.binds, fresh.stale_because) == (12_000, PLAN.sentence, None)
    later = NOW + timedelta(minutes=1)
    assert plan_status(fresh, RouteMeasured(None, Standing(PLAN, later)), later) is fresh
    failed = RouteMeasured(None, Standing(PLAN, NOW, "no plan in time"))
    stale = plan_status(fresh, failed, later)
    assert stale is not None
    assert stale.stale_because == "no plan in time"
    assert failed.threshold_tokens == 12_000
    silent = plan_status(fresh, RouteMeasured(None, Standing(PLAN, NOW)), NOW + timedelta(hours=1))
    assert silent is not None
    assert silent.stale_because == "no new plan was made in time"
    assert plan_status(fresh, RouteMeasured(), later) is fresh


def test_curves_of_gateways_are_curves() -> None:
    assert counted(document(tally())).remote[0].prefill == Curve.from_points(
        [(1000, 0.2), (30_000, 1.5)], extrapolates=True
    )
