"""Writes in the API server's audit log: who wrote what, when the server had carried it out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

LEASES = "leases.coordination.k8s.io"


@dataclass(frozen=True, slots=True)
class Write:
    """One write.

    Attributes:
        resource: such as `deployments.apps` or `prefillpools.prfaas.io/status`.
        created: whether an object came into being.
        at: when the server had answered, in seconds since the epoch.
    """

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    created: bool
    dry_run: bool
    at: float


class AuditLog:
    """Reads on where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.writes: list[Write] = []

    def read(self) -> Sequence[Write]:
        """All writes so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + bool(whole)
            self.writes += parse(whole.decode().splitlines())
        return self.writes

    def skip(self) -> None:
        """Forget what was written so far."""
        self.read()
        self.writes.clear()


def parse(lines: Iterable[str]) -> list[Write]:
    """Writes that were answered, in the log's order."""
    found = []
    for line in lines:
        event = json.loads(line)
        if event["stage"] != "ResponseComplete" or "objectRef" not in event:
            continue
        about = event["objectRef"]
        resource = ".".join(part for part in (about["resource"], about.get("apiGroup", "")) if part)
        if about.get("subresource"):
            resource += f"/{about['subresource']}"
        code = event["responseStatus"]["code"]
        found.append(
            Write(
                user=event["user"]["username"],
                verb=event["verb"],
                resource=resource,
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=code,
                created=code == 201,
                dry_run="dryRun=" in event["requestURI"],
                at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
            )
        )
    return found


def real_writes(writes: Iterable[Write], user: str) -> list[Write]:
    """What a user changed or tried to change. Leases and dry runs are left out."""
    return [each for each in writes if each.user == user and not each.dry_run and each.resource != LEASES]


def created_at(writes: Iterable[Write], namespace: str, pool: str, resources: Sequence[str]) -> float | None:
    """When the last of the pool's children came into being, one of each resource; None until all have."""
    times = {
        each.resource: each.at
        for each in writes
        if each.created
        and not each.dry_run
        and each.namespace == namespace
        and each.resource in resources
        and (each.name == pool or each.name.startswith(f"{pool}-"))
    }
    return max(times.values()) if len(times) == len(resources) else None
