"""What the injection needs to know of region and cluster, as the operator's configuration says it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prfaas import __version__
from prfaas.api.keys import PoolKind
from prfaas.identity import pool_identity
from prfaas_operator.injection.names import PEER_PORT


def _address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


def _networks(text: str) -> str:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        network = ipaddress.ip_network(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise ValueError(f"{text!r} is not network:port, such as 10.0.0.0/8:{PEER_PORT}: {error}") from error
    if (network.version == 6) != bracketed:
        raise ValueError(f"{text!r}: an IPv6 network, and only that, is in brackets")
    if port != "*" and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError(f"{text!r} has no port; {PEER_PORT} is the sidecars'")
    return text


Networks = Annotated[str, AfterValidator(_networks)]
_SEGMENT = r"[A-Za-z0-9._*?\[\]!-]{1,253}"
IdentityPattern = Annotated[
    str,
    Field(pattern=rf"^spiffe://[a-z0-9._*-]{{1,255}}/region/{_SEGMENT}/ns/{_SEGMENT}/gateway/{_SEGMENT}$"),
]
SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class Settings(BaseModel):
    """The same for all pools of a region.

    Attributes:
        sidecar_image, connector_image: references, by digest where pods must not change by themselves.
        version: of what is injected; part of a revision's hash only where `sidecar.upgrade` is Rolling.
        gateways: identity patterns that may call the control port; None: every gateway of the region.
        image_pull_secrets: names of Secrets, which have to exist in the pools' namespaces.
        connector_as_image_volume: mount the carrier image instead of copying it, where cluster and container
            runtime can do that.
        prefill_addresses: networks with a port in which decode sidecars may dial prefill pods. Any by
            default: who answers there has to prove its identity by TLS in each case.
        kv_proxy_address: host:port of the proxy through which other regions reach sidecars of pools whose
            reach is Passthrough; None: there is none.
        host_ports: first and last port of nodes that pools may use with reach HostPort; None: none.
        listen_address: `::` in clusters without IPv4, where engines need `--host ::` too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$")]
    trust_domain: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,255}$")]
    sidecar_image: Annotated[str, Field(min_length=1, max_length=1024)]
    connector_image: Annotated[str, Field(min_length=1, max_length=1024)]
    version: Annotated[str, Field(min_length=1, max_length=63)] = __version__
    gateways: Annotated[tuple[IdentityPattern, ...], Field(max_length=64)] | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=16)] = ()
    connector_as_image_volume: bool = False
    prefill_addresses: Annotated[tuple[Networks, ...], Field(min_length=1, max_length=64)] = (
        f"0.0.0.0/0:{PEER_PORT}",
        f"[::/0]:{PEER_PORT}",
    )
    listen_address: Annotated[str, AfterValidator(_address)] = "0.0.0.0"  # noqa: S104  (in a pod of its own)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kv_proxy_address: Annotated[str, Field(min_length=3, max_length=261)] | None = None
    host_ports: tuple[int, int] | None = None

    def gateway_patterns(self) -> tuple[str, ...]:
        """Identity patterns of the gateways that may call a sidecar."""
        if self.gateways is not None:
            return self.gateways
        return (f"spiffe://{self.trust_domain}/region/{self.region}/ns/*/gateway/*",)

    def identity_of(self, kind: PoolKind, namespace: str, name: str) -> str:
        """Identity of a pool of this region."""
        return pool_identity(
            trust_domain=self.trust_domain, region=self.region, namespace=namespace, kind=kind, name=name
        )


_OPTIONAL = frozenset(Settings.model_fields) - {
    "region",
    "trust_domain",
    "sidecar_image",
    "connector_image",
    "version",
    "log_level",
    "kv_proxy_address",
    "host_ports",
}
_FEDERATION = ("kv_proxy_address", "host_ports")


def settings_of(configuration: Mapping[str, Any]) -> Settings:
    """The part of the operator's configuration file (docs/control-plane.md) that concerns the injection.

    Raises:
        pydantic.ValidationError: a field is missing or wrong.
    """
    images = configuration.get("images")
    images = images if isinstance(images, Mapping) else {}
    fields = {
        "region": configuration.get("region"),
        "trust_domain": configuration.get("trust_domain"),
        "sidecar_image": images.get("sidecar"),
        "connector_image": images.get("connector"),
    }
    federation = configuration.get("federation")
    federation = federation if isinstance(federation, Mapping) else {}
    fields |= {name: federation[name] for name in _FEDERATION if federation.get(name) is not None}
    optional = {name: configuration[name] for name in _OPTIONAL if configuration.get(name) is not None}
    return Settings.model_validate(fields | optional)
