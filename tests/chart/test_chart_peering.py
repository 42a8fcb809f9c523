"""What the chart makes for gateways of other regions."""

from __future__ import annotations

from typing import Any

import yaml

from prfaas_gateway.config import Config
from tests.chart.rendering import Rendered, render


def gateway_config(rendered: Rendered) -> Config:
    """The configuration as the gateway reads it."""
    (config,) = [
        each["data"]["gateway.yaml"]
        for each in rendered.documents
        if each["kind"] == "ConfigMap" and "gateway.yaml" in each["data"]
    ]
    return Config.model_validate(yaml.safe_load(config))


def of_kind(rendered: Rendered, kind: str, ending: str) -> list[dict[str, Any]]:
    """Objects of a kind whose names end like this."""
    return [
        each
        for each in rendered.documents
        if each["kind"] == kind and each["metadata"]["name"].endswith(ending)
    ]


def peer_rules(rendered: Rendered, direction: str, port: object) -> list[dict[str, Any]]:
    """Rules of the gateway's network policy for a port."""
    (policy,) = of_kind(rendered, "NetworkPolicy", "-gateway")
    return [
        rule for rule in policy["spec"][direction] if port in [each["port"] for each in rule.get("ports", ())]
    ]


def test_without_other_regions_nobody_is_let_in() -> None:
    rendered = render()
    assert gateway_config(rendered).peer_listen is None
    assert of_kind(rendered, "Service", "-gateway-peer") == []
    assert peer_rules(rendered, "ingress", "peer") == []
    # To listen to others needs no door of one's own.
    assert len(peer_rules(rendered, "egress", 7410)) == 1


def test_the_peer_port_has_a_service_a_door_and_a_listener() -> None:
    rendered = render(
        {
            "gateway.peer": {"enabled": True, "type": "NodePort", "nodePort": 30410},
            "networkPolicy.peerCidrs": ["192.0.2.0/24"],
        }
    )
    assert gateway_config(rendered).peer_listen == "0.0.0.0:7410"
    (service,) = of_kind(rendered, "Service", "-gateway-peer")
    assert service["spec"]["type"] == "NodePort"
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["nodePort"]) == (7410, "peer", 30410)
    (deployment,) = of_kind(rendered, "Deployment", "-gateway")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "peer", "containerPort": 7410} in container["ports"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    for direction, port_name, side in (("ingress", "peer", "from"), ("egress", 7410, "to")):
        (rule,) = peer_rules(rendered, direction, port_name)
        assert rule[side] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
