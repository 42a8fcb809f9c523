"""The operator's one configuration file, checked as a whole before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prfaas_operator.injection.settings import Settings, settings_of
from prfaas_operator.planning.values import Issuer

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?")

LEAST_ISSUED_SECONDS = 3600


class ConfigError(ValueError):
    """The file cannot be used; the text has one line per problem, each with its field."""


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError("must be a DNS label: lowercase letters, digits and -, at most 63 characters")
    return value


def _domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise ValueError("must be a DNS name such as example.org")
    return value


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise ValueError("must be an image reference such as registry.example.org/prfaas/sidecar@sha256:…")
    return value


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ValueError("must be host:port, an IPv6 host in brackets")
    return value


DnsLabel = Annotated[str, AfterValidator(_label)]
Domain = Annotated[str, AfterValidator(_domain)]
Image = Annotated[str, AfterValidator(_image)]
Address = Annotated[str, AfterValidator(_address)]
HostPath = Annotated[str, Field(pattern=r"^(/[^/]+)+$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(_Part):
    """What pods of pools are given besides the user's own containers."""

    sidecar: Image
    connector: Image


class LeaderElection(_Part):
    """Times of the Lease. A holder stops writing `renew_deadline_seconds` after its last renewal, by the
    monotonic clock, and another takes over `lease_seconds` after it.
    """

    identity: str | None = Field(default=None, min_length=1, max_length=128)
    lease_seconds: int = Field(default=15, ge=1, le=600)
    renew_deadline_seconds: float = Field(default=10.0, gt=0, le=600)
    retry_seconds: float = Field(default=2.0, gt=0, le=60)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.retry_seconds < self.renew_deadline_seconds < self.lease_seconds:
            raise ValueError("retry_seconds < renew_deadline_seconds < lease_seconds must hold")
        return self


class Queue(_Part):
    """How passes are run."""

    workers: int = Field(default=4, ge=1, le=64)
    pass_seconds: Seconds = 60.0
    first_retry_seconds: Seconds = 0.5
    longest_retry_seconds: Seconds = 120.0
    resync_seconds: Seconds = 900.0


class Health(_Part):
    """When `/readyz` turns red."""

    silent_seconds: Seconds = 150.0
    oldest_seconds: Seconds = 120.0
    audit_seconds: Seconds = 30.0


class IssuerRef(_Part):
    """An issuer of cert-manager's, as its Certificates name one."""

    name: str = Field(min_length=1, max_length=253)
    kind: str = Field(default="ClusterIssuer", min_length=1, max_length=63)
    group: Domain = "cert-manager.io"


class Certificates(_Part):
    """Who issues the certificates of pools and gateways.

    Attributes:
        issuer_ref: cert-manager does, by this issuer; None: the operator, from Secret `prfaas-ca`.
    """

    issuer_ref: IssuerRef | None = None


class Federation(_Part):
    """The cluster among others (docs/federation.md).

    Attributes:
        source: Local: what is wanted is in this cluster's own API server. Hub: it is mirrored from another.
        hub_kubeconfig: file with the way to the hub, with source Hub.
        allowed_namespaces: into which the mirror may write; empty: none.
        allowed_service_accounts: that mirrored pods may use, besides `default`.
        allowed_host_paths: folders of nodes that mirrored pods may mount read-only; none by default.
        host_ports: first and last port of nodes that pools may use.
        kv_proxy_address: host:port of this region's proxy for KV.
    """

    source: Literal["Local", "Hub"] = "Local"
    hub_kubeconfig: str | None = None
    hub_namespace: DnsLabel | None = None
    allowed_namespaces: tuple[DnsLabel, ...] = ()
    allowed_service_accounts: tuple[str, ...] = ()
    allowed_host_paths: tuple[HostPath, ...] = ()
    host_ports: tuple[int, int] | None = None
    kv_proxy_address: Address | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.source == "Hub") != (self.hub_kubeconfig is not None):
            raise ValueError("hub_kubeconfig is needed with source Hub, and belongs to no other")
        if self.host_ports is not None and not 1024 <= self.host_ports[0] <= self.host_ports[1] <= 65535:
            raise ValueError("host_ports: [first, last] with 1024 <= first <= last <= 65535")
        return self


class SignalsSource(_Part):
    """Where price and carbon signals come from (docs/autoscaler.md): a file or an endpoint.

    Attributes:
        seconds: between two readings.
    """

    file: str | None = Field(default=None, min_length=1)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$", max_length=2048)
    seconds: Seconds = 300.0

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError("give file or url, and not both")
        return self


class AcceleratorQuota(_Part):
    """Accelerators that pools have together; pools as `PrefillPool namespace/name`."""

    name: str = Field(min_length=1, max_length=63)
    pools: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    accelerators: float = Field(ge=0, le=1e9)


