"""Reads what the screen needs, once."""

from __future__ import annotations

import asyncio

from prfaas.api.keys import LABEL_POOL, OPERATOR_LEASE
from prfaas.commands.status.judge import endpoint_view, fingerprints_of, operator_view, pool_view, route_view
from prfaas.commands.status.regions import link_view, region_view
from prfaas.commands.status.view import FleetView
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import (
    DECODE_POOLS,
    KV_LINKS,
    LEASES,
    PODS,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    REGIONS,
    Object,
    Resource,
)


async def gather(api: KubeApi, namespace: str | None, operator_namespace: str | None) -> FleetView:
    """The fleet now. `namespace` None: all; `operator_namespace` None: wherever there is an operator.

    Raises:
        KubeError: pools, routes or pods cannot be read.
    """
    # One after the other finds missing CRDs or rights before four calls say the same.
    decode_pools = await api.list(DECODE_POOLS, namespace)
    prefill_pools, routes, pods, leases, regions, links = await asyncio.gather(
        api.list(PREFILL_POOLS, namespace),
        api.list(PREFILL_ROUTES, namespace),
        api.list(PODS, namespace, label_selector=LABEL_POOL),
        operator_leases(api, operator_namespace),
        _of_the_cluster(api, REGIONS),
        _of_the_cluster(api, KV_LINKS),
    )
    now = api.server_now()
    pools = [*decode_pools, *prefill_pools]
    fingerprints = fingerprints_of(pools)
    return FleetView(
        at=now,
        scope=f"namespace {namespace}" if namespace else "any namespace",
        operator=operator_view(leases, now),
        regions=tuple(
            sorted((region_view(each, now) for each in regions), key=lambda r: (not r.here, r.name))
        ),
        links=tuple(sorted((link_view(each) for each in links), key=lambda k: (k.source, k.destination))),
        pools=tuple(
            sorted((pool_view(pool, now) for pool in pools), key=lambda p: (p.namespace, p.kind, p.name))
        ),
        routes=tuple(
            sorted((route_view(route, now) for route in routes), key=lambda r: (r.namespace, r.name))
        ),
        endpoints=tuple(
            sorted(
                (endpoint_view(pod, fingerprints) for pod in pods),
                key=lambda e: (e.namespace, e.pool_kind, e.pool, e.created_at, e.name),
            )
        ),
    )


async def _of_the_cluster(api: KubeApi, resource: Resource) -> list[Object]:
    """Regions or links; none where they may not be read, or an earlier version is installed."""
    try:
        return await api.list(resource)
    except (errors.Forbidden, errors.NotFound):
        return []


async def operator_leases(api: KubeApi, namespace: str | None) -> list[Object] | None:
    """The operator's Lease, wherever it is; None when it may not be read."""
    try:
        return await api.list(LEASES, namespace, field_selector=f"metadata.name={OPERATOR_LEASE}")
    except errors.Forbidden:
        return None
