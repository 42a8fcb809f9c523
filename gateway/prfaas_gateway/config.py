"""The gateway's one configuration file. A bad file is refused with the field and the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from yarl import URL

from prfaas.capacity import Curve
from prfaas.routing import Mode
from prfaas.scheduling import Shed

Seconds = Annotated[float, Field(gt=0, le=86_400)]
_STOPPING_SECONDS_IN_A_CLUSTER = 5
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """The configuration cannot be used; the text has one line per problem, each with its field."""


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if (
        not separator
        or not port.isdigit()
        or not 0 <= int(port) <= 65_535
        or (":" in host and host[0] != "[")
    ):
        raise ValueError("must be host:port, an IPv6 host in brackets")
    return value


def _spiffe(value: str) -> str:
    if not re.fullmatch(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+", value):
        raise ValueError(
            "must be a SPIFFE URI such as spiffe://example.org/region/eu/ns/llm/pool/DecodePool/chat"
        )
    return value


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        url = URL(value)
        if url.scheme not in schemes or not url.host or url.query_string or url.fragment or url.user:
            raise ValueError(
                f"must be a URL with {' or '.join(schemes)}, a host, and no query or credentials"
            )
        return value.rstrip("/")

    return AfterValidator(check)


Address = Annotated[str, AfterValidator(_address)]
Identity = Annotated[str, AfterValidator(_spiffe)]
EngineUrl = Annotated[str, _url("http", "https")]
ControlUrl = Annotated[str, _url("https")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,252}$")]
KubeName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` as a pair; an empty host means every interface."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """The gateway's own certificate, and the authorities that sidecars must be signed by."""

    certificate: Path
    key: Path
    trust_bundle: Path


class AssumedPool(_Section):
    """A prefill pool that is only thought of. Nothing is sent there."""

    name: Name
    instances: Annotated[int, Field(ge=1, le=1000)]
    prefill_points: Annotated[tuple[tuple[float, float], ...], Field(min_length=1, max_length=64)]
    """Measured prefill times, as pairs of tokens and seconds, shortest first."""
    gbits_per_second: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Of the link from there; none means that it never binds."""
    rtt_seconds: Annotated[float, Field(ge=0, le=10)] = 0

    @model_validator(mode="after")
    def _rising(self) -> Self:
        Curve.from_points(self.prefill_points)
        return self


class SloClassSettings(_Section):
    """A kind of traffic, named by a header that a trusted proxy sets."""

    ttft_seconds: Seconds | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    shed: Shed = Shed.LATE
    """Refuse: answer 429 or 503 at once when the first token is certain to be late. Late: serve it late."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.shed is Shed.REFUSE and self.ttft_seconds is None:
            raise ValueError("shed: Refuse needs ttft_seconds")
        return self


class Slo(_Section):
    """Classes of traffic."""

    header: HeaderName | None = None
    """Set by a trusted proxy; without it, or with a name that is no class, the default holds. It goes no
    further."""
    default: Name = "standard"
    classes: dict[Name, SloClassSettings] = Field(default_factory=dict)


class Model(_Section):
    """A model that this gateway serves."""

    name: Name
    tokenizer: Path
    """Folder with tokenizer.json, tokenizer_config.json and, if the model has one, chat_template.jinja."""
    max_model_tokens: Count
    threshold_tokens: Annotated[int, Field(ge=0)]
    """Uncached prompt length up to which prefill stays local."""
    block_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """The engines' block size: prefixes are compared in whole blocks."""
    adapters: tuple[Name, ...] = ()
    """Names of LoRA adapters that the engines serve on top of this model; their requests stay local."""
    chat_template: Path | None = None
    """A template file that the engines were started with (`--chat-template`)."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """The engines' `--default-chat-template-kwargs`."""
    content_format: Literal["auto", "string", "openai"] = "auto"
    """The engines' `--chat-template-content-format`."""
    render_chat: bool = True
    """False for models whose engines do not render with the tokenizer's template: their chats stay local."""
    adaptive: bool = False
    """Whether queues, links and caches may move single requests across the threshold."""
    route: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}$")] | None = None
    """`namespace/name` of the PrefillRoute whose status shows what is counted here; by default none does."""
    mode: Mode = Mode.ENFORCE
    canary_percent: Annotated[float, Field(ge=0, le=100)] = 0
    ttft_seconds: Seconds | None = None
    """Objective for the time to the first token: when remote prefill breaks it, everything stays local for a
    while."""
    assumed_pools: tuple[AssumedPool, ...] = ()
    """In mode Observe: prefill pools that are not there yet, to see what they would be worth."""


