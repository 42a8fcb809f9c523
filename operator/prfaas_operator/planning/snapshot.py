"""What the gateways are told: every decode pool by model, with the route that counts for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas.api.snapshot import (
    DecodeTarget,
    ModelTarget,
    OwnPool,
    PoolTarget,
    RegionTarget,
    RemotePoolTarget,
    RouteTarget,
    Snapshot,
)
from prfaas.api.v1alpha1 import PoolPlacement, PrefillRouteSpec, Reach
from prfaas.identity import pool_identity
from prfaas_operator.injection import Settings
from prfaas_operator.injection.names import PEER_PORT
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.partner import keys_of_route
from prfaas_operator.planning.profiles import NO_POINTS, ProfilePoints
from prfaas_operator.planning.routes import Claim, first_claims, policy_of
from prfaas_operator.planning.values import PoolKey, RouteKey

_DEFAULT_ENGINE_PORT = 8000


@dataclass(frozen=True, slots=True)
class SnapshotPool:
    """What the snapshot needs of a pool."""

    key: PoolKey
    model: str
    engine_port: int
    placement: PoolPlacement | None = None
    reach: Reach = Reach.POD_IP
    host_port: int | None = None
    profile: ProfilePoints = NO_POINTS


@dataclass(frozen=True, slots=True)
class SnapshotRoute:
    """What the snapshot needs of a route whose spec can be read. Annotations are those of `prfaas.io/`.

    Attributes:
        planned_tokens: the threshold of the plan in force; None while there is none.
    """

    key: RouteKey
    created_at: datetime
    spec: PrefillRouteSpec
    annotations: Mapping[str, str]
    planned_tokens: int | None = None


def pool_for_snapshot(key: PoolKey, stored_spec: Mapping[str, Any]) -> SnapshotPool | None:
    """From the spec as it is stored: a pool whose other fields cannot be read any more still serves.

    None when even the model's name, the engine's port or the placement has no sense.
    """
    model = stored_spec.get("model")
    engine = stored_spec.get("engine")
    name = model.get("name") if isinstance(model, Mapping) else None
    port = engine.get("port", _DEFAULT_ENGINE_PORT) if isinstance(engine, Mapping) else _DEFAULT_ENGINE_PORT
    if not isinstance(name, str) or not name or not isinstance(port, int) or not 1 <= port <= 65535:
        return None
    stored_placement, transport = stored_spec.get("placement"), stored_spec.get("transport")
    transport = transport if isinstance(transport, Mapping) else {}
    try:
        placement = None if stored_placement is None else PoolPlacement.model_validate(stored_placement)
        reach = Reach(transport.get("reach", Reach.POD_IP))
    except ValueError:
        return None
    return SnapshotPool(key, name, port, placement, reach, transport.get("hostPort"))


def snapshot(
    pools: Iterable[SnapshotPool],
    routes: Iterable[SnapshotRoute],
    settings: Settings,
    now: datetime,
    geography: Geography | None = None,
) -> Snapshot:
    """The same fleet gives the same snapshot, whatever the order of the arguments.

    Pools and routes that are being deleted are left out by the caller. A prefill pool of another model, or
    with weight 0, is not offered.
    """
    where = Geography(settings.region, settings.region) if geography is None else geography
    by_key = {pool.key: pool for pool in pools}
    all_routes = sorted(routes, key=lambda route: route.key)
    by_route = {route.key: route for route in all_routes if where.is_here(route.spec.placement)}
    counts = first_claims(
        Claim(route.key, keys_of_route(route.key.namespace, route.spec)[0], route.created_at)
        for route in by_route.values()
    )
    models: dict[str, list[DecodeTarget]] = {}
    for key in sorted(by_key):
        pool = by_key[key]
        if key.kind != DECODE_POOL or not where.is_here(pool.placement):
            continue
        claimed = counts.get(key)
        route = (
            _route_target(by_route[claimed], pool, by_key, settings, where, now)
            if claimed is not None
            else None
        )
        target = DecodeTarget(**_target(pool, settings).model_dump(), route=route)
        models.setdefault(pool.model, []).append(target)
    return Snapshot.sealed(
        region=settings.region,
        trust_domain=settings.trust_domain,
        models=tuple(ModelTarget(name=name, decode_pools=tuple(models[name])) for name in sorted(models)),
        cluster=where.cluster,
        regions=tuple(
            RegionTarget(
                name=name,
                clusters=fact.clusters,
                peer_address=fact.peer_address,
                trust=fact.trust,
                jurisdiction=fact.jurisdiction,
            )
            for name, fact in sorted(where.regions.items())
            if name != where.region
        ),
        own_pools=_own_pools(by_key, all_routes, settings, where),
    )


def _route_target(
    route: SnapshotRoute,
    decode: SnapshotPool,
    pools: Mapping[PoolKey, SnapshotPool],
    settings: Settings,
    where: Geography,
    now: datetime,
) -> RouteTarget:
    policy = policy_of(route.spec, route.annotations, now, route.planned_tokens)
    offered = {
        PoolKey(PREFILL_POOL, route.key.namespace, each.name)
        for each in route.spec.prefill_pool_refs
        if each.weight != 0
    }
    prefill = sorted(key for key in offered if key in pools and pools[key].model == decode.model)
    return RouteTarget(
        namespace=route.key.namespace,
        name=route.key.name,
        mode=policy.mode,
        canary_percent=policy.canary_percent,
        threshold_tokens=policy.threshold_tokens,
        adaptive=policy.adaptive,
        ttft_seconds=policy.ttft_seconds,
        local_only_until=policy.local_only.until if policy.local_only is not None else None,
        prefill_pools=tuple(
            _target(pools[key], settings) for key in prefill if where.is_here(pools[key].placement)
        ),
        remote_prefill_pools=tuple(
            RemotePoolTarget(
                namespace=key.namespace,
                name=key.name,
                region=region,
                identity=pool_identity(
                    trust_domain=settings.trust_domain,
                    region=region,
                    namespace=key.namespace,
                    kind=key.kind,
                    name=key.name,
                ),
                prefill_points=pools[key].profile.prefill,
            )
            for key in prefill
            for region in where.others_of(pools[key].placement)
        ),
    )


def _own_pools(
    pools: Mapping[PoolKey, SnapshotPool],
    routes: Iterable[SnapshotRoute],
    settings: Settings,
    where: Geography,
) -> tuple[OwnPool, ...]:
    """The prefill pools of this cluster, each with the regions whose decode pools have a route to it."""
    offered: dict[PoolKey, set[str]] = {}
    for route in routes:
        decode_key, prefill = keys_of_route(route.key.namespace, route.spec)
        decode = pools.get(decode_key)
        if decode is None:
            continue
        regions = set(where.regions_of(decode.placement))
        if route.spec.placement is not None:
            regions &= {where.region_of(place.name) for place in route.spec.placement.clusters}
        for key in prefill:
            offered.setdefault(key, set()).update(regions)
    return tuple(
        OwnPool(
            namespace=key.namespace,
            name=key.name,
            kind=key.kind,
            model=pools[key].model,
            offered_to=tuple(sorted(offered[key])),
            kv_reach=pools[key].reach,
            kv_port=pools[key].host_port or PEER_PORT,
            kv_proxy=settings.kv_proxy_address if pools[key].reach is Reach.PASSTHROUGH else None,
        )
        for key in sorted(offered)
        if key in pools and key.kind == PREFILL_POOL and where.is_here(pools[key].placement)
    )


def _target(pool: SnapshotPool, settings: Settings) -> PoolTarget:
    return PoolTarget(
        namespace=pool.key.namespace,
        name=pool.key.name,
        identity=settings.identity_of(pool.key.kind, pool.key.namespace, pool.key.name),
        engine_port=pool.engine_port,
        prefill_points=pool.profile.prefill,
        kv_points=pool.profile.kv,
    )
