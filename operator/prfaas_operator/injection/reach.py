"""How other regions reach a prefill pool's sidecars: what that makes of its pods, and what may not be
(docs/federation.md, "Reach of KV")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prfaas.api.conditions import Reason
from prfaas.api.keys import PREFILL_POOL
from prfaas.api.v1alpha1 import Pool
from prfaas.api.v1alpha1.pools import Reach
from prfaas_operator.injection.results import Refusal
from prfaas_operator.injection.settings import Settings

_REACH, _HOST_PORT = "spec.transport.reach", "spec.transport.hostPort"


def host_port(pool: Pool) -> int | None:
    """Port of the node that leads to the sidecar's peer port; None without one."""
    transport = pool.spec.transport
    return transport.host_port if pool.kind == PREFILL_POOL and transport.reach is Reach.HOST_PORT else None


def refusals(
    pool: Pool,
    settings: Settings,
    pod: Mapping[str, Any],
    user_containers: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[Refusal]:
    """What of the reach cannot be had in this cluster, or not with this template.

    Args:
        user_containers: all of the template, each with its path.
    """
    if pool.kind != PREFILL_POOL:
        # Decode sidecars dial, and are dialled by nobody.
        return
    if pool.spec.transport.reach is Reach.PASSTHROUGH and settings.kv_proxy_address is None:
        yield Refusal(
            _REACH,
            Reason.KV_PROXY_MISSING,
            "Passthrough needs the region's proxy: set kvProxy.enabled and federation.kvProxyAddress in the "
            "chart's values, or use PodIP",
        )
    port = host_port(pool)
    if port is None:
        return
    allowed = settings.host_ports
    if allowed is None or not allowed[0] <= port <= allowed[1]:
        text = "none are allowed" if allowed is None else f"{allowed[0]} to {allowed[1]} are allowed"
        yield Refusal(
            _HOST_PORT,
            Reason.HOST_PORT_NOT_ALLOWED,
            f"{port}: {text} by the operator's configuration (federation.hostPorts): use one of "
            "those, or have the range changed",
        )
    if pod.get("hostNetwork"):
        yield Refusal(
            _REACH,
            Reason.FIELD_CONFLICT,
            "the template has hostNetwork, so the sidecar listens on the node's own ports: use PodIP",
        )
    for field, container in user_containers:
        if any(each.get("hostPort") == port for each in container.get("ports") or []):
            yield Refusal(
                f"{field}.ports",
                Reason.FIELD_CONFLICT,
                f"hostPort {port} is that of {_HOST_PORT}: use another for one of them",
            )
