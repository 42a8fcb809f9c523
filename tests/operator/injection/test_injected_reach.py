"""Reach of a prefill pool: what it makes of the pods, and when it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from prfaas_operator.injection import Settings
from prfaas_operator.injection.revision import revision_hash
from tests.operator.injection.pools import (
    SETTINGS,
    container,
    injected,
    pool,
    refused,
    template,
)

FEDERATED = SETTINGS.model_copy(
    update={"host_ports": (32000, 32010), "kv_proxy_address": "kv.eu.example:7411"}
)


def host_port(number: int = 32001) -> dict[str, Any]:
    return {"reach": "HostPort", "hostPort": number}


def ports(
    settings: Settings = FEDERATED, kind: str = "PrefillPool", **transport: Any
) -> dict[tuple[str, int], int]:
    """Ports of the node by container and port there, of the containers for which kubelets open any."""
    made = pool(kind, transport=transport) if transport else pool(kind)
    spec = injected(made, settings)["spec"]
    assert not [
        port for each in spec["initContainers"] for port in each.get("ports", []) if "hostPort" in port
    ]
    return {
        (each["name"], port["containerPort"]): port["hostPort"]
        for each in spec["containers"]
        for port in each.get("ports", [])
        if "hostPort" in port
    }


def test_a_port_of_the_node_leads_to_the_peer_port_and_to_no_other() -> None:
    assert ports(**host_port()) == {("engine", 7400): 32001}


@pytest.mark.parametrize("transport", [{}, {"reach": "PodIP"}, {"reach": "Passthrough"}])
def test_other_reaches_open_no_port_of_the_node(transport: dict[str, Any]) -> None:
    assert ports(**transport) == {}


def test_decode_pools_are_reached_by_nobody() -> None:
    assert ports(kind="DecodePool", **host_port()) == {}
    injected(pool("DecodePool", transport={"reach": "Passthrough"}), SETTINGS)


def test_the_port_is_part_of_the_revision_and_the_reach_alone_is_not() -> None:
    plain = revision_hash(pool(), FEDERATED)
    assert revision_hash(pool(transport={"reach": "Passthrough"}), FEDERATED) == plain
    by_port = {revision_hash(pool(transport=host_port(number)), FEDERATED) for number in (32001, 32002)}
    assert len(by_port | {plain}) == 3


@pytest.mark.parametrize(
    ("settings", "number", "words"),
    [
        (SETTINGS, 32001, "none are allowed"),
        (FEDERATED, 31999, "32000 to 32010 are allowed"),
        (FEDERATED, 32011, "32000 to 32010 are allowed"),
    ],
)
def test_a_port_outside_the_range_is_refused(settings: Settings, number: int, words: str) -> None:
    ((field, reason, message),) = refused(pool(transport=host_port(number)), settings)
    assert (field, reason) == ("spec.transport.hostPort", "HostPortNotAllowed")
    assert words in message
    assert "federation.hostPorts" in message


def test_passthrough_needs_a_proxy() -> None:
    ((field, reason, message),) = refused(pool(transport={"reach": "Passthrough"}), SETTINGS)
    assert (field, reason) == ("spec.transport.reach", "KVProxyMissing")
    assert "federation.kvProxyAddress" in message


def test_a_template_that_uses_the_nodes_ports_itself() -> None:
    taken = template(container(ports=[{"containerPort": 9, "hostPort": 32001}]))
    ((field, reason, message),) = refused(pool(pod_template=taken, transport=host_port()), FEDERATED)
    assert (field, reason) == ("spec.workload.template.spec.containers[engine].ports", "FieldConflict")
    assert "spec.transport.hostPort" in message
    ((field, _, message),) = refused(
        pool(pod_template=template(hostNetwork=True), transport=host_port()), FEDERATED
    )
    assert field == "spec.transport.reach"
    assert "use PodIP" in message
