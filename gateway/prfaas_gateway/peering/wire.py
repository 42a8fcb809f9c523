"""The documents of the exchange: one JSON object a line, each way.

Readers ignore keys and types that they do not know. Of what they know, a value of another kind than agreed
spoils the entry that it is in, and nothing else: the peer may be newer, older, broken or hostile.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL

VERSION = 1
MAX_LINE_BYTES = 1 << 20
MAX_REPORT_BYTES = 64 << 10
MAX_LINKS = 256
_MAX_COUNT = 1 << 53
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")


class BadDocumentError(ValueError):
    """A line that is no document of the exchange; the text names the field, never its content."""


@dataclass(frozen=True, slots=True)
class PeerPod:
    """A prefill pod as its region's gateways tell it.

    Attributes:
        kv_address, kv_server_name: what a decode sidecar dials for its KV, and the TLS server name for that.
        queued_tokens: prompt tokens that wait or are being computed there, as far as its gateway knows.
        incarnation: another value means that the engine has lost its KV.
    """

    uid: str
    namespace: str
    name: str
    pool: str
    kind: str
    fingerprint: str | None
    block_tokens: int | None
    max_model_tokens: int | None
    kv_address: str
    kv_server_name: str
    ready: bool
    draining: bool
    queued_requests: int
    running_requests: int
    queued_tokens: int
    incarnation: str

    @property
    def takes_requests(self) -> bool:
        """Whether its region says that new requests may go there."""
        return self.ready and not self.draining

    @property
    def pool_name(self) -> str:
        """Namespace and name of its pool."""
        return f"{self.namespace}/{self.pool}"


LOAD_FIELDS = ("queued_requests", "running_requests", "queued_tokens")
POD_FIELDS = tuple(field.name for field in fields(PeerPod))
_all_but_load = attrgetter(*(name for name in POD_FIELDS if name not in LOAD_FIELDS))
_OPTIONAL: dict[str, Any] = {
    "name": "",
    "block_tokens": None,
    "max_model_tokens": None,
    "fingerprint": None,
    "kv_server_name": "",
    "queued_requests": 0,
    "running_requests": 0,
    "queued_tokens": 0,
    "incarnation": "",
}


@dataclass(frozen=True, slots=True)
class LinkState:
    """A directed link, as the decode sidecars of its destination measured it together.

    Attributes:
        received_bytes: since those sidecars started.
        goodput_bits_per_second: of busy time; None while nothing was measured, as are round trip and
            retransmits.
    """

    source: str
    destination: str
    received_bytes: int = 0
    busy_seconds: float = 0.0
    goodput_bits_per_second: float | None = None
    rtt_seconds: float | None = None
    retransmits_percent: float | None = None
    streams: int = 0


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks, in which version, and what time it is there (seconds since 1970)."""

    version: int
    region: str
    cluster: str
    now: float


@dataclass(frozen=True, slots=True)
class PodPatch:
    """A pod's fields, or those that have changed."""

    uid: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods that are new or changed, and those that are gone.

    Attributes:
        full: what was told before counts no more.
        more: the rest of all pods follows in later documents; until then what was known stays.
        unreadable: entries that could not be used.
    """

    full: bool
    more: bool
    pods: tuple[PodPatch, ...]
    gone: tuple[str, ...]
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Links:
    """All links that end in the speaker's region."""

    links: tuple[LinkState, ...]
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The cluster's report, as in its Region's status."""

    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life, with the time there."""

    now: float


Document = Hello | Pods | Links | Report | Beat


