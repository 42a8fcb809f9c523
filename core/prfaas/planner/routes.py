"""The problem as a whole: references, residency, paths; and which routes may be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prfaas.capacity.errors import InvalidInputError
from prfaas.capacity.profiles import Wire
from prfaas.planner.problem import DecodePool, Goal, Link, Options, PrefillPool, Problem, Region, Route


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


@dataclass(frozen=True, slots=True)
class ExcludedRoute:
    """A route that may not be used, and why."""

    route: Route
    reason: str


def direct_routes(
    prefill_pools: Iterable[PrefillPool],
    decode_pools: Iterable[DecodePool],
    links: Iterable[Link],
    *,
    wire: Wire = Wire(),  # noqa: B008 (a frozen value)
    prefill_hit_share: float = 0.0,
) -> tuple[Route, ...]:
    """Every pair of one model in the same cluster or with a link from the one's to the other's.

    Of parallel links each makes a route of its own. `wire` holds for the routes that cross a link.
    """
    by_ends: dict[tuple[str, str], list[str]] = {}
    for link in links:
        by_ends.setdefault((link.source_cluster, link.target_cluster), []).append(link.name)
    routes = []
    by_model: dict[str, list[PrefillPool]] = {}
    for pool in prefill_pools:
        by_model.setdefault(pool.model, []).append(pool)
    for decode in decode_pools:
        for prefill in by_model.get(decode.model, ()):
            if prefill.cluster == decode.cluster:
                routes.append(Route(prefill.name, decode.name, (), Wire(), prefill_hit_share))
            else:
                routes.extend(
                    Route(prefill.name, decode.name, (name,), wire, prefill_hit_share)
                    for name in by_ends.get((prefill.cluster, decode.cluster), ())
                )
    return tuple(routes)


def validated(problem: Problem, options: Options) -> Problem:
    """The problem with everything in the order of names, so that the order of the input cannot matter.

    Raises:
        InvalidInputError: nothing to plan, a name used twice, a reference to nothing, regions that contain
            each other, a route whose links do not lead from the one cluster to the other, or (LEAST_COST) no
            price.
    """
    if not problem.decode_pools:
        raise InvalidInputError("decode_pools", "there is none", "give at least one, with its demand")
    prefill = _by_name("prefill_pools", problem.prefill_pools)
    decode = _by_name("decode_pools", problem.decode_pools)
    links = _by_name("links", problem.links)
    clusters = _by_name("clusters", problem.clusters)
    regions = _by_name("regions", problem.regions)
    _by_name("quotas", problem.quotas)
    for name in sorted(prefill.keys() & decode.keys()):
        raise InvalidInputError(
            f"decode_pools[{name}]", "a prefill pool has this name too", "rename one of them"
        )
    _check_regions(problem, regions)
    for quota in problem.quotas:
        for name in sorted(quota.pools - prefill.keys() - decode.keys()):
            raise InvalidInputError(
                f"quotas[{quota.name}].pools", f"no pool is named {name}", "correct the name"
            )
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for route in problem.routes:
        field = f"routes[{route.prefill_pool} to {route.decode_pool}]"
        if route.prefill_pool not in prefill:
            raise InvalidInputError(
                field, f"no prefill pool is named {route.prefill_pool}", "correct the name"
            )
        if route.decode_pool not in decode:
            raise InvalidInputError(field, f"no decode pool is named {route.decode_pool}", "correct the name")
        key = (route.prefill_pool, route.decode_pool, route.links)
        if key in seen:
            raise InvalidInputError(field, "is given twice", "leave one of them out")
        seen.add(key)
        _check_path(field, route, prefill[route.prefill_pool], decode[route.decode_pool], links)
    for prefiller in problem.prefill_pools:
        _check_shared(prefiller, decode)
    for decoder in problem.decode_pools:
        _check_references(decoder, prefill, clusters, regions)
    if options.goal is Goal.LEAST_COST:
        for kind, pools in (("prefill_pools", problem.prefill_pools), ("decode_pools", problem.decode_pools)):
            for pool in pools:
                if pool.instances.price_per_hour is None:
                    raise InvalidInputError(
                        f"{kind}[{pool.name}].instances.price_per_hour",
                        "is missing",
                        "give a price (0 for what is paid for anyway), or plan for MostServed",
                    )
    return Problem(
        prefill_pools=_sorted(problem.prefill_pools),
        decode_pools=_sorted(problem.decode_pools),
        routes=tuple(
            sorted(problem.routes, key=lambda route: (route.decode_pool, route.prefill_pool, route.links))
        ),
        links=_sorted(problem.links),
        clusters=_sorted(problem.clusters),
        regions=_sorted(problem.regions),
        quotas=_sorted(problem.quotas),
    )


def usable_routes(problem: Problem) -> tuple[tuple[Route, ...], tuple[ExcludedRoute, ...]]:
    """Routes that model, residency and allow-lists permit, and the others with the reason."""
    prefill = {pool.name: pool for pool in problem.prefill_pools}
    decode = {pool.name: pool for pool in problem.decode_pools}
    region_of = {cluster.name: cluster.region for cluster in problem.clusters}
    within = {region.name: region.within for region in problem.regions}
    usable, excluded = [], []
    for route in problem.routes:
        reason = _why_not(prefill[route.prefill_pool], decode[route.decode_pool], region_of, within)
        if reason is None:
            usable.append(route)
        else:
            excluded.append(ExcludedRoute(route, reason))
    return tuple(usable), tuple(excluded)


def _why_not(
    prefill: PrefillPool, decode: DecodePool, region_of: Mapping[str, str], within: Mapping[str, str | None]
) -> str | None:
    if prefill.model != decode.model:
        return f"{prefill.name} runs {prefill.model}, {decode.name} runs {decode.model}"
    if decode.prefill_pools is not None and prefill.name not in decode.prefill_pools:
        return f"{decode.name} does not list {prefill.name} among its prefill pools"
    residency = decode.residency
    if prefill.cluster == decode.cluster or (residency.allowed is None and not residency.denied):
        return None
    places = _places(region_of[prefill.cluster], within)
    denied = next((place for place in places if place in residency.denied), None)
    if denied is not None:
        return f"residency of {decode.name} denies {denied}, where {prefill.name} runs"
    if residency.allowed is not None and not residency.allowed & set(places):
        return f"residency of {decode.name} allows only {', '.join(sorted(residency.allowed))}"
    return None


def _places(region: str, within: Mapping[str, str | None]) -> list[str]:
    places = [region]
    while (outer := within.get(places[-1])) is not None:
        places.append(outer)
    return places


def _check_regions(problem: Problem, regions: Mapping[str, Region]) -> None:
    for region in problem.regions:
        path = [region.name]
        while (outer := regions[path[-1]].within) is not None:
            if outer not in regions:
                raise InvalidInputError(
                    f"regions[{path[-1]}].within", f"no region is named {outer}", "correct the name"
                )
            path.append(outer)
            if outer in path[:-1]:
                raise InvalidInputError(
                    f"regions[{region.name}].within",
                    f"the regions contain each other: {' in '.join(path)}",
                    "let the outermost one be within nothing",
                )
    for cluster in problem.clusters:
        if regions and cluster.region not in regions:
            raise InvalidInputError(
                f"clusters[{cluster.name}].region", f"no region is named {cluster.region}", "correct the name"
            )


def _check_references(
    decode: DecodePool,
    prefill: Mapping[str, PrefillPool],
    clusters: Mapping[str, object],
    regions: Mapping[str, Region],
) -> None:
    field = f"decode_pools[{decode.name}]"
    for name in sorted((decode.prefill_pools or frozenset()) - prefill.keys()):
        raise InvalidInputError(
            f"{field}.prefill_pools", f"no prefill pool is named {name}", "correct the name"
        )
    named = (decode.residency.allowed or frozenset()) | decode.residency.denied
    if not named:
        return
    for name in sorted(named - regions.keys()):
        raise InvalidInputError(f"{field}.residency", f"no region is named {name}", "correct the name")
    for pool in prefill.values():
        if pool.cluster not in clusters:
            raise InvalidInputError(
                f"prefill_pools[{pool.name}].cluster",
                f"the region of {pool.cluster} is not known, and residency asks for it",
                "list it in clusters",
            )


def _check_shared(pool: PrefillPool, decode: Mapping[str, DecodePool]) -> None:
    if pool.instances_of is None:
        return
    field, owner = f"prefill_pools[{pool.name}].instances_of", decode.get(pool.instances_of)
    if owner is None:
        raise InvalidInputError(field, f"no decode pool is named {pool.instances_of}", "correct the name")
    if (owner.cluster, owner.model) != (pool.cluster, pool.model):
        raise InvalidInputError(
            field, f"{owner.name} has another cluster or model", "give both the same, or instances of its own"
        )


def _check_path(
    field: str, route: Route, prefill: PrefillPool, decode: DecodePool, links: Mapping[str, Link]
) -> None:
    at = prefill.cluster
    for name in route.links:
        link = links.get(name)
        if link is None:
            raise InvalidInputError(f"{field}.links", f"no link is named {name}", "correct the name")
        if link.source_cluster != at:
            raise InvalidInputError(
                f"{field}.links",
                f"{name} begins at {link.source_cluster}, not at {at}",
                "give links in order",
            )
        at = link.target_cluster
    if at != decode.cluster:
        raise InvalidInputError(
            f"{field}.links", f"they lead to {at}, not to {decode.cluster}", "add the missing link"
        )


def _by_name(field: str, values: Sequence[T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for value in values:
        if value.name in found:
            raise InvalidInputError(
                f"{field}[{value.name}]", "this name is given twice", "rename one of them"
            )
        found[value.name] = value
    return found


def _sorted(values: Sequence[T]) -> tuple[T, ...]:
    return tuple(sorted(values, key=lambda value: value.name))
