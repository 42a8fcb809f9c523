"""What this cluster wrote as a hub of its own goes when another one is its hub: nobody would keep it true."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import DECODE_POOLS, PREFILL_POOLS, REGIONS, Object, Resource

logger = logging.getLogger(__name__)


async def give_up_adding_up(api: KubeApi, cluster: str, namespaces: tuple[str | None, ...]) -> None:
    """Let go of the status fields of the aggregator and of the cluster's own report. Writes nothing twice.

    Raises:
        KubeError: the API server could not be asked.
    """
    managers = (keys.MANAGER_AGGREGATOR, keys.manager_of_cluster(cluster))
    for resource in (REGIONS, PREFILL_POOLS, DECODE_POOLS):
        for namespace in namespaces if resource.namespaced else (None,):
            for body in await api.list(resource, namespace, metadata_only=True):
                for manager in _managers(body, managers):
                    await _release(api, resource, body["metadata"], manager)


def _managers(body: Object, managers: tuple[str, ...]) -> Iterator[str]:
    held = {
        entry.get("manager")
        for entry in body["metadata"].get("managedFields") or ()
        if entry.get("subresource") == "status"
    }
    return (manager for manager in managers if manager in held)


async def _release(api: KubeApi, resource: Resource, about: dict[str, Any], manager: str) -> None:
    name = {key: about[key] for key in ("namespace", "name", "uid") if about.get(key)}
    try:
        await api.apply_status(resource, {"metadata": name, "status": {}}, field_manager=manager)
    except errors.NotFound:
        return
    logger.info("let go of what %s wrote into %s %s", manager, resource, about["name"])
