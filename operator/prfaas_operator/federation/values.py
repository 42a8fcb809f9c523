"""What was observed of a hub and of the own cluster, and what is to be done about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prfaas.api.conditions import Reason

Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """An object of one of the six kinds. `namespace` is "" for Regions and KVLinks."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class HubObject:
    """An object as the hub has it."""

    key: ObjectKey
    generation: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class LocalObject:
    """An object of the own cluster that bears the mirror's label."""

    key: ObjectKey
    uid: str
    generation: int
    mirrored_from: str
    spec: Spec

    @property
    def hub_uid(self) -> str:
        """UID of the hub that it came from."""
        return self.mirrored_from.partition("/")[0]


@dataclass(frozen=True, slots=True)
class HubPicture:
    """The hub, all kinds of it listed.

    Attributes:
        uid: of its namespace kube-system, asked for after the lists were complete.
    """

    uid: str
    objects: tuple[HubObject, ...]


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """What this cluster lets a hub do.

    Attributes:
        allowed_namespaces: into which anything may be written.
        allowed_service_accounts: that pods may use, as `name` or `namespace/name`; `default` always.
        allowed_host_paths: folders of nodes that pods may mount read-only, with what is below them.
        kept_seconds: how long an object has to be gone in the hub before it is deleted here, so that what
            goes at once is seen at once.
        retry_seconds: after which a refusal of this cluster's API server is put to the test again.
    """

    cluster: str
    region: str
    allowed_namespaces: frozenset[str] = frozenset()
    allowed_service_accounts: frozenset[str] = frozenset()
    allowed_host_paths: tuple[str, ...] = ()
    kept_seconds: float = 3.0
    retry_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that the hub wants here and that is not carried out."""

    key: ObjectKey
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of applying an object.

    Attributes:
        digest: of what was applied.
        at: monotonic seconds.
        generation: that the object had afterwards; None when it was refused, or kept as it was.
        refused: why not.
    """

    digest: str
    at: float
    generation: int | None = None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class MirrorMemory:
    """What the mirror knows from before.

    Attributes:
        pinned_uid: the hub's, from the first contact; "" before it.
        accepted_uid: of the hub whose deletes somebody has accepted lately.
        gone_since: monotonic seconds at which each object was first seen to be gone.
        removed: those that were deleted here, with the moment, as long as they count as gone at once.
        frozen: by the pass before.
    """

    pinned_uid: str = ""
    accepted_uid: str = ""
    gone_since: Mapping[ObjectKey, float] = field(default_factory=dict)
    removed: Mapping[ObjectKey, float] = field(default_factory=dict)
    attempts: Mapping[ObjectKey, Attempt] = field(default_factory=dict)
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """Write an object. `uid` is that of the one that is there, None when none of the mirror's is."""

    key: ObjectKey
    body: Mapping[str, Any]
    digest: str
    uid: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an object that the mirror made."""

    key: ObjectKey
    uid: str
    why: str


def digest_of(body: Mapping[str, Any]) -> str:
    """The same for the same content."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def covers(stored: Any, wanted: Any) -> bool:
    """Whether what is stored has all that is wanted; defaults of the server may have come to it."""
    if isinstance(wanted, Mapping):
        return isinstance(stored, Mapping) and all(
            key in stored and covers(stored[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(stored, list | tuple)
            and len(stored) == len(wanted)
            and all(covers(one, other) for one, other in zip(stored, wanted, strict=True))
        )
    return bool(stored == wanted)