class Peering(_Section):
    """How gateways of different regions deal with one another (docs/federation.md)."""

    bytes_per_second: Annotated[int, Field(ge=1_000, le=10_000_000)] = 50_000
    """What is told to one gateway of another region, at most: with many pods loads are told less often."""
    silent_seconds: Annotated[float, Field(ge=1, le=60)] = 3
    """A region that says nothing for so long gets no requests, and what waits for it goes elsewhere."""


class DecodeEngine(_Section):
    """An engine of this region that answers clients, and its sidecar."""

    name: Name
    url: EngineUrl
    control: ControlUrl | None = None
    """Control listener of its sidecar; without one every request of this engine stays local."""
    identity: Identity | None = None
    models: tuple[Name, ...] = ()
    """Models that it serves; none named means all."""
    max_in_flight: Count = 256
    max_prefill_tokens: Count = 131_072
    """Uncached tokens that it is given to prefill at a time; more wait here, where their order is fair. A
    prompt that is longer is given to an idle engine."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.control is None) != (self.identity is None):
            raise ValueError("control and identity go together")
        return self


class PrefillEngine(_Section):
    """An engine, near or far, that prefills for this region."""

    name: Name
    control: ControlUrl
    kv_address: Address
    """Where its sidecar lets consumers pull KV."""
    identity: Identity
    kv_server_name: str | None = None
    """TLS server name by which a proxy knows its sidecar, without the region of who dials."""
    models: tuple[Name, ...] = ()
    max_in_flight_tokens: Count = 1_000_000


class Timeouts(_Section):
    """Every wait of the request path has one of these."""

    connect_seconds: Seconds = 5
    body_seconds: Seconds = 30
    prepare_seconds: Seconds = 30
    first_byte_seconds: Seconds = 300
    idle_seconds: Seconds = 120
    request_seconds: Seconds = 3600
    client_write_seconds: Seconds = 60
    transfer_seconds: Seconds = 30
    """Base of the transfer's deadline."""
    transfer_seconds_per_1000_tokens: Annotated[float, Field(ge=0, le=3600)] = 2
    """What each 1,000 uncached tokens add to the transfer's deadline."""
    prefill_grace_seconds: Seconds = 2
    """How long a prefill leg may go on after the answer has begun."""
    retry_within_seconds: Seconds = 10
    """How old a request may be when a failed leg is tried again elsewhere."""
    control_seconds: Seconds = 2
    waiting_seconds: Seconds = 30
    """How long a request waits here for a decode engine with room."""
    stopping_seconds: Annotated[float, Field(ge=0, le=300)] | None = None
    """How long to go on serving after a SIGTERM while /readyz says no, so that load balancers learn of it; by
    default 5 in a cluster and 0 elsewhere."""
    drain_seconds: Seconds = 60
    """How long running requests may take after that."""


class Limits(_Section):
    """Every buffer and queue of the request path has one of these."""

    max_in_flight: Count = 1024
    max_body_bytes: Count = 16 << 20
    max_response_bytes: Count = 32 << 20
    """Largest answer that is not streamed."""
    max_event_bytes: Count = 4 << 20
    max_buffered_bytes: Count = 128 << 20
    """Request and response bodies of all requests together."""
    remote_attempts: Annotated[int, Field(ge=1, le=5)] = 2
    decode_attempts: Annotated[int, Field(ge=1, le=5)] = 2
    tokenizer_threads: Annotated[int, Field(ge=1, le=64)] = 2
    prefix_index_blocks: Count = 50_000
    """Blocks remembered per engine; 24 to 45 bytes each."""
    all_prefix_index_blocks: Count = 10_000_000
    """The same for all engines together."""
    max_waiting: Count = 512
    """Requests that wait for a decode engine with room; while others wait too, one tenant has half of the
    places at most."""
    background_tasks: Count = 4096


class Health(_Section):
    """How engines are judged."""

    probe_seconds: Seconds = 5
    failure_limit: Annotated[float, Field(ge=1, le=100)] = 3
    failure_half_life_seconds: Seconds = 10
    check_tokenizer: bool = True
    """Compare with each decode engine's /tokenize before anything goes remote."""


class Cluster(_Section):
    """Where models and engines come from in Kubernetes: the operator's snapshot, and pods."""

    namespace: KubeName
    """Of the snapshot: the operator's own."""
    snapshot: KubeName = "prfaas-gateway-policy"
    """Name of the ConfigMap."""
    pod_namespaces: tuple[KubeName, ...] = ()
    """Where pods are watched; none named means everywhere, which needs a ClusterRole."""
    kubeconfig: Path | None = None
    """For a gateway outside of the cluster; in a pod its service account is used."""
    state_dir: Path
    """Folder for the last good snapshot, the pods last seen and tokenizers: a volume of the pod's."""
    max_tokenizer_bytes: Count = 512 << 20
    """Tokenizer files kept in `state_dir`."""


