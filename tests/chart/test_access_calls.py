"""The operator with the chart's rights and no others, before a real API server that logs what it asks for.

So a right that is missing is refused here, and a right that nobody uses is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as official
from kubernetes.dynamic import DynamicClient

from prfaas.api import keys
from prfaas.chart.access import ACCESS, Access
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import (
    CONFIG_MAPS,
    DECODE_POOLS,
    DEPLOYMENTS,
    KV_LINKS,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    REGIONS,
    SECRETS,
)
from prfaas_operator.runtime.planning_adapter import Planning
from tests.chart.rendering import render
from tests.cluster_fixtures import client_of as official_client_of
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of, config_for, kubelets, running

OWN, POOLS = "prfaas-system", "serving"
POLICY = Path(__file__).with_name("audit-policy.yaml")
USER = f"system:serviceaccount:{OWN}:prfaas-operator"
# Used in situations that this life of a pool does not have; each has its own test in tests/operator.
ELSEWHERE = {
    ("patch", "prefillpools/scale"): "a pool in Managed mode",
    ("patch", "decodepools/scale"): "a pool in Managed mode",
    ("update", "prefillpools/finalizers"): "the admission plug-in OwnerReferencesPermissionEnforcement",
    ("update", "decodepools/finalizers"): "the admission plug-in OwnerReferencesPermissionEnforcement",
    ("patch", "events"): "an event that repeats for minutes",
    ("patch", "pods"): "the drain of a pod that is ready",
    ("delete", "deployments"): "an old revision",
    ("get", "deployments"): "one that is there and was not seen, which is a fault",
    ("delete", "poddisruptionbudgets"): "a pool that is scaled to one",
    ("patch", "secrets"): "a certificate that is renewed",
}


def pool(kind: str, name: str) -> dict[str, Any]:
    engine = {
        "name": "engine",
        "image": "example.org/vllm:1",
        "resources": {"limits": {"memory": "16Gi", "cpu": "4"}, "requests": {"memory": "16Gi", "cpu": "4"}},
        "envFrom": [{"secretRef": {"name": "token"}}, {"configMapRef": {"name": "settings"}}],
    }
    spec = {
        "serviceAccountName": "engines",
        "terminationGracePeriodSeconds": 600,
        "containers": [engine],
        "volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": "model", "readOnly": True}}],
    }
    return {
        "apiVersion": keys.API_VERSION,
        "kind": kind,
        "metadata": {"namespace": POOLS, "name": name},
        "spec": {
            "model": {"name": "chat"},
            "engine": {"type": "VLLM"},
            "replicas": 2,
            "workload": {"template": {"spec": spec}},
        },
    }


@pytest.fixture(params=[(POOLS,), ()], ids=["in one namespace", "everywhere"])
def watched(request: pytest.FixtureRequest) -> tuple[str, ...]:
    where: tuple[str, ...] = request.param
    return where


@pytest.fixture
def restricted(own_api_server: Any, watched: tuple[str, ...]) -> Path:
    """The kubeconfig of the operator's account, with the chart's roles."""
    with official_client_of(own_api_server.kubeconfig) as api:
        core = official.CoreV1Api(api)
        for name in (OWN, POOLS):
            core.create_namespace({"metadata": {"name": name}})
        for name in ("token", "settings", "engines", "model"):
            meta = {"metadata": {"name": name}}
            if name == "token":
                core.create_namespaced_secret(POOLS, meta)
            elif name == "settings":
                core.create_namespaced_config_map(POOLS, meta)
            elif name == "engines":
                core.create_namespaced_service_account(POOLS, meta)
            else:
                claim = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
                core.create_namespaced_persistent_volume_claim(POOLS, {**meta, "spec": claim})
        rendered = render({"watchNamespaces": list(watched), "gateway.enabled": False}, namespace=OWN)
        for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            for document in rendered.of_kind(kind):
                resource = DynamicClient(api).resources.get(api_version=document["apiVersion"], kind=kind)
                resource.create(body=document, namespace=document["metadata"].get("namespace"))
    return own_api_server.kubeconfig_of(USER, ["system:serviceaccounts", "system:authenticated"])


@pytest.mark.timeout(180)
@pytest.mark.api_server_flags({"audit-policy-file": str(POLICY), "audit-log-path": "-"})
async def test_the_operator_needs_all_of_the_charts_rights_and_no_more(
    own_api_server: Any, restricted: Path, watched: tuple[str, ...]
) -> None:
    config = config_for(restricted, OWN, watch_namespaces=watched)
    planning = Planning(config.injection_settings(), gateway_namespace=OWN, gateway_name=config.gateway_name)
    async with (
        client_of(own_api_server.kubeconfig) as admin,
        kubelets(admin, POOLS),
        running(config, planning) as world,
    ):
        region = {"apiVersion": keys.API_VERSION, "kind": keys.REGION, "metadata": {"name": "eu"}, "spec": {}}
        await admin.create(REGIONS, region)
        ends = {"source": {"region": "us"}, "destination": {"region": "eu"}}
        link = {
            "apiVersion": keys.API_VERSION,
            "kind": keys.KV_LINK,
            "metadata": {"name": "us-eu"},
            "spec": ends,
        }
        await admin.create(KV_LINKS, link)
        await admin.create(PREFILL_POOLS, pool(keys.PREFILL_POOL, "long"))
        await admin.create(DECODE_POOLS, pool(keys.DECODE_POOL, "chat"))
        route = {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": "long"}]}
        about = {"apiVersion": keys.API_VERSION, "kind": keys.PREFILL_ROUTE}
        meta = {"namespace": POOLS, "name": "chat"}
        await admin.create(PREFILL_ROUTES, {**about, "metadata": meta, "spec": route})
        await eventually_async(
            lambda: _deployments(admin, 2), within_seconds=30, what="Deployments of both pools"
        )
        await admin.scale(PREFILL_POOLS, POOLS, "long", 3, field_manager="an-autoscaler")
        await eventually_async(
            lambda: _is_scaled(admin, 3), within_seconds=30, what="the Deployment is scaled"
        )
        await eventually_async(lambda: _is_there(admin), within_seconds=30, what="what gateways are told")
        await eventually_async(
            lambda: _is_aggregated(admin), within_seconds=60, what="the region is heard of, and seen"
        )
        await eventually_async(lambda: _is_measured(admin), within_seconds=30, what="the link is told of")
        await world.quiet()

    refused, used = _asked(own_api_server)
    assert not refused, f"core/prfaas/chart/access.py lacks: {sorted(refused)}"
    declared = {
        (verb, resource)
        for access in ACCESS
        if access.part == "operator"
        for verb, resource in _rights(access)
    }
    assert used <= declared
    assert declared - used == set(ELSEWHERE), "rights that nobody used, or that are used by now"


def _rights(access: Access) -> Iterator[tuple[str, str]]:
    for resource in access.resources:
        for verb in access.verbs:
            yield verb, resource


def _asked(server: Any) -> tuple[set[tuple[str, str, str]], set[tuple[str, str]]]:
    """What the operator was refused (verb, resource, namespace), and what it used (verb, resource)."""
    refused, used = set(), set()
    for line in server.server.log.read_text(errors="replace").splitlines():
        if not line.startswith('{"kind":"Event"'):
            continue
        event = json.loads(line)
        about = event.get("objectRef")
        if event["user"]["username"] != USER or about is None:
            continue
        name = "/".join(part for part in (about["resource"], about.get("subresource", "")) if part)
        if event["responseStatus"]["code"] == 403:
            refused.add((event["verb"], name, about.get("namespace", "")))
        else:
            used.add((event["verb"], name))
            # The server asks for both when an apply makes what is not there.
            if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
                used.add(("create", name))
    return refused, used


async def _deployments(admin: KubeClient, count: int) -> bool:
    return len(await admin.list(DEPLOYMENTS, POOLS)) == count


async def _is_scaled(admin: KubeClient, replicas: int) -> bool:
    return any(each["spec"]["replicas"] == replicas for each in await admin.list(DEPLOYMENTS, POOLS))


async def _is_aggregated(admin: KubeClient) -> bool:
    status = (await admin.get(REGIONS, None, "eu")).get("status") or {}
    types = {each["type"] for each in status.get("conditions") or () if each["status"] == "True"}
    return bool(status.get("clusters")) and {"ReportFresh", "Reachable"} <= types


async def _is_measured(admin: KubeClient) -> bool:
    return "status" in await admin.get(KV_LINKS, None, "us-eu")


async def _is_there(admin: KubeClient) -> bool:
    secrets = {each["metadata"]["name"] for each in await admin.list(SECRETS, OWN)}
    maps = {each["metadata"]["name"] for each in await admin.list(CONFIG_MAPS, OWN)}
    return {"prfaas-ca", "prfaas-gateway-tls"} <= secrets and "prfaas-gateway-policy" in maps