class Autoscaling(_Part):
    """How sizes of pools in mode Managed are decided (docs/autoscaler.md).

    Attributes:
        interval_seconds: between two decisions.
        round_seconds: the longest that one may take.
        start_seconds: how long an instance takes to come while none has been measured.
        unknown_seconds: so long engines may tell nothing before that is a condition.
        budget_per_hour: what all managed pools of this cluster may cost; None: no bound.
        carbon_price_per_kilogram: what carbon counts for beside the price.
    """

    interval_seconds: float = Field(default=15.0, ge=1, le=600)
    round_seconds: Seconds = 60.0
    start_seconds: Seconds = 180.0
    unknown_seconds: Seconds = 120.0
    budget_per_hour: float | None = Field(default=None, ge=0, le=1e9)
    carbon_price_per_kilogram: float = Field(default=0.0, ge=0, le=1e6)
    quotas: tuple[AcceleratorQuota, ...] = Field(default=(), max_length=64)
    signals: SignalsSource | None = None


_GIVEN_ABOVE = frozenset({"region", "trust_domain", "sidecar_image", "connector_image", "image_pull_policy"})


class OperatorConfig(_Part):
    """All of it.

    Attributes:
        cluster: name of this cluster; None: the region's.
        watch_namespaces: where pools are looked for; empty: everywhere.
        own_namespace: where the Lease and the region's objects are; None: POD_NAMESPACE, or that of the pod.
        health_listen: for `/healthz`, `/readyz` and `/metrics`.
        gateway_name: the last part of the gateways' identity.
        certificate_seconds: validity of what is issued.
        rotation_seconds: how long everybody gets to take over each step of a rotation of the authority.
        gateways, image_pull_secrets, connector_as_image_volume, prefill_addresses, listen_address: as in
            `prfaas_operator.injection.settings.Settings`.
    """

    region: DnsLabel
    cluster: DnsLabel | None = None
    federation: Federation = Federation()
    trust_domain: Domain
    own_namespace: DnsLabel | None = None
    watch_namespaces: tuple[DnsLabel, ...] = ()
    images: Images
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    health_listen: Address = "0.0.0.0:8080"
    kubeconfig: str | None = None
    context: str | None = None
    gateway_name: DnsLabel = "prfaas-gateway"
    certificates: Certificates = Certificates()
    # Renewed after two thirds, of which five minutes are for clocks that lag: less had no end.
    certificate_seconds: int = Field(default=30 * 86_400, ge=600)
    rotation_seconds: int = Field(default=900, ge=1, le=30 * 86_400)
    leader_election: LeaderElection = LeaderElection()
    queue: Queue = Queue()
    health: Health = Health()
    autoscaler: Autoscaling = Autoscaling()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    gateways: tuple[str, ...] | None = None
    image_pull_secrets: tuple[str, ...] = ()
    connector_as_image_volume: bool = False
    prefill_addresses: tuple[str, ...] | None = None
    listen_address: str | None = None

    @model_validator(mode="after")
    def _is_issued_long_enough(self) -> Self:
        if self.certificates.issuer_ref is not None and self.certificate_seconds < LEAST_ISSUED_SECONDS:
            raise ValueError(
                f"certificate_seconds: cert-manager issues nothing for less than {LEAST_ISSUED_SECONDS}"
            )
        return self

    def issuer(self) -> Issuer | None:
        """Who signs in the operator's stead."""
        ref = self.certificates.issuer_ref
        return None if ref is None else Issuer(ref.name, ref.kind, ref.group, self.certificate_seconds)

    @model_validator(mode="after")
    def _pods_can_be_made(self) -> Self:
        try:
            self.injection_settings()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{field}: {_reason(first)}") from error
        return self

    def injection_settings(self) -> Settings:
        """What the injection is told."""
        return settings_of(self.model_dump(mode="json"))


def load(path: Path) -> OperatorConfig:
    """Read and check the file.

    Raises:
        ConfigError: it cannot be used, with every field that is wrong.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> OperatorConfig:
    """The configuration in a YAML text; `source` names it in errors."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: must be a mapping with region, trust_domain and images")
    try:
        return OperatorConfig.model_validate(document)
    except ValidationError as error:
        lines = (
            f"{source}: {'.'.join(str(part) for part in problem['loc']) or 'file'}: {_reason(problem)}"
            for problem in error.errors(include_url=False)
        )
        raise ConfigError("\n".join(lines)) from error


def _reason(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "no such field"
    if problem["type"] == "missing":
        return "is needed"
    return str(problem["msg"]).removeprefix("Value error, ")
