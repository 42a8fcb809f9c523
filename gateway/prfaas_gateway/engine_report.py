"""What a sidecar tells of the engine beside it (`GET /v1/engine`, docs/control-plane.md)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

MODEL_FILE_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)
MAX_MODEL_FILE_BYTES = 64 << 20
_MAX_NAMES = 64
_MAX_FIELDS = 64
_MAX_FIELD_CHARACTERS = 128
_MAX_LINKS = 256
_MAX_NUMBER = float(1 << 60)
_LINK_NUMBERS = (
    "received_bytes",
    "busy_seconds",
    "goodput_bits_per_second",
    "rtt_seconds",
    "retransmits_percent",
    "streams",
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class ModelFile:
    """One of the files that the engine tokenises with."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What a decode sidecar measured of the KV that came from one region (docs/federation.md, Link state)."""

    region: str
    received_bytes: int = 0
    busy_seconds: float = 0.0
    goodput_bits_per_second: float | None = None
    rtt_seconds: float | None = None
    retransmits_percent: float | None = None
    streams: int = 0


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine's own words, as far as the gateway needs them. What it has not said is None or empty.

    Attributes:
        fingerprint: engines with equal ones can exchange KV.
        fingerprint_fields: what it is made of, for people who wonder why two differ; sorted by name.
        model_files: sorted by name.
        model_files_error: why some are missing, or empty.
        incarnation: one run of the engine.
        queued_requests, running_requests, queued_tokens: of the engine, where its sidecar tells.
        links: by region from which KV came.
    """

    engine_connected: bool = False
    draining: bool = False
    fingerprint: str | None = None
    fingerprint_fields: tuple[tuple[str, str], ...] = ()
    block_tokens: int | None = None
    max_model_tokens: int | None = None
    served_models: tuple[str, ...] = ()
    model_files: tuple[ModelFile, ...] = ()
    model_files_error: str = ""
    incarnation: str | None = None
    # What changes all the time makes no other report: the fleet is brought to one only when it is another.
    queued_requests: int | None = field(default=None, compare=False)
    running_requests: int | None = field(default=None, compare=False)
    queued_tokens: int | None = field(default=None, compare=False)
    links: tuple[LinkCounters, ...] = field(default=(), compare=False)

    @property
    def files_digest(self) -> str:
        """One name for exactly these files; empty without any."""
        return _digest_of(self.model_files)


@lru_cache(maxsize=256)
def _digest_of(files: tuple[ModelFile, ...]) -> str:
    # Asked for every pod at every change in the fleet, and nearly all have the same files.
    if not files:
        return ""
    listed = "".join(f"{file.name} {file.size_bytes} {file.sha256}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def read_report(answer: bytes) -> EngineReport:
    """A report from its JSON. Unknown keys and files are ignored: the sidecar may be newer.

    Raises:
        ValueError: it is not what the contract says; the text names the field, never its content.
    """
    fields = json.loads(answer)
    if not isinstance(fields, dict) or fields.get("version") != 1:
        raise ValueError("not a report of version 1")
    fingerprint = fields.get("fingerprint")
    if fingerprint is not None and not (isinstance(fingerprint, str) and _SHA256.fullmatch(fingerprint)):
        raise ValueError("fingerprint")
    connected = fields.get("engine_connected") is True
    return EngineReport(
        engine_connected=connected,
        draining=fields.get("draining") is True,
        # Of an engine that has gone; its successor may be another one.
        fingerprint=fingerprint if connected else None,
        fingerprint_fields=_named_texts(fields.get("fingerprint_fields")) if connected else (),
        block_tokens=_count(fields, "block_tokens"),
        max_model_tokens=_count(fields, "max_model_tokens"),
        served_models=_names(fields.get("served_models")),
        model_files=_files(fields.get("model_files")),
        model_files_error=str(fields.get("model_files_error") or "")[:500],
        incarnation=_text(fields.get("incarnation")),
        queued_requests=_load(fields.get("queued_requests")),
        running_requests=_load(fields.get("running_requests")),
        queued_tokens=_load(fields.get("queued_tokens")),
        links=_links(fields.get("links")),
    )


def _count(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ValueError(name)
    return value


def _text(value: Any) -> str | None:
    return value[:_MAX_FIELD_CHARACTERS] if isinstance(value, str) and value else None


def _load(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _links(value: Any) -> tuple[LinkCounters, ...]:
    """What cannot be read of a link is left out: numbers for a picture are no reason to lose an engine."""
    links = []
    for entry in value[:_MAX_LINKS] if isinstance(value, list) else ():
        if not isinstance(entry, dict) or not _text(entry.get("region")):
            continue
        numbers: dict[str, Any] = {
            name: entry[name]
            for name in _LINK_NUMBERS
            if type(entry.get(name)) in (int, float) and 0 <= entry[name] < _MAX_NUMBER
        }
        whole: dict[str, Any] = {
            name: int(numbers[name]) for name in ("received_bytes", "streams") if name in numbers
        }
        links.append(LinkCounters(entry["region"][:_MAX_FIELD_CHARACTERS], **{**numbers, **whole}))
    return tuple(links)


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and len(name) <= 253 for name in value):
        raise ValueError("served_models")
    return tuple(value[:_MAX_NAMES])


def _named_texts(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        return ()
    told = sorted((name, text) for name, text in value.items() if isinstance(text, str))
    return tuple((name[:_MAX_FIELD_CHARACTERS], text[:_MAX_FIELD_CHARACTERS]) for name, text in told)[
        :_MAX_FIELDS
    ]


def _files(value: Any) -> tuple[ModelFile, ...]:
    if not isinstance(value, list):
        return ()
    files = {}
    for entry in value:
        if not isinstance(entry, dict):
            raise ValueError("model_files")  # noqa: TRY004  content, not an argument
        name, size, digest = entry.get("name"), entry.get("bytes"), entry.get("sha256")
        if name not in MODEL_FILE_NAMES:
            continue
        if type(size) is not int or not 0 <= size <= MAX_MODEL_FILE_BYTES:
            raise ValueError("model_files.bytes")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError("model_files.sha256")
        files[name] = ModelFile(name, size, digest)
    return tuple(sorted(files.values()))
