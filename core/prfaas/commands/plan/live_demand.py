"""How many prompts come to a decode pool and how long they are, as far as its objects tell. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prfaas.api.v1alpha1 import ModelKVProfileSpec, PrefillRouteSpec, PrefillRouteStatus
from prfaas.capacity import InvalidInputError, TruncatedLogNormal, share_above
from prfaas.commands.plan.live_pools import PlacedPool
from prfaas.scheduling import Tally

FRESH_SECONDS = 600.0
"""For so long what an explanation says of arrivals counts as now."""
OBSERVATIONS_VERSION = 1
ASSUMED_SIGMA = 1.0
ASSUMED_MEDIAN_TOKENS = 2048.0
FEWEST_TOKENS = 16.0
_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class RouteObjects:
    """A PrefillRoute that could be read."""

    namespace: str
    name: str
    spec: PrefillRouteSpec
    status: PrefillRouteStatus


Tallies = Mapping[str, Tally]
"""What gateways have counted, by `namespace/name` of the route."""


def tallies_of(text: str, source: str) -> dict[str, Tally]:
    """A gateway's answer to `/observations`.

    Raises:
        InvalidInputError: it is none, or of another version.
    """
    try:
        document = json.loads(text)
        if document["version"] != OBSERVATIONS_VERSION:
            raise InvalidInputError(
                source, f"is of version {document['version']}", "upgrade this prfaas or the gateways"
            )
        return {name: Tally.from_document(entry["tally"]) for name, entry in document["routes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            source, "is not what a gateway answers to /observations", "fetch it anew; see docs/planner.md"
        ) from error


def added(answers: Iterable[Tallies]) -> dict[str, Tally]:
    """Those of several gateways that counted at the same time."""
    found: dict[str, Tally] = {}
    for answer in answers:
        for name, tally in answer.items():
            mine = found.setdefault(name, Tally())
            longest = max(mine.seconds, tally.seconds)
            mine.take_in(tally)
            mine.seconds = longest
    return found


def demand_of(
    pool: PlacedPool, route: RouteObjects | None, at: datetime, tallies: Tallies, notes: list[str]
) -> tuple[float, bool]:
    """Requests per second, and whether anybody has measured them."""
    tally = _tally(route, tallies)
    if tally is not None and tally.seconds > 0:
        return tally.requests / tally.seconds, True
    scaling = pool.status.scaling
    told = scaling.explanation if scaling is not None else None
    if told is not None and (at - told.time).total_seconds() <= FRESH_SECONDS:
        arrivals = next((each.value for each in told.inputs or () if each.name == "arrivals"), 0.0)
        if arrivals > 0:
            return arrivals, True
    observed = route.status.observed if route is not None else None
    if observed is not None and observed.hours > 0 and observed.requests:
        rate = observed.requests / (observed.hours * 3600)
        notes.append(
            f"{pool.name}: {rate:.3g} requests/s, the mean of the last {observed.hours:g} h; peaks are "
            f"higher (--set demand.{pool.name}=N)"
        )
        return rate, True
    notes.append(
        f"{pool.name}: nobody has measured its demand: 1 request/s is assumed, so read what can be served "
        f"and not what is missing (--set demand.{pool.name}=N)"
    )
    return 1.0, False


def lengths_of(
    pool: PlacedPool,
    route: RouteObjects | None,
    spec: ModelKVProfileSpec | None,
    tallies: Tallies,
    notes: list[str],
) -> dict[str, Any]:
    """As gateways have counted them; else log-normal, through the one share that a route's status tells."""
    tally = _tally(route, tallies)
    sketch = tally.length_sketch() if tally is not None else None
    if sketch is not None:
        return {"counted": [list(each) for each in sketch.counted]}
    known = [
        point.tokens for times in (spec.prefill if spec is not None else None) or () for point in times.points
    ]
    longest = float(max(known, default=131_072))
    shown = _share_told(route.status) if route is not None else None
    if shown is not None and FEWEST_TOKENS < shown[0] < longest:
        tokens, share = shown
        mu = _mu_through(tokens, share, longest)
        notes.append(
            f"{pool.name}: lengths are log-normal with sigma {ASSUMED_SIGMA:g} such that {100 * share:.3g} % "
            f"are longer than {tokens:,} tokens, as its route tells"
        )
    else:
        median = min(ASSUMED_MEDIAN_TOKENS, longest / 8)
        mu = math.log(median)
        notes.append(
            f"{pool.name}: nobody has measured lengths of prompts: log-normal around {median:,.0f} tokens "
            f"with sigma {ASSUMED_SIGMA:g} is assumed; put yours into the scenario (-o yaml)"
        )
    form = {"mu": round(mu, 6), "sigma": ASSUMED_SIGMA, "minTokens": FEWEST_TOKENS, "maxTokens": longest}
    return {"logNormal": form}


def _tally(route: RouteObjects | None, tallies: Tallies) -> Tally | None:
    found = tallies.get(f"{route.namespace}/{route.name}") if route is not None else None
    return found if found is not None and found.requests > 0 else None


def _share_told(status: PrefillRouteStatus) -> tuple[int, float] | None:
    """A threshold and the share of prompts above it, where that says anything."""
    candidates = (
        [(status.plan.threshold_tokens, status.plan.remote_percent)] if status.plan is not None else []
    )
    if status.observed is not None and status.effective_threshold_tokens is not None:
        candidates.append((status.effective_threshold_tokens, status.observed.remote_percent))
    return next(((tokens, percent / 100) for tokens, percent in candidates if 0 < percent < 100), None)


def _mu_through(tokens: float, share: float, longest: float) -> float:
    low, high = 0.0, 20.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        try:
            above = share_above(TruncatedLogNormal(middle, ASSUMED_SIGMA, FEWEST_TOKENS, longest), tokens)
        except InvalidInputError:  # Nothing is left within the bounds: too far to one side.
            above = 0.0 if middle < 10 else 1.0
        low, high = (middle, high) if above < share else (low, middle)
    return high


def objective_of(pool: PlacedPool, route: RouteObjects | None) -> float | None:
    if route is not None and route.spec.slo is not None:
        return float(route.spec.slo.ttft_seconds)
    targets = pool.spec.scaling.targets
    milliseconds = targets.time_to_first_token_milliseconds if targets is not None else None
    return None if milliseconds is None else milliseconds / 1000
