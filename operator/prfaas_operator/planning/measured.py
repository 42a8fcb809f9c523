"""What gateways have counted of a route, as its status and its threshold: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prfaas.api.v1alpha1 import RouteObservation, RoutePlanStatus
from prfaas.capacity import Curve, KVSize
from prfaas.capacity.errors import InvalidInputError
from prfaas.route_plan import RemotePrefill, RouteMeasurements, ThresholdPlan
from prfaas.scheduling import Estimate, Tally, WithError, estimate

WRITE_EVERY = timedelta(seconds=60)
PLAN_VALID = timedelta(minutes=15)
FEWEST_REQUESTS = 50
"""With fewer a threshold is not planned: lengths of some few prompts say little of the next ones."""
MEANINGFUL = 0.1
"""Share by which a number has to move to be written anew, and a threshold to be told to gateways."""
OBSERVATIONS_VERSION = 1
_HOUR = 3600.0
_TEXT = 1024


@dataclass(slots=True)
class RouteCount:
    """What all gateways together have counted of one route.

    Attributes:
        local_points, remote: what is known of paces, sizes and links, from the gateway that knows most.
        fallen: gateways that keep everything local now.
    """

    tally: Tally = field(default_factory=Tally)
    local_points: tuple[tuple[float, float], ...] = ()
    local_instances: int = 0
    remote: tuple[RemotePrefill, ...] = ()
    fallen: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """The plan in force. `stale_because` says why no newer one replaced it."""

    plan: ThresholdPlan
    made_at: datetime
    stale_because: str | None = None


@dataclass(frozen=True, slots=True)
class RouteMeasured:
    """What a pass over a route needs of all this."""

    count: RouteCount | None = None
    standing: Standing | None = None

    @property
    def threshold_tokens(self) -> int | None:
        """Of the plan in force: an old one holds until there is a new one."""
        return self.standing.plan.threshold_tokens if self.standing is not None else None


NOTHING_MEASURED = RouteMeasured()


def counts_of(documents: Iterable[Mapping[str, Any]]) -> dict[str, RouteCount]:
    """Answers of `/observations`, added up by `namespace/name`. Each gateway's time is the same time.

    A route in an answer that cannot be read is left out; the caller has checked the version.
    """
    counts: dict[str, RouteCount] = {}
    seconds: dict[str, float] = {}
    for document in documents:
        routes = document.get("routes")
        for name, entry in routes.items() if isinstance(routes, Mapping) else ():
            try:
                tally = Tally.from_document(entry["tally"])
                fallen = float(entry.get("fallen_seconds", 0)) > 0
                local, remote = _engines(entry)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            count = counts.setdefault(name, RouteCount())
            count.tally.take_in(tally)
            count.fallen += fallen
            seconds[name] = max(seconds.get(name, 0.0), tally.seconds)
            points, instances = local
            count.local_points = max(count.local_points, points, key=len)
            count.local_instances = max(count.local_instances, instances)
            count.remote = max(count.remote, remote, key=len)
    for name, count in counts.items():
        # Rates are those of all gateways together, in the time that the longest of them has counted.
        count.tally.seconds = seconds[name]
    return counts


def measurements(count: RouteCount, kv: KVSize | None) -> RouteMeasurements | None:
    """What a threshold can be planned from; None while too little is known."""
    lengths = count.tally.length_sketch()
    if lengths is None or count.tally.requests < FEWEST_REQUESTS or count.tally.seconds <= 0:
        return None
    if not count.local_points or not count.remote or count.local_instances < 1:
        return None
    try:
        local = Curve.from_points(count.local_points, extrapolates=True)
    except InvalidInputError:
        return None
    rate = count.tally.requests / count.tally.seconds
    return RouteMeasurements(lengths, rate, local, count.local_instances, count.remote, kv)


def plan_status(
    previous: RoutePlanStatus | None, measured: RouteMeasured, now: datetime
) -> RoutePlanStatus | None:
    """The plan as it is shown. Times move with it only when something else does."""
    standing = measured.standing
    if standing is None:
        return previous
    plan = standing.plan
    valid_until = standing.made_at + PLAN_VALID
    stale = standing.stale_because
    if stale is None and now > valid_until:
        stale = "no new plan was made in time"
    made = RoutePlanStatus(
        threshold_tokens=plan.threshold_tokens,
        remote_percent=round(100 * plan.remote_share, 1),
        binds=plan.sentence[:_TEXT],
        made_at=standing.made_at,
        valid_until=valid_until,
        stale_because=stale[:_TEXT] if stale is not None else None,
    )
    if previous is None or (previous.stale_because is None) != (stale is None):
        return made
    if (
        moved(previous.threshold_tokens, made.threshold_tokens)
        or now >= previous.valid_until - PLAN_VALID / 3
    ):
        return made
    return previous


def observation_status(
    previous: RouteObservation | None, measured: RouteMeasured, now: datetime
) -> RouteObservation | None:
    """What was counted as it is shown: at most once a minute, and only when a number has moved."""
    count = measured.count
    if count is None or not count.tally.requests:
        return previous
    found = _observation(count, estimate(count.tally), now)
    if previous is None:
        return found
    if found.fallen_back_gateways != previous.fallen_back_gateways:
        return found
    if now - previous.updated_at < WRITE_EVERY or not _differs(previous, found):
        return previous
    return found


def moved(before: float, after: float) -> bool:
    """Whether a number has moved enough to be worth a write."""
    return abs(after - before) > MEANINGFUL * max(abs(before), abs(after))


def _observation(count: RouteCount, found: Estimate, now: datetime) -> RouteObservation:
    tally = count.tally
    judged = tally.judged_remote
    return RouteObservation(
        updated_at=now,
        hours=round(tally.seconds / _HOUR, 1),
        requests=round(tally.requests),
        remote_percent=round(100 * found.remote_share, 1),
        saving_per_day=_hours(found.freed_seconds_per_day),
        spent_per_day=_hours(found.spent_seconds_per_day),
        ttft_difference=_difference(found.gain_seconds),
        measured_ttft_difference=_difference(found.measured_gain_seconds),
        measured_requests=found.measured_requests,
        late_percent=round(100 * tally.late_remote / judged, 1) if judged else None,
        fallen_back_gateways=count.fallen,
    )


def _differs(before: RouteObservation, after: RouteObservation) -> bool:
    pairs = (
        (before.requests, after.requests),
        (before.remote_percent, after.remote_percent),
        (before.late_percent or 0, after.late_percent or 0),
        *((_first(one), _first(other)) for one, other in zip(_texts(before), _texts(after), strict=True)),
    )
    return any(moved(one, other) for one, other in pairs)


def _texts(shown: RouteObservation) -> tuple[str | None, ...]:
    return (
        shown.saving_per_day,
        shown.spent_per_day,
        shown.ttft_difference,
        shown.measured_ttft_difference,
    )


def _first(text: str | None) -> float:
    """The number that a text of ours begins with; 0 for none."""
    return float(text.split("±")[0]) if text else 0.0


def _hours(seconds: WithError | None) -> str | None:
    if seconds is None:
        return None
    return f"{_digits(seconds.value / _HOUR)}±{_digits(seconds.error / _HOUR)}h"


def _difference(gain: WithError | None) -> str | None:
    """A gain as a change: sooner is less."""
    return None if gain is None else f"{-gain.value:+.2f}±{gain.error:.2f}s"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def _engines(
    entry: Mapping[str, Any],
) -> tuple[tuple[tuple[tuple[float, float], ...], int], tuple[RemotePrefill, ...]]:
    """Paces and sizes in one route's entry; those without a pace yet are left out."""
    local = entry.get("local") or {}
    remote = []
    for each in entry.get("remote") or ():
        points = _points(each.get("points"))
        if points:
            bits = each.get("bits_per_second")
            remote.append(
                RemotePrefill(
                    str(each["name"])[:253],
                    Curve.from_points(points, extrapolates=True),
                    int(each["instances"]),
                    float(bits) if bits else None,
                    float(each.get("rtt_seconds") or 0),
                )
            )
    return (_points(local.get("points")), int(local.get("instances") or 0)), tuple(remote)


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(tokens), float(seconds)) for tokens, seconds in value or ())
