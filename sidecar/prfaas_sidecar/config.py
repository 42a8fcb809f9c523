"""The sidecar's configuration: one YAML file, checked as a whole before anything starts."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from prfaas.held_blocks import MAX_HASHES
from prfaas_connector.local_api.model_files import folder_beside
from prfaas_sidecar.identity import Identity, IdentityError, Pattern, parse

_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB)")
_FACTOR = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MODE = re.compile(r"0?o?([0-7]{3})")
_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<plain>[^:\[\]]+)):(?P<port>\d{1,5}|\*)")


class ConfigError(ValueError):
    """The file cannot be used; the text names each field and what is wrong with it."""


def split_address(text: str) -> tuple[str, str]:
    """Host and port of ``host:port`` or ``[v6]:port``; the port may be ``*`` in patterns.

    Raises:
        ValueError: it has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or (match["port"] != "*" and not 0 <= int(match["port"]) <= 65535):
        raise ValueError(f"{text!r} is not host:port")
    return match["bracketed"] or match["plain"], match["port"]


def _size(value: object) -> object:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _FACTOR[match[2]]
    return value


def _mode(value: object) -> object:
    # YAML 1.1 reads 0660 as a number and 0o660 as a text.
    if isinstance(value, str) and (match := _MODE.fullmatch(value)):
        return int(match[1], 8)
    return value


def _listen(text: str) -> str:
    host, port = split_address(text)
    ipaddress.ip_address(host)
    if port == "*":
        raise ValueError("a listener needs a port")
    return text


def _pattern(text: str) -> str:
    Pattern.parse(text)
    return text


def _identity(text: str) -> str:
    parse(text)
    return text


def _dial_address(text: str) -> str:
    split_address(text)
    return text


SizeBytes = Annotated[int, BeforeValidator(_size)]
Listen = Annotated[str, AfterValidator(_listen)]
IdentityPattern = Annotated[str, AfterValidator(_pattern)]
MAX_BUNDLE_CHARACTERS = 64 << 10
RegionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSection(_Section):
    """The engine in the same pod."""

    socket: Path
    """Unix socket that the connector opens; made by the sidecar."""
    socket_mode: Annotated[int, BeforeValidator(_mode), Field(ge=0, le=0o777)] = 0o660
    """Its file mode. Where engine and sidecar are different users without a common group: ``0o666``; nobody
    but the two sees the folder."""
    url: Annotated[str, Field(pattern=r"^http://[^/\s]+$")] | None = None
    """Base URL of the engine's OpenAI API, for prefill legs and drains; without it the sidecar serves no
    legs, and a drain does not know what the engine still does."""

    @property
    def model_folder(self) -> Path:
        """Where the connector lays the model's tokenizer files."""
        return folder_beside(self.socket)


class ListenSection(_Section):
    """Where the three listeners bind (numeric addresses)."""

    peer: Listen | None = "0.0.0.0:7400"
    control: Listen | None = "0.0.0.0:7401"
    health: Listen = "0.0.0.0:7402"


class TlsSection(_Section):
    """PEM files. They are read again when they change on disk."""

    certificate: Path
    key: Path
    ca: Path


class DialRule(_Section):
    """Producers that this sidecar may dial: an identity (or pattern) and where it may live.

    Addresses are ``host:port``; the host is an IP address, a network such as ``10.80.0.0/16``, or a DNS
    name, exactly or as ``*.suffix``; the port may be ``*``.
    """

    identity: IdentityPattern
    addresses: Annotated[list[Annotated[str, AfterValidator(_dial_address)]], Field(min_length=1)]

    def allows(self, identity: Identity, host: str, port: int) -> bool:
        """Whether this rule lets the sidecar dial ``host:port`` and expects ``identity`` there."""
        return Pattern(self.identity).matches(identity) and any(
            _address_matches(pattern, host, port) for pattern in self.addresses
        )


class RegionSection(_Section):
    """Another region."""

    trust: Annotated[str, Field(max_length=MAX_BUNDLE_CHARACTERS)]
    """Its authorities, PEM."""


class PeersSection(_Section):
    """Who may pull from here, and whom this sidecar may pull from. Both lists are empty by default:
    nobody."""

    accept: list[IdentityPattern] = []
    dial: list[DialRule] = []
    regions: dict[RegionName, RegionSection] | None = None
    """Other regions and the authorities that speak for them; absent: ``tls.ca`` speaks for every region."""


class LinkSection(_Section):
    """How KV crosses to and from peers."""

    streams: Annotated[int, Field(ge=1, le=64)] = 4
    frame_bytes: Annotated[SizeBytes, Field(ge=4 << 10, le=16 << 20)] = 512 << 10
    """Target payload of one DATA frame; a unit is never split."""
    congestion_control: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,15}$")] | None = "bbr"
    """TCP congestion control of sending streams, where the kernel allows it; null leaves the kernel's."""
    budget_bits_per_second: Annotated[int, Field(ge=64_000)] | None = None
    """Paces each consumer's streams to this rate in all; null does not pace."""
    connect_seconds: Seconds = 5.0
    """Longest that one connection attempt with its handshakes takes, and that a transfer waits for its
    first stream."""
    resume_seconds: Seconds = 10.0
    """Longest that a transfer waits for a new stream after all broke."""
    resumes: Annotated[int, Field(ge=0, le=1000)] = 16
    """How often one transfer asks again for what is missing."""
    ping_seconds: Seconds = 2.0
    silence_seconds: Seconds = 10.0
    """A peer that sends nothing for so long is taken for lost."""
    idle_seconds: Seconds = 300.0
    """Streams without a transfer are kept warm for so long."""
    checksum_retries: Annotated[int, Field(ge=0, le=1000)] = 8