def line_of(document: Mapping[str, Any]) -> bytes:
    """A document as a line."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def pod_fields(pod: PeerPod) -> dict[str, Any]:
    """All fields of a pod."""
    return {name: getattr(pod, name) for name in POD_FIELDS}


def changed_fields(before: PeerPod, now: PeerPod) -> dict[str, Any]:
    """The uid and what differs."""
    return {"uid": now.uid} | {
        name: getattr(now, name) for name in POD_FIELDS if getattr(now, name) != getattr(before, name)
    }


def differ_in_load_only(before: PeerPod, now: PeerPod) -> bool:
    """Whether all else is the same."""
    return bool(_all_but_load(before) == _all_but_load(now))


def link_fields(link: LinkState) -> dict[str, Any]:
    """All fields of a link."""
    return {field.name: getattr(link, field.name) for field in fields(LinkState)}


def pod_of(told: Mapping[str, Any]) -> PeerPod | None:
    """A pod from fields that were read; None while too many are missing."""
    try:
        return PeerPod(**{**_OPTIONAL, **told})
    except TypeError:
        return None


def read_line(line: bytes) -> Document | None:
    """A document; None for a type that a newer peer may know.

    Raises:
        BadDocumentError: it is none.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadDocumentError("no JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise BadDocumentError("type")
    reader = _READERS.get(document["type"])
    return None if reader is None else reader(document)


def read_pods(entries: Iterable[Any]) -> tuple[tuple[PodPatch, ...], int]:
    """Pods from JSON, and how many could not be read."""
    read, unreadable = [], 0
    for entry in entries:
        patch = _read_pod(entry)
        if patch is None:
            unreadable += 1
        else:
            read.append(patch)
    return tuple(read), unreadable


def read_links(entries: Iterable[Any]) -> tuple[tuple[LinkState, ...], int]:
    """Links from JSON, and how many could not be read."""
    read, unreadable = [], 0
    for entry in entries:
        link = _read_link(entry)
        if link is None:
            unreadable += 1
        else:
            read.append(link)
    return tuple(read[:MAX_LINKS]), unreadable


def _hello(document: dict[str, Any]) -> Hello:
    version, region = document.get("version"), document.get("region")
    if type(version) is not int or version < 1:
        raise BadDocumentError("version")
    if not _is_name(region):
        raise BadDocumentError("region")
    cluster = document.get("cluster")
    return Hello(version, str(region), str(cluster) if _is_name(cluster) else "", _now(document))


def _pods(document: dict[str, Any]) -> Pods:
    entries, gone = document.get("pods", []), document.get("gone", [])
    if not isinstance(entries, list):
        raise BadDocumentError("pods")
    if not isinstance(gone, list):
        raise BadDocumentError("gone")
    read, unreadable = read_pods(entries)
    return Pods(
        full=document.get("full") is True,
        more=document.get("more") is True,
        pods=read,
        gone=tuple(uid for uid in gone if isinstance(uid, str)),
        unreadable=unreadable,
    )


def _links(document: dict[str, Any]) -> Links:
    entries = document.get("links")
    if not isinstance(entries, list):
        raise BadDocumentError("links")
    return Links(*read_links(entries))


def _report(document: dict[str, Any]) -> Report:
    report = document.get("report")
    if not isinstance(report, dict):
        raise BadDocumentError("report")
    if len(json.dumps(report)) > MAX_REPORT_BYTES:
        raise BadDocumentError(f"report: over {MAX_REPORT_BYTES} bytes")
    return Report(report)


def _beat(document: dict[str, Any]) -> Beat:
    return Beat(_now(document))


_READERS: dict[str, Callable[[dict[str, Any]], Document]] = {
    "hello": _hello,
    "pods": _pods,
    "links": _links,
    "report": _report,
    "beat": _beat,
}


def _now(document: dict[str, Any]) -> float:
    now = document.get("now")
    if not _is_measure(now):
        raise BadDocumentError("now")
    return float(now)  # type: ignore[arg-type]


def _read_pod(entry: Any) -> PodPatch | None:
    if not isinstance(entry, dict) or not _is_name(entry.get("uid")):
        return None
    told = {name: entry[name] for name in POD_FIELDS if name in entry}
    if not all(_POD_CHECKS[name](value) for name, value in told.items()):
        return None
    return PodPatch(entry["uid"], told)


def _read_link(entry: Any) -> LinkState | None:
    if (
        not isinstance(entry, dict)
        or not _is_name(entry.get("source"))
        or not _is_name(entry.get("destination"))
    ):
        return None
    told = {name: entry[name] for name in _LINK_CHECKS if name in entry}
    if not all(_LINK_CHECKS[name](value) for name, value in told.items()):
        return None
    return LinkState(entry["source"], entry["destination"], **told)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_measure(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _MAX_COUNT and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_address(value: Any) -> bool:
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    return found is not None and 1 <= int(found[3]) <= 65_535


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_POD_CHECKS: dict[str, Callable[[Any], bool]] = {
    "uid": _is_name,
    "namespace": _is_name,
    "name": _is_name,
    "pool": _is_name,
    "kind": lambda value: value in (PREFILL_POOL, DECODE_POOL),
    "fingerprint": _or_none(lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None),
    "block_tokens": _or_none(_is_count),
    "max_model_tokens": _or_none(_is_count),
    "kv_address": _is_address,
    "kv_server_name": lambda value: isinstance(value, str) and _SERVER_NAME.fullmatch(value) is not None,
    "ready": _is_bool,
    "draining": _is_bool,
    "queued_requests": _is_count,
    "running_requests": _is_count,
    "queued_tokens": _is_count,
    "incarnation": lambda value: isinstance(value, str) and len(value) <= 64,
}
_LINK_CHECKS: dict[str, Callable[[Any], bool]] = {
    "received_bytes": _is_count,
    "busy_seconds": _is_measure,
    "goodput_bits_per_second": _or_none(_is_measure),
    "rtt_seconds": _or_none(_is_measure),
    "retransmits_percent": _or_none(_is_measure),
    "streams": _is_count,
}
