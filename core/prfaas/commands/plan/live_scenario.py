"""A cluster's live state as a scenario: what is known is taken, and what is assumed is said. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prfaas.api.v1alpha1 import ModelKVProfileSpec, PrefillRouteSpec, PrefillRouteStatus
from prfaas.capacity import InvalidInputError
from prfaas.commands.plan.live_demand import RouteObjects, Tallies, demand_of, lengths_of, objective_of
from prfaas.commands.plan.live_links import LinkNow, links_of, prefill_side
from prfaas.commands.plan.live_objects import Live
from prfaas.commands.plan.live_pools import PlacedPool, Places, is_decode, parsed, placed_pools
from prfaas.kube.resources import Object
from prfaas.model_profile import OUTPUT_TOKENS, profile_of

OWN = " prefilling for itself"
MOST_UTILISATION = 0.85


@dataclass(frozen=True, slots=True)
class RouteNow:
    """A route as it is now. None: not known."""

    name: str
    decode_pool: str
    mode: str
    threshold_tokens: int | None
    remote_percent: float | None


@dataclass(frozen=True, slots=True)
class LiveScenario:
    """A scenario with where it comes from.

    Attributes:
        document: as in a scenario file.
        assumed: what was assumed, and what was left out.
    """

    document: dict[str, Any]
    pools: tuple[PlacedPool, ...]
    routes: tuple[RouteNow, ...]
    links: tuple[LinkNow, ...]
    assumed: tuple[str, ...]


@dataclass(slots=True)
class _Building:
    live: Live
    places: Places
    pools: list[PlacedPool]
    notes: list[str]
    profiles: Mapping[tuple[str, str], ModelKVProfileSpec]
    tallies: Tallies
    times: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)


def scenario_of(live: Live, changes: Sequence[str] = (), tallies: Tallies | None = None) -> LiveScenario:
    """The scenario of what is there.

    Args:
        tallies: what gateways have counted, where the caller has asked them.
        changes: of --set; a link's rate is needed here where nothing else tells it. The others are not made.

    Raises:
        InvalidInputError: an object cannot be read, or there is nothing to plan.
    """
    notes = [f"{kind} objects cannot be read here: none is taken into account" for kind in live.unread]
    places = Places.of(live.regions, notes)
    pools = placed_pools((*live.prefill_pools, *live.decode_pools), places, notes)
    profiles = {
        (body["metadata"].get("namespace", ""), body["metadata"]["name"]): parsed(
            ModelKVProfileSpec, body, "spec"
        )
        for body in live.profiles
    }
    building = _Building(live, places, pools, notes, profiles, tallies or {})
    routes = [_route(body) for body in live.routes]
    prefill = _prefill_pools(building)
    decode, own, now = _decode_pools(building, routes, {each["name"] for each in prefill})
    if not decode:
        why = "; ".join(notes) or "this namespace has none"
        raise InvalidInputError(
            "cluster", f"there is no decode pool to plan for: {why}", "see docs/planner.md"
        )
    links, seen = links_of(live, pools, changes, notes)
    priced = all(
        not pool.is_free
        or (pool.spec.scaling.instance is not None and pool.spec.scaling.instance.price_per_hour is not None)
        for pool in pools
    )
    any_free = any(pool.is_free for pool in pools)
    goal = "LeastCost" if priced and any_free and all(known for *_, known in now) else "MostServed"
    if any_free and not priced:
        notes.append(
            "a Managed pool has no pricePerHour: planned for the most that can be served, not for cost"
        )
    document: dict[str, Any] = {
        "goal": goal,
        "prefillTimes": building.times,
        "models": building.models,
        "prefillPools": [*prefill, *own],
        "decodePools": decode,
        "links": links,
    }
    return LiveScenario(
        document, tuple(pools), tuple(each for each, _ in now), seen, tuple(dict.fromkeys(notes))
    )


def _route(body: Object) -> RouteObjects:
    about = body["metadata"]
    return RouteObjects(
        about.get("namespace", ""),
        about["name"],
        parsed(PrefillRouteSpec, body, "spec"),
        parsed(PrefillRouteStatus, body, "status"),
    )


def _profile(building: _Building, pool: PlacedPool) -> ModelKVProfileSpec | None:
    """The one that the pool names, else the only one of its model in its namespace."""
    reference = pool.spec.model.profile_ref
    if reference is not None:
        found = building.profiles.get((pool.namespace, reference.name))
        if found is None:
            building.notes.append(f"{pool.name}: there is no ModelKVProfile {reference.name}")
        return found
    same = {
        name: spec
        for (namespace, name), spec in building.profiles.items()
        if namespace == pool.namespace and spec.model.name == pool.spec.model.name
    }
    if len(same) != 1:
        return None
    name, spec = next(iter(same.items()))
    building.notes.append(f"{pool.name}: names no profile; {name}, of the same model, is used")
    return spec


def _prefill_time(building: _Building, pool: PlacedPool, spec: ModelKVProfileSpec | None) -> str | None:
    """Name of its curve among `prefillTimes`; None: not known."""
    if spec is None:
        return None
    cost = pool.spec.scaling.instance
    wanted = cost.hardware if cost is not None else None
    rows = spec.prefill or ()
    row = next((each for each in rows if each.hardware == wanted), None)
    if row is None and wanted is None and len(rows) == 1:
        row = rows[0]
    if row is None:
        if rows:
            building.notes.append(
                f"{pool.name}: its profile has prefill times of {', '.join(each.hardware for each in rows)}, "
                f"not of {wanted or 'scaling.instance.hardware, which is not set'}"
            )
        return None
    name = f"{spec.model.name} on {row.hardware}"
    building.times[name] = {
        "points": [[point.tokens, point.seconds] for point in row.points],
        "extrapolate": True,
    }
    return name


def _prefill_pools(building: _Building) -> list[dict[str, Any]]:
    found = []
    for pool in building.pools:
        if is_decode(pool):
            continue
        curve = _prefill_time(building, pool, _profile(building, pool))
        if curve is None:
            building.notes.append(f"{pool.name}: left out, no prefill times are known of it (prfaas profile)")
            continue
        found.append(
            {
                "name": pool.name,
                "cluster": prefill_side(pool.region),
                "model": pool.spec.model.name,
                "prefill": curve,
                "instances": pool.instances(price_needed=not pool.is_free),
                "utilisationMax": _utilisation(pool),
            }
        )
    return found


def _decode_pools(
    building: _Building,
    routes: Sequence[RouteObjects],
    prefill: set[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[RouteNow, bool]]]:
    """Decode pools, what they prefill themselves, and the routes now, each with whether demand is known."""
    decode: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    now: list[tuple[RouteNow, bool]] = []
    for pool in building.pools:
        if not is_decode(pool):
            continue
        spec = _profile(building, pool)
        route = next(
            (
                each
                for each in routes
                if each.namespace == pool.namespace and each.spec.decode_pool_ref.name == pool.object_name
            ),
            None,
        )
        curve = _prefill_time(building, pool, spec)
        allowed = _allowed(building, pool, route, prefill)
        if curve is not None:
            allowed.append(pool.name + OWN)
            own.append(
                {
                    "name": pool.name + OWN,
                    "cluster": pool.region,
                    "model": pool.spec.model.name,
                    "prefill": curve,
                    "instancesOf": pool.name,
                    "utilisationMax": _utilisation(pool),
                }
            )
        else:
            building.notes.append(
                f"{pool.name}: no prefill times are known of its own engines: "
                "everything is remote in the plan"
            )
        if not allowed:
            building.notes.append(f"{pool.name}: left out, nothing is known that could prefill for it")
            continue
        rate, known = demand_of(pool, route, building.live.at, building.tallies, building.notes)
        entry: dict[str, Any] = {
            "name": pool.name,
            "cluster": pool.region,
            "model": pool.spec.model.name,
            **_decoding(building, pool, spec),
            "lengths": lengths_of(pool, route, spec, building.tallies, building.notes),
            "arrivalsPerSecond": rate,
            "prefillPools": sorted(allowed),
            "instances": pool.instances(price_needed=not pool.is_free),
            "utilisationMax": _utilisation(pool),
        }
        seconds = objective_of(pool, route)
        if seconds is not None:
            entry["ttftSeconds"] = seconds
        decode.append(entry)
        _model(building, pool, spec)
        if route is not None:
            now.append((_route_now(pool, route), known))
    return decode, own, now


def _allowed(
    building: _Building, pool: PlacedPool, route: RouteObjects | None, prefill: set[str]
) -> list[str]:
    if route is None:
        building.notes.append(f"{pool.name}: has no PrefillRoute, so nothing is remote for it")
        return []
    named = {each.name for each in route.spec.prefill_pool_refs if each.weight != 0}
    return [
        each.name
        for each in building.pools
        if not is_decode(each)
        and each.namespace == pool.namespace
        and each.object_name in named
        and each.name in prefill
        and each.spec.model.name == pool.spec.model.name
    ]


def _decoding(building: _Building, pool: PlacedPool, spec: ModelKVProfileSpec | None) -> dict[str, float]:
    cost = pool.spec.scaling.instance
    rate = None
    if spec is not None:
        profile, trouble = profile_of(
            spec,
            hardware=cost.hardware if cost is not None else None,
            revision=pool.spec.model.revision,
            output_tokens=None,
        )
        if trouble:
            building.notes.append(f"{pool.name}: {trouble}")
        rate = profile.decode
    if rate is None:
        building.notes.append(f"{pool.name}: no speed of decoding is known: it counts as no limit")
        return {"stepSeconds": 1.0, "batchMax": 1e6, "outputTokens": 1.0}
    building.notes.append(
        f"{pool.name}: answers of {OUTPUT_TOKENS:g} tokens are assumed; --set output.{pool.name}=TOKENS"
    )
    return {
        "stepSeconds": round(rate.step_seconds, 9),
        "batchMax": rate.batch_max,
        "outputTokens": rate.output_tokens,
    }


def _model(building: _Building, pool: PlacedPool, spec: ModelKVProfileSpec | None) -> None:
    name = pool.spec.model.name
    points = [
        [point.tokens, point.size_bytes] for point in (spec.kv_bytes if spec is not None else None) or ()
    ]
    if len(points) == 1:
        tokens, size = points[0]
        if tokens > 1:
            points.insert(0, [1, max(1, size // tokens)])
    if points and "points" not in building.models.get(name, {}):
        building.models[name] = {"points": points}
    elif name not in building.models:
        building.notes.append(f"{name}: the size of its KV is not known: links count as no limit")
        building.models[name] = {"bytesPerToken": 1.0}


def _route_now(pool: PlacedPool, route: RouteObjects) -> RouteNow:
    status = route.status
    observed = status.observed
    return RouteNow(
        route.name,
        pool.name,
        str(status.effective_mode or route.spec.mode),
        status.effective_threshold_tokens,
        observed.remote_percent if observed is not None else None,
    )


def _utilisation(pool: PlacedPool) -> float:
    targets = pool.spec.scaling.targets
    return targets.utilisation_percent / 100 if targets is not None else MOST_UTILISATION
