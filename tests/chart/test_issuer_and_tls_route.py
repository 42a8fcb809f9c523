"""The chart with an issuer of cert-manager's, and with a TLSRoute before the proxy for KV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from prfaas.kube.client import KubeClient
from prfaas.kube.errors import Invalid, KubeError
from prfaas.kube.resources import DEFINITIONS, NAMESPACES, Resource
from tests.chart.rendering import HelmError, Rendered, render
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of

if TYPE_CHECKING:
    from prfaas_cluster.apiserver import ApiServer

TLS_ROUTES = Resource("gateway.networking.k8s.io", "v1alpha2", "tlsroutes", "TLSRoute")
SERVED = ["gateway.networking.k8s.io/v1alpha2"]
PARENTS = [{"name": "edge", "namespace": "gateways", "sectionName": "kv"}]
PROXY = {"region": "eu", "kvProxy.enabled": True, "kvProxy.podNetworks": ["10.0.0.0/8"]}


def with_route(**values: Any) -> dict[str, Any]:
    return {**PROXY, "kvProxy.tlsRoute.enabled": True, "kvProxy.tlsRoute.parentRefs": PARENTS, **values}


def rights_on_certificates(found: Rendered) -> set[tuple[str, tuple[str, ...]]]:
    return {
        (role["metadata"]["name"], tuple(rule["verbs"]))
        for role in (*found.of_kind("ClusterRole"), *found.of_kind("Role"))
        for rule in role["rules"]
        if "cert-manager.io" in rule["apiGroups"]
    }


def test_an_issuer_is_told_to_the_operator_and_brings_the_rights_that_it_takes() -> None:
    found = render({"region": "eu", "certificates.issuerRef.name": "region-eu"})
    (text,) = [
        each["data"]["operator.yaml"]
        for each in found.of_kind("ConfigMap")
        if "operator.yaml" in each.get("data", {})
    ]
    assert yaml.safe_load(text)["certificates"] == {
        "issuer_ref": {"name": "region-eu", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    }
    assert rights_on_certificates(found) == {
        ("prfaas-operator", ("list", "watch", "create", "patch")),
        ("prfaas-operator", ("get", "patch")),
        ("prfaas-operator", ("create",)),
    }


def test_without_one_there_are_no_such_rights() -> None:
    found = render({"region": "eu"})
    assert rights_on_certificates(found) == set()
    assert "issuer_ref" not in found.text


def test_a_tls_route_needs_a_gateway_and_a_cluster_that_serves_it() -> None:
    with pytest.raises(HelmError, match="parentRefs"):
        render({**PROXY, "kvProxy.tlsRoute.enabled": True}, api_versions=SERVED)
    assert render(with_route()).of_kind("TLSRoute") == []
    assert render(PROXY, api_versions=SERVED).of_kind("TLSRoute") == []


async def test_a_tls_route_is_what_gateway_api_takes_and_leads_to_the_proxy(
    own_api_server: ApiServer,
) -> None:
    found = render(with_route(trustDomain="kv.example.org"), api_versions=SERVED)
    (route,) = found.of_kind("TLSRoute")
    assert route["spec"]["hostnames"] == ["*.kv.kv.example.org"]
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    service = found.one("Service", backend["name"])
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    definition = yaml.safe_load(Path(__file__).with_name("crd-tlsroutes.yaml").read_text())
    async with client_of(own_api_server.kubeconfig) as client:
        namespace = route["metadata"]["namespace"]
        await client.create(
            NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        await client.create(DEFINITIONS, definition)
        await eventually_async(lambda: _served(client, namespace))
        stored = await client.create(TLS_ROUTES, route)
        assert stored["spec"]["parentRefs"][0]["name"] == "edge"
        # The schema is one that refuses.
        broken = {**route, "metadata": {**route["metadata"], "name": "broken"}}
        broken["spec"] = {**route["spec"], "hostnames": ["*.*.example.org"]}
        with pytest.raises(Invalid):
            await client.create(TLS_ROUTES, broken)


async def _served(client: KubeClient, namespace: str) -> bool:
    try:
        await client.list(TLS_ROUTES, namespace)
    except KubeError:
        return False
    return True
