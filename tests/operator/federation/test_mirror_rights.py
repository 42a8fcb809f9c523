"""A member's operator with the chart's rights and no others, seen in its API server's audit log."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as official
from kubernetes.dynamic import DynamicClient

from prfaas.api import keys
from prfaas.chart.access import ACCESS
from prfaas.kube.resources import BY_KIND, CONFIG_MAPS, REGIONS, Object
from tests.api.crd_cases import minimal
from tests.chart.rendering import render
from tests.chart.test_access_calls import OWN, POLICY, USER, _asked, _rights
from tests.cluster_fixtures import client_of as official_client_of
from tests.helpers import eventually_async
from tests.operator.federation.federation_world import (
    SERVING,
    Cluster,
    cluster,
    make_lease,
    operator,
    pinned_uid,
    placed_pool,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def restricted(own_api_server: Any) -> Path:
    """The kubeconfig of the operator's account, with the chart's roles of a member."""
    rendered = render({"federation.source": "Hub", "federation.allowedNamespaces": [SERVING]}, namespace=OWN)
    with official_client_of(own_api_server.kubeconfig) as api:
        official.CoreV1Api(api).create_namespace({"metadata": {"name": OWN}})
        for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            resource = DynamicClient(api).resources.get(api_version="rbac.authorization.k8s.io/v1", kind=kind)
            for document in rendered.of_kind(kind):
                resource.create(body=document, namespace=document["metadata"].get("namespace"))
    return own_api_server.kubeconfig_of(USER, ["system:serviceaccounts", "system:authenticated"])


def objects() -> list[Object]:
    """One of each kind, all for the member."""
    prefill = placed_pool("long", "us", model={"name": "chat", "profileRef": {"name": "chat"}})
    decode = {**placed_pool("chat", "us"), "kind": keys.DECODE_POOL}
    route, profile = minimal(keys.PREFILL_ROUTE, "chat"), minimal(keys.MODEL_KV_PROFILE, "chat")
    about = {"apiVersion": keys.API_VERSION, "kind": keys.KV_LINK, "metadata": {"name": "eu-us"}}
    link = {**about, "spec": {"source": {"region": "eu"}, "destination": {"region": "us"}}}
    region = {"apiVersion": keys.API_VERSION, "kind": keys.REGION, "metadata": {"name": "asia"}, "spec": {}}
    for each in (route, profile):
        each["metadata"]["namespace"] = SERVING
    return [region, link, profile, prefill, decode, route]


@pytest.mark.api_server_flags({"audit-policy-file": str(POLICY), "audit-log-path": "-"})
async def test_a_member_needs_all_of_the_mirrors_rights_and_no_more(
    own_api_server: Any, restricted: Path, start_server: Any, tmp_path: Path
) -> None:
    hub_server = await asyncio.to_thread(start_server, "the-hub")
    way = tmp_path / "hub.kubeconfig"
    await asyncio.to_thread(shutil.copyfile, hub_server.kubeconfig, way)
    async with cluster("eu", hub_server) as hub, cluster("us", own_api_server) as member:
        for name in ("eu", "us"):
            about = {"apiVersion": keys.API_VERSION, "kind": keys.REGION, "metadata": {"name": name}}
            await hub.admin.create(REGIONS, {**about, "spec": {}})
        await make_lease(hub, "us")
        account = Cluster("us", member.admin, restricted)
        async with operator(account, way):
            wanted = objects()
            for body in wanted:
                await hub.admin.create(BY_KIND[body["kind"]], body)
            for body in wanted:
                await _there(member, body)
            await member.await_condition("us", "MirrorReady", "True", "Mirrored")
            for body in wanted:
                await _change(hub, body)
            await eventually_async(
                lambda: _all_of_the_second_generation(member, wanted),
                within_seconds=60,
                what="the changes have come",
            )
            # So many at once are somebody's decision.
            accepted = f"{await pinned_uid(member)}@{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            annotation = {"metadata": {"annotations": {keys.ANNOTATION_ACCEPT_DELETES: accepted}}}
            await member.admin.patch(CONFIG_MAPS, OWN, keys.HUB_CONFIG_MAP, annotation, field_manager="x")
            for body in wanted:
                about = body["metadata"]
                await hub.admin.delete(BY_KIND[body["kind"]], about.get("namespace"), about["name"])
            for body in wanted:
                about = body["metadata"]
                await member.await_gone(BY_KIND[body["kind"]], about.get("namespace"), about["name"])

    refused, used = _asked(own_api_server)
    assert not refused, f"core/prfaas/chart/access.py lacks: {sorted(refused)}"
    mirrors = {right for each in ACCESS if each.part == "mirror" for right in _rights(each)}
    assert mirrors <= used, "rights that nobody uses"
    assert used <= mirrors | {right for each in ACCESS if each.part == "operator" for right in _rights(each)}


async def _there(member: Cluster, body: Object) -> None:
    about = body["metadata"]
    await member.await_there(BY_KIND[body["kind"]], about.get("namespace"), about["name"])


async def _change(hub: Cluster, body: Object) -> None:
    """Something harmless of each kind."""
    changes: dict[str, Object] = {
        keys.REGION: {"jurisdiction": "JP"},
        keys.KV_LINK: {"pricePerGibibyte": 0.02},
        keys.MODEL_KV_PROFILE: {"model": {"name": "chat-2"}},
        keys.PREFILL_POOL: {"replicas": 2},
        keys.DECODE_POOL: {"replicas": 2},
        keys.PREFILL_ROUTE: {"mode": "Enforce"},
    }
    about, kind = body["metadata"], body["kind"]
    await hub.admin.patch(
        BY_KIND[kind],
        about.get("namespace"),
        about["name"],
        {"spec": changes[kind]},
        field_manager="a-person",
    )


async def _all_of_the_second_generation(member: Cluster, wanted: list[Object]) -> bool:
    for body in wanted:
        about = body["metadata"]
        found = await member.admin.get(BY_KIND[body["kind"]], about.get("namespace"), about["name"])
        if not found["metadata"]["annotations"][keys.ANNOTATION_MIRRORED_FROM].endswith("/2"):
            return False
    return True