class Config(_Section):
    """The whole file."""

    listen: Address = "0.0.0.0:8000"
    health_listen: Address = "0.0.0.0:8002"
    peer_listen: Address | None = None
    """Where gateways of other regions are answered (usually port 7410); none: this region offers nothing."""
    region: Name
    identity: Identity | None = None
    tls: Tls | None = None
    cluster: Cluster | None = None
    models: tuple[Model, ...] = ()
    decode_engines: tuple[DecodeEngine, ...] = ()
    prefill_engines: tuple[PrefillEngine, ...] = ()
    remote_prefill: bool = True
    response_headers: bool = True
    """Whether answers say how they were routed (`x-prfaas-*`)."""
    tenant_header: HeaderName | None = None
    """A header set by a trusted proxy; it separates tenants in the prefix index and in the order in which
    they are served, and goes no further."""
    tenant_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(default_factory=dict)
    """Shares of tenants that are not like the others, which have 1."""
    slo: Slo = Slo()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    health: Health = Health()
    peering: Peering = Peering()

    def _engines(self) -> list[DecodeEngine | PrefillEngine]:
        return [*self.decode_engines, *self.prefill_engines]

    @property
    def sidecar_identities(self) -> set[str]:
        """Identities of all sidecars that the gateway speaks to."""
        return {engine.identity for engine in self._engines() if engine.identity is not None}

    @property
    def stopping_seconds(self) -> float:
        """How long the gateway says that it is not ready before it refuses connections."""
        given = self.timeouts.stopping_seconds
        if given is None:
            return _STOPPING_SECONDS_IN_A_CLUSTER if self.cluster else 0
        return given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.cluster is None:
            if self.peer_listen is not None:
                raise ValueError("peer_listen: needs the section cluster; regions come from the snapshot")
            for name in ("models", "decode_engines"):
                if not getattr(self, name):
                    raise ValueError(f"{name}: at least one is needed, or the section cluster")
            return self
        for name in ("models", "decode_engines", "prefill_engines"):
            if getattr(self, name):
                raise ValueError(f"{name}: with the section cluster they come from the operator's snapshot")
        if self.tls is None:
            raise ValueError("tls is needed to speak to sidecars")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        models = [name for model in self.models for name in (model.name, *model.adapters)]
        engines = [engine.name for engine in self._engines()]
        for what, names in (("model or adapter", models), ("engine", engines)):
            for name in _repeated(names):
                raise ValueError(f"{what} {name!r} is named twice")
        known = {model.name for model in self.models}
        for engine in self._engines():
            for name in engine.models:
                if name not in known:
                    raise ValueError(f"engine {engine.name!r} serves {name!r}, which is not among the models")
        for name in known:
            if not any(not engine.models or name in engine.models for engine in self.decode_engines):
                raise ValueError(f"no decode engine serves model {name!r}")
        needs_tls = self.prefill_engines or any(engine.control for engine in self.decode_engines)
        if needs_tls and self.tls is None:
            raise ValueError("tls is needed to speak to sidecars")
        return self


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def load(path: Path) -> Config:
    """Read, check and complete the file; relative paths in it are relative to its folder.

    Raises:
        ConfigError: what is wrong, one line per field.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping of settings")
    try:
        config = Config.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_problems(error))) from error
    return _with_absolute_paths(config, path.resolve().parent)


def _problems(error: pydantic.ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        field = ".".join(str(part) for part in problem["loc"]) or "(file)"
        lines.append(f"{field}: {problem['msg'].removeprefix('Value error, ')}")
    return lines


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    models = tuple(
        model.model_copy(
            update={
                "tokenizer": folder / model.tokenizer,
                "chat_template": folder / model.chat_template if model.chat_template else None,
            }
        )
        for model in config.models
    )
    tls = config.tls and config.tls.model_copy(
        update={name: folder / path for name, path in config.tls if isinstance(path, Path)}
    )
    cluster = config.cluster and config.cluster.model_copy(
        update={name: folder / path for name, path in config.cluster if isinstance(path, Path)}
    )
    config = config.model_copy(update={"models": models, "tls": tls, "cluster": cluster})
    missing = [
        f"{field}: {path} does not exist"
        for field, path in _files(config)
        if path is not None and not path.exists()
    ]
    if missing:
        raise ConfigError("\n".join(missing))
    return config


def _files(config: Config) -> Iterable[tuple[str, Path | None]]:
    for index, model in enumerate(config.models):
        yield f"models.{index}.tokenizer", model.tokenizer / "tokenizer.json"
        yield f"models.{index}.chat_template", model.chat_template
    if config.cluster:
        yield "cluster.kubeconfig", config.cluster.kubeconfig
    if config.tls:
        for name, path in config.tls:
            yield f"tls.{name}", path
