"""What of a cluster a plan is made from: its objects, read once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import (
    DECODE_POOLS,
    KV_LINKS,
    MODEL_KV_PROFILES,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    REGIONS,
    Object,
    Resource,
)


@dataclass(frozen=True, slots=True)
class Live:
    """Objects as the API server has them, without those that are being deleted.

    Attributes:
        at: by the server's clock.
        unread: kinds that may not be read or are not installed.
    """

    at: datetime
    prefill_pools: tuple[Object, ...] = ()
    decode_pools: tuple[Object, ...] = ()
    routes: tuple[Object, ...] = ()
    profiles: tuple[Object, ...] = ()
    links: tuple[Object, ...] = ()
    regions: tuple[Object, ...] = ()
    unread: tuple[str, ...] = ()


async def read(api: KubeApi, namespace: str | None) -> Live:
    """All of a namespace, None: of every one.

    Raises:
        KubeError: pools, routes or profiles cannot be read.
    """
    # One before the others, so that missing CRDs are told once.
    decode = await api.list(DECODE_POOLS, namespace)
    prefill, routes, profiles, links, regions = await asyncio.gather(
        api.list(PREFILL_POOLS, namespace),
        api.list(PREFILL_ROUTES, namespace),
        api.list(MODEL_KV_PROFILES, namespace),
        _of_the_cluster(api, KV_LINKS),
        _of_the_cluster(api, REGIONS),
    )
    return Live(
        api.server_now(),
        _kept(prefill),
        _kept(decode),
        _kept(routes),
        _kept(profiles),
        _kept(links or ()),
        _kept(regions or ()),
        tuple(kind for kind, found in (("KVLink", links), ("Region", regions)) if found is None),
    )


async def _of_the_cluster(api: KubeApi, resource: Resource) -> list[Object] | None:
    try:
        return await api.list(resource)
    except (errors.Forbidden, errors.NotFound):
        return None


def _kept(objects: list[Object] | tuple[Object, ...]) -> tuple[Object, ...]:
    """By name, so that the same cluster gives the same scenario."""
    alive = [each for each in objects if not each["metadata"].get("deletionTimestamp")]
    return tuple(
        sorted(alive, key=lambda each: (each["metadata"].get("namespace", ""), each["metadata"]["name"]))
    )
