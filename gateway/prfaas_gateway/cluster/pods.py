"""What the gateway needs to know of a pod, and no more: thousands are kept in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from prfaas.api.keys import ANNOTATION_DRAIN_SINCE, LABEL_POOL, LABEL_POOL_KIND

_ADDED = frozenset({"host_ip"})
"""Fields that what an earlier version left on the disk lacks."""
_ENDED = frozenset({"Failed", "Succeeded"})


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a pool.

    Attributes:
        kind: of its pool: `DecodePool` or `PrefillPool`.
        ip: empty while it has none, and when it has ended.
        draining: the operator has marked it.
        restarts: of its containers, sidecars not counted; an engine that has restarted holds no KV.
        host_ip: of its node; empty while it has none, and when an earlier version wrote it to the disk.
    """

    uid: str
    namespace: str
    name: str
    pool: str
    kind: str
    ip: str
    ready: bool
    deleting: bool
    draining: bool
    restarts: int
    host_ip: str = ""

    @property
    def full_name(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"

    @property
    def pool_name(self) -> str:
        """Namespace and name of its pool."""
        return f"{self.namespace}/{self.pool}"

    @property
    def takes_requests(self) -> bool:
        """Whether the API server says that new requests may go there."""
        return self.ready and not self.deleting and not self.draining

    def to_document(self) -> dict[str, Any]:
        """For the disk."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: object) -> Pod:
        """From the disk.

        Raises:
            ValueError: not what `to_document` wrote.
        """
        types = {"ready": bool, "deleting": bool, "draining": bool, "restarts": int}
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or not names - _ADDED <= document.keys() <= names:
            raise ValueError("not a pod")
        if not all(type(value) is types.get(name, str) for name, value in document.items()):
            raise ValueError("not a pod")
        return cls(**document)


def slim_pod(found: Mapping[str, Any]) -> Pod:
    """The facts of a pod as the API server gives it."""
    metadata: Mapping[str, Any] = found.get("metadata") or {}
    status: Mapping[str, Any] = found.get("status") or {}
    labels: Mapping[str, str] = metadata.get("labels") or {}
    conditions = {entry.get("type"): entry.get("status") for entry in status.get("conditions") or ()}
    ended = status.get("phase") in _ENDED
    return Pod(
        uid=metadata.get("uid") or "",
        namespace=metadata.get("namespace") or "",
        name=metadata.get("name") or "",
        pool=labels.get(LABEL_POOL, ""),
        kind=labels.get(LABEL_POOL_KIND, ""),
        ip="" if ended else status.get("podIP") or "",
        host_ip="" if ended else status.get("hostIP") or "",
        ready=not ended and conditions.get("Ready") == "True",
        deleting=metadata.get("deletionTimestamp") is not None,
        draining=ANNOTATION_DRAIN_SINCE in (metadata.get("annotations") or {}),
        restarts=sum(entry.get("restartCount", 0) for entry in status.get("containerStatuses") or ()),
    )