class LimitsSection(_Section):
    """Bounds on what others can make the sidecar remember."""

    pending_opens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    pending_seconds: Seconds = 60.0
    """Longest that a consumer's OPEN waits for the producing engine."""
    remembered_calls_seconds: Seconds = 60.0
    remembered_transfers: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    """Ended transfers whose outcome can still be asked for, and whose ids are refused."""
    prefill_body_bytes: Annotated[SizeBytes, Field(ge=1024)] = 64 << 20
    prefill_seconds: Seconds = 600.0


class KvEventsSection(_Section):
    """What the engine publishes of its KV cache, for gateways."""

    enabled: bool = True
    """Whether to listen where the engine publishes (`--kv-events-config`)."""
    max_blocks: Annotated[int, Field(ge=64, le=MAX_HASHES)] = 200_000
    """Remembered; some 240 bytes each. Of an engine that holds more, the oldest are forgotten."""
    bytes_per_second: Annotated[SizeBytes, Field(ge=64 << 10)] = 4 << 20
    """What gateways are told of them, in all."""
    readers: Annotated[int, Field(ge=1, le=4096)] = 64
    """Calls of gateways that wait for news at the same time."""


class Config(_Section):
    """The whole file."""

    engine: EngineSection
    arena_bytes: Annotated[SizeBytes, Field(ge=1 << 20)]
    arena_preallocate: bool = False
    """Take the memory at start instead of at first use."""
    arena_charged_to: Literal["sidecar", "engine"] = "sidecar"
    """Whose memory limit holds the arena, which is whose process touches its pages first: the engine's on the
    producing side, if it has a container of its own. Then the limit of the sidecar's need not hold it."""
    listen: ListenSection = ListenSection()
    tls: TlsSection | None = None
    insecure_plaintext_peers: bool = False
    """Speaks the peer protocol without TLS: anybody on the path can read and change KV. Needs
    ``identity``."""
    identity: Annotated[str, AfterValidator(_identity)] | None = None
    """Own identity; read from the certificate unless peers are plaintext."""
    peers: PeersSection = PeersSection()
    gateways: list[IdentityPattern] = []
    peers_file: Path | None = None
    """Takes the place of ``peers`` and ``gateways``: a file with ``accept``, ``dial``, ``gateways``
    and ``regions``, read again when it changes."""
    link: LinkSection = LinkSection()
    limits: LimitsSection = LimitsSection()
    kv_events: KvEventsSection = KvEventsSection()
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    drain_token: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{16,128}$")] | None = None
    """Whoever calls ``/drain`` has to know it; without it only the pod itself may call."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _coherent(self) -> Config:
        if self.peers_file is not None and {"peers", "gateways"} & self.model_fields_set:
            raise ValueError("peers_file takes the place of peers and gateways; remove them, or peers_file")
        if self.arena_preallocate and self.arena_charged_to == "engine":
            raise ValueError("arena_preallocate charges the arena to the sidecar; remove arena_charged_to")
        if self.tls is None and not self.insecure_plaintext_peers:
            raise ValueError("tls is needed (certificate, key, ca), unless insecure_plaintext_peers is true")
        if self.tls is None and self.listen.control is not None:
            raise ValueError("the control listener needs tls; set listen.control to null to run without it")
        if self.insecure_plaintext_peers and self.identity is None:
            raise ValueError("insecure_plaintext_peers needs identity, since no certificate tells it")
        if not self.insecure_plaintext_peers and self.identity is not None:
            raise ValueError("identity is read from the certificate; remove it")
        if self.link.silence_seconds < 2 * self.link.ping_seconds:
            raise ValueError("link.silence_seconds must be at least twice link.ping_seconds")
        return self


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, or a field is unknown, missing or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return parse_text(text, str(path))


def load_environment(variable: str, environment: Mapping[str, str] = os.environ) -> Config:
    """The same for the text of an environment variable.

    Raises:
        ConfigError: the variable is not set, or a field is unknown, missing or wrong.
    """
    text = environment.get(variable)
    if text is None or not text.strip():
        raise ConfigError(
            f"environment variable {variable}: it is not set; it holds the configuration (YAML)"
        )
    return parse_text(text, f"environment variable {variable}")


def parse_text(text: str, source: str) -> Config:
    """Check a configuration; ``source`` is where it comes from, for the error.

    Raises:
        ConfigError: it is not YAML, or a field is unknown, missing or wrong.
    """
    try:
        return Config.model_validate(mapping(text, source))
    except ValidationError as error:
        raise ConfigError(f"{source} is not a usable configuration:\n" + wrong_fields(error)) from None


def mapping(text: str, source: str) -> dict[Any, Any]:
    """The fields of a YAML text.

    Raises:
        ConfigError: it has none.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own text quotes the line, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"{source} is not YAML: {problem}{where}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # A value that only looks like a date or a number, or is tagged as one, or thousands of brackets.
        raise ConfigError(
            f"{source} is not YAML: a value in it cannot be read ({type(error).__name__})"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: it must hold a mapping of fields")
    return content


def wrong_fields(error: ValidationError) -> str:
    """A line for each field, with what is wrong; shows no values."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"]) or "the whole"
        lines.append(f"  {where}: {item['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _address_matches(pattern: str, host: str, port: int) -> bool:
    wanted_host, wanted_port = split_address(pattern)
    if wanted_port not in ("*", str(port)):
        return False
    try:
        network = ipaddress.ip_network(wanted_host, strict=False)
    except ValueError:
        name = host.lower().rstrip(".")
        if wanted_host.startswith("*."):
            return name.endswith(wanted_host[1:].lower())
        return name == wanted_host.lower()
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False


__all__ = ["Config", "ConfigError", "IdentityError", "load", "load_environment", "split_address"]
