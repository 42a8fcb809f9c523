"""Pools and places of a cluster's objects, as a scenario has them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.keys import DECODE_POOL
from prfaas.api.v1alpha1 import ConditionStatus, PoolSpec, PoolStatus, RegionSpec, RegionStatus, ScalingMode
from prfaas.capacity import InvalidInputError
from prfaas.kube.resources import Object

T = TypeVar("T", bound=BaseModel)
HERE = "here"
_SHORT = {"PrefillPool": "ppool", "DecodePool": "dpool"}


@dataclass(frozen=True, slots=True)
class Places:
    """Regions as their objects say. `own`: the one that this cluster belongs to."""

    own: str
    region_of: dict[str, str]
    reports: dict[tuple[str, str, str, str], tuple[int, int]]

    @classmethod
    def of(cls, regions: Iterable[Object], notes: list[str]) -> Places:
        """From Region objects; notes say what had to be assumed."""
        own: list[str] = []
        region_of: dict[str, str] = {}
        reports: dict[tuple[str, str, str, str], tuple[int, int]] = {}
        names = []
        for body in regions:
            name = body["metadata"]["name"]
            names.append(name)
            spec = parsed(RegionSpec, body, "spec")
            status = parsed(RegionStatus, body, "status")
            region_of |= dict.fromkeys(spec.clusters or (name,), name)
            reachable = find(status.conditions, ConditionType.REACHABLE)
            if reachable is not None and reachable.reason == Reason.OWN_REGION:
                own.append(name)
            for report in status.clusters:
                for pool in report.pools:
                    reports[report.name, pool.kind, pool.namespace, pool.name] = (
                        pool.desired_replicas,
                        pool.ready_replicas,
                    )
        if own:
            return cls(own[0], region_of, reports)
        if len(names) == 1:
            return cls(names[0], region_of, reports)
        if names:
            notes.append(f"no Region says that it is this cluster's own: it is called {HERE!r}")
        return cls(HERE, region_of, reports)


@dataclass(frozen=True, slots=True)
class PlacedPool:
    """One pool in one cluster.

    Attributes:
        wanted, ready: instances now.
        minimum, maximum: between which the planner may choose; equal where others decide.
        start_seconds: from creation to ready, measured.
    """

    kind: str
    namespace: str
    object_name: str
    name: str
    region: str
    spec: PoolSpec
    status: PoolStatus
    wanted: int
    ready: int
    minimum: int
    maximum: int
    available: int | None
    start_seconds: float

    @property
    def is_free(self) -> bool:
        """Whether the planner may choose its size."""
        return self.spec.scaling.mode is ScalingMode.MANAGED and self.status.hold is None

    def instances(self, *, price_needed: bool) -> dict[str, Any]:
        """As a scenario has them."""
        cost = self.spec.scaling.instance
        found: dict[str, Any] = {"maximum": self.maximum, "minimum": self.minimum, "current": self.wanted}
        if self.available is not None:
            found["available"] = self.available
        if cost is not None:
            found |= {"acceleratorsEach": cost.accelerators or 1}
            if cost.carbon_kilograms_per_hour:
                found["carbonKilogramsPerHour"] = cost.carbon_kilograms_per_hour
        if cost is not None and cost.price_per_hour is not None:
            found["pricePerHour"] = cost.price_per_hour
        elif price_needed:
            found["pricePerHour"] = 0.0
        if self.start_seconds:
            found["startSeconds"] = self.start_seconds
        return found


def placed_pools(objects: Iterable[Object], places: Places, notes: list[str]) -> list[PlacedPool]:
    """Every pool in every cluster that runs it."""
    bodies = list(objects)
    several = len({body["metadata"].get("namespace") for body in bodies}) > 1
    kinds: dict[tuple[str, str], set[str]] = {}
    for body in bodies:
        about = body["metadata"]
        kinds.setdefault((about.get("namespace", ""), about["name"]), set()).add(body["kind"])
    found = []
    for body in bodies:
        about = body["metadata"]
        namespace, name = about.get("namespace", ""), about["name"]
        label = f"{namespace}/{name}" if several else name
        if len(kinds[namespace, name]) > 1:
            label = f"{_SHORT[body['kind']]}/{label}"
        found += _placed(body, label, places, notes)
    return found


def _placed(body: Object, label: str, places: Places, notes: list[str]) -> list[PlacedPool]:
    about, kind = body["metadata"], body["kind"]
    spec, status = parsed(PoolSpec, body, "spec"), parsed(PoolStatus, body, "status")
    wanted = status.desired_replicas if status.observed_generation is not None else spec.replicas
    ready = status.ready_replicas
    own_bounds = (spec.scaling.min_replicas, spec.scaling.max_replicas)
    spots = [(label, places.own, wanted, ready, own_bounds)]
    if spec.placement is not None:
        spots = []
        told = {each.name: each for each in status.clusters or ()}
        several = len(spec.placement.clusters) > 1
        for place in spec.placement.clusters:
            region = places.region_of.get(place.name)
            name = f"{label}@{place.name}" if several else label
            if region is None:
                notes.append(f"{name}: no Region has the cluster {place.name}; the pool is left out there")
                continue
            reported = places.reports.get((place.name, kind, about.get("namespace", ""), about["name"]))
            if place.name in told:
                now = (told[place.name].desired_replicas, told[place.name].ready_replicas)
            elif reported is not None:
                now = reported
            elif region == places.own:
                now = (wanted, ready)
            else:
                assumed = place.replicas if place.replicas is not None else spec.replicas
                now = (assumed, assumed)
                notes.append(
                    f"{name}: {place.name} tells nothing of it here, and {assumed} instances are assumed "
                    "to run (the hub knows)"
                )
            bounds = (
                place.min_replicas if place.min_replicas is not None else own_bounds[0],
                place.max_replicas if place.max_replicas is not None else own_bounds[1],
            )
            spots.append((name, region, *now, bounds))
    return [_sized(body, spec, status, *spot, notes) for spot in spots]


def _sized(
    body: Object,
    spec: PoolSpec,
    status: PoolStatus,
    name: str,
    region: str,
    wanted: int,
    ready: int,
    bounds: tuple[int | None, int | None],
    notes: list[str],
) -> PlacedPool:
    least = most = wanted
    available = None
    capacity = status.capacity
    if spec.scaling.mode is ScalingMode.MANAGED and status.hold is None:
        least = 1 if bounds[0] is None else bounds[0]
        most = max(least, bounds[1] if bounds[1] is not None else wanted)
        if capacity is not None and capacity.pending_replicas:
            available = max(0, wanted - capacity.pending_replicas)
            notes.append(f"{name}: {capacity.pending_replicas} instances wait for a node; no more can be had")
    elif status.hold is not None:
        notes.append(f"{name}: held at {wanted} until {status.hold.until:%Y-%m-%d %H:%MZ}")
    else:
        notes.append(
            f"{name}: stays at {wanted} (mode {spec.scaling.mode}); --set pool.{name}.replicas=N asks what if"
        )
    if ready < wanted:
        notes.append(f"{name}: {ready} of {wanted} instances are ready; the plan counts on all of them")
    seconds = capacity.median_pending_to_ready_seconds if capacity is not None else None
    about = body["metadata"]
    return PlacedPool(
        body["kind"],
        about.get("namespace", ""),
        about["name"],
        name,
        region,
        spec,
        status,
        wanted,
        ready,
        least,
        most,
        available,
        float(seconds or 0),
    )


def parsed(model: type[T], body: Object, part: str) -> T:
    """Spec or status. InvalidInputError: a newer version wrote it, or it does not fit."""
    try:
        return model.model_validate(body.get(part) or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        about = body["metadata"]
        where = "/".join(filter(None, (body.get("kind"), about.get("namespace"), about["name"])))
        field = ".".join((part, *map(str, first["loc"])))
        raise InvalidInputError(
            where, f"{field}: {first['msg']}", "mend it, or upgrade this prfaas"
        ) from error


def is_decode(pool: PlacedPool) -> bool:
    """Whether it is a DecodePool."""
    return pool.kind == DECODE_POOL


def is_down(status: Any) -> bool:
    """Whether a link's conditions say so."""
    down = find(status.conditions, ConditionType.DOWN)
    return down is not None and down.status is ConditionStatus.TRUE
