"""Who owns a pool's replicas, and which of two routes counts: the real planning at a real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prfaas.api import keys
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import PREFILL_POOLS, PREFILL_ROUTES, Object, Resource
from prfaas_operator.runtime.planning_adapter import Planning
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of, config_for, pool_body, running


def planning(config: Any) -> Planning:
    return Planning(config.injection_settings(), gateway_namespace="own", gateway_name="gateway")


async def condition(client: KubeClient, resource: Resource, namespace: str, name: str, type_: str) -> str:
    body = await client.get(resource, namespace, name)
    found = (body.get("status") or {}).get("conditions") or ()
    return next((each["reason"] for each in found if each["type"] == type_), "")


def managed(namespace: str) -> Object:
    body = pool_body(namespace, scaling={"mode": "Managed", "minReplicas": 2, "maxReplicas": 4})
    applied = json.dumps(body)
    body["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = applied
    return body


async def test_replicas_of_kubectl_apply_keep_managed_mode_from_writing_them(
    kubeconfig: Path, namespace: str
) -> None:
    config = config_for(kubeconfig, namespace)
    async with client_of(kubeconfig) as client, running(config, planning(config)) as world:
        await client.create(PREFILL_POOLS, managed(namespace))

        async def refused() -> bool:
            reason = await condition(client, PREFILL_POOLS, namespace, "long", "ScalingActive")
            return reason == "ReplicasOwnedByManifest"

        await eventually_async(refused)
        await world.quiet()
        assert (await client.get(PREFILL_POOLS, namespace, "long"))["spec"]["replicas"] == 1
        await world.stop()


def route(namespace: str, name: str) -> Object:
    return {
        "apiVersion": keys.API_VERSION,
        "kind": "PrefillRoute",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": "long"}]},
    }


async def test_a_route_that_another_kept_out_counts_as_soon_as_that_is_gone(
    kubeconfig: Path, namespace: str
) -> None:
    config = config_for(kubeconfig, namespace)
    async with client_of(kubeconfig) as client, running(config, planning(config)) as world:
        for name in ("a", "b"):
            await client.create(PREFILL_ROUTES, route(namespace, name))

        async def accepted(wanted: str) -> bool:
            return await condition(client, PREFILL_ROUTES, namespace, "b", "Accepted") == wanted

        await eventually_async(lambda: accepted("RouteConflict"))
        await world.quiet()
        await client.delete(PREFILL_ROUTES, namespace, "a")
        await eventually_async(lambda: accepted("Accepted"))
        await world.stop()
