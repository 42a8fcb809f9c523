"""A gateway in a cluster whose API server or operator is away: it goes on with what it knows, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from prfaas_bench.fake_engine import Script
from tests.gateway.cluster_values import decode_target, prefill_target, route, snapshot
from tests.gateway.cluster_world import ClusterWorld, cluster_world
from tests.gateway.world import SHORT
from tests.helpers import eventually_async

if TYPE_CHECKING:
    from prfaas_cluster.apiserver import ApiServer

REMOTE = ("remote", "OverThreshold")
pytestmark = pytest.mark.timeout(180)


@pytest_asyncio.fixture
async def cluster(own_api_server: ApiServer, tmp_path: Path) -> AsyncIterator[ClusterWorld]:
    """The namespace `default` of a server that the test may break."""
    async with cluster_world(own_api_server.kubeconfig, "default", tmp_path) as made:
        target = route(prefill_pools=(prefill_target(namespace="default"),))
        await made.add_pod("chat-0")
        await made.add_pod("long-0", "PrefillPool")
        await made.write_snapshot(snapshot(decode_target(namespace="default", route=target)))
        yield made


async def test_traffic_flows_while_the_api_server_is_away_and_changes_are_seen_after_it(
    cluster: ClusterWorld, own_api_server: ApiServer
) -> None:
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed(*REMOTE)
        go_on = asyncio.Event()
        cluster.pods["chat-0"].engine.scripts = [Script(go_on=go_on)]
        async with gateway.complete(SHORT, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            await asyncio.to_thread(own_api_server.stop)
            await eventually_async(lambda: failures(gateway.controller.sources()) > 0)
            for _ in range(10):
                assert await gateway.routed() == REMOTE
            assert (await gateway.page("/readyz"))[0] == 200
            go_on.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.to_thread(own_api_server.start)
        await cluster.mark_drain("chat-0")
        decoder = gateway.decoder("chat-0")
        assert decoder is not None
        await eventually_async(lambda: not decoder.open, within_seconds=60)


def failures(sources: dict[str, Any]) -> int:
    """Failures in a row of all watches."""
    return sum(watch["failures"] for watch in sources["watches"].values())


async def test_a_gateway_that_restarts_while_the_api_server_is_away_serves_from_disk(
    cluster: ClusterWorld, own_api_server: ApiServer
) -> None:
    async with cluster.gateway() as gateway:
        await gateway.eventually_routed(*REMOTE)
    await asyncio.to_thread(own_api_server.stop)
    # Somebody else has the decode pod's old address by now: it must get no prompt.
    impostor = cluster.pods["chat-0"].sidecar
    impostor.refuse_control = True
    report, impostor.report = impostor.report, None
    async with cluster.gateway() as gateway:
        assert await gateway.routed(SHORT) == ("503", "NoDecodeEngine")
        asked = len(cluster.pods["chat-0"].engine.asked)
        impostor.report, impostor.refuse_control = report, False
        await gateway.eventually_routed(*REMOTE)
        assert len(cluster.pods["chat-0"].engine.asked) > asked
        code, ready = await gateway.page("/readyz")
        assert (code, ready["snapshot"]["source"], ready["pods_source"]) == (200, "disk", "disk")
        async with gateway.client.get(gateway.health_url + "/metrics") as response:
            metrics = await response.text()
        assert 'prfaas_gateway_from_disk{what="pods"} 1.0' in metrics
        await asyncio.to_thread(own_api_server.start)
        await eventually_async(
            lambda: gateway.controller.sources()["pods_source"] == "cluster", within_seconds=60
        )
        assert await gateway.routed() == REMOTE


async def test_a_gateway_that_never_saw_its_cluster_is_not_ready(
    cluster: ClusterWorld, own_api_server: ApiServer
) -> None:
    await asyncio.to_thread(own_api_server.stop)
    async with cluster.gateway() as gateway:
        code, ready = await gateway.page("/readyz")
        assert (code, ready["snapshot"]["source"]) == (503, "none")
        await asyncio.to_thread(own_api_server.start)
        await eventually_async(lambda: gateway.controller.why_not_ready() is None, within_seconds=60)
        await gateway.eventually_routed(*REMOTE)


GATEWAY_USER = "system:serviceaccount:prfaas:prfaas-gateway"
RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["prfaas-gateway-policy"],
        "verbs": ["list", "watch"],
    },
]


async def test_the_documented_rights_are_enough(cluster: ClusterWorld, own_api_server: ApiServer) -> None:
    from kubernetes import client

    from tests.cluster_fixtures import client_of

    def grant() -> Path:
        with client_of(own_api_server.kubeconfig) as api:
            rbac = client.RbacAuthorizationV1Api(api)
            role = {"metadata": {"name": "gateway"}, "rules": RULES}
            rbac.create_namespaced_role("default", role, _request_timeout=20)
            binding = {
                "metadata": {"name": "gateway"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gateway"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": GATEWAY_USER}],
            }
            rbac.create_namespaced_role_binding("default", binding, _request_timeout=20)
        return own_api_server.kubeconfig_of(GATEWAY_USER)

    limited = await asyncio.to_thread(grant)
    async with cluster.gateway(kubeconfig=limited) as gateway:
        await gateway.eventually_routed(*REMOTE)
        assert failures(gateway.controller.sources()) == 0
