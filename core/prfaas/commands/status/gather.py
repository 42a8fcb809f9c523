"""Reads what the screen needs, once."""

from __future__ import annotations

import asyncio

from prfaas.api.keys import LABEL_POOL, OPERATOR_LEASE
from prfaas.commands.status.judge import endpoint_view, fingerprints_of, operator_view, pool_view, route_view
from prfaas.commands.status.view import FleetView
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import DECODE_POOLS, LEASES, PODS, PREFILL_POOLS, PREFILL_ROUTES, Object


async def gather(api: KubeApi, namespace: str | None, operator_namespace: str | None) -> FleetView:
    """The fleet now. `namespace` None: all; `operator_namespace` None: wherever there is an operator.

    Raises:
        KubeError: pools, routes or pods cannot be read.
    """
    # One after the other finds missing CRDs or rights before four calls say the same.
    decode_pools = await api.list(DECODE_POOLS, namespace)
    prefill_pools, routes, pods, leases = await asyncio.gather(
        api.list(PREFILL_POOLS, namespace),
        api.list(PREFILL_ROUTES, namespace),
        api.list(PODS, namespace, label_selector=LABEL_POOL),
        operator_leases(api, operator_namespace),
    )
    now = api.server_now()
    pools = [*decode_pools, *prefill_pools]
    fingerprints = fingerprints_of(pools)
    return FleetView(
        at=now,
        scope=f"namespace {namespace}" if namespace else "any namespace",
        operator=operator_view(leases, now),
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


async def operator_leases(api: KubeApi, namespace: str | None) -> list[Object] | None:
    """The operator's Lease, wherever it is; None when it may not be read."""
    try:
        return await api.list(LEASES, namespace, field_selector=f"metadata.name={OPERATOR_LEASE}")
    except errors.Forbidden:
        return None
