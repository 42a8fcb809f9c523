"""A cluster's API server in memory, with as much as a mirror asks of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from prfaas.kube import errors
from prfaas.kube.api import Page, WatchEvent
from prfaas.kube.resources import Object, Resource

Place = tuple[str, str | None, str]


class MemoryApi:
    """Objects by kind, namespace and name. Selectors are ignored: everything in here is the mirror's.

    Args:
        changed: told after every write.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._version = itertools.count(1)
        self._uids = itertools.count(1)
        self.objects: dict[Place, Object] = {}
        self._watchers: dict[str, list[asyncio.Queue[WatchEvent]]] = {}

    def server_now(self) -> datetime:
        return datetime.now(UTC)

    async def get(self, resource: Resource, namespace: str | None, name: str, **_: Any) -> Object:
        try:
            return self.objects[resource.kind, namespace, name]
        except KeyError:
            raise errors.NotFound(f"get {resource} {name}", status=404) from None

    async def pages(self, resource: Resource, namespace: str | None = None, **_: Any) -> AsyncIterator[Page]:
        found = [body for (kind, _, _), body in self.objects.items() if kind == resource.kind]
        yield Page(found, str(next(self._version)), None)

    async def list(self, resource: Resource, namespace: str | None = None, **_: Any) -> list[Object]:
        return [body for page in [each async for each in self.pages(resource)] for body in page.objects]

    @asynccontextmanager
    async def watch(
        self, resource: Resource, namespace: str | None = None, **_: Any
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        watchers = self._watchers.setdefault(resource.kind, [])
        watchers.append(queue)

        async def events() -> AsyncIterator[WatchEvent]:
            while True:
                yield await queue.get()

        try:
            yield events()
        finally:
            watchers.remove(queue)

    async def apply(self, resource: Resource, body: Object, *, dry_run: bool = False, **_: Any) -> Object:
        about = body["metadata"]
        place = (resource.kind, about.get("namespace"), about["name"])
        before = self.objects.get(place)
        old = before["metadata"] if before is not None else {}
        changed = before is None or before.get("spec") != body.get("spec")
        metadata = {
            **old,
            **about,
            "uid": old.get("uid") or f"uid-{next(self._uids)}",
            "generation": int(old.get("generation") or 0) + changed,
        }
        if dry_run:
            return {**body, "metadata": {**about, **old}}
        metadata["resourceVersion"] = str(next(self._version))
        after = {
            **(before or {}),
            **body,
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
        }
        self.objects[place] = after
        self._tell(resource.kind, "ADDED" if before is None else "MODIFIED", after)
        return after

    async def delete(self, resource: Resource, namespace: str | None, name: str, **_: Any) -> None:
        gone = self.objects.pop((resource.kind, namespace, name), None)
        if gone is None:
            raise errors.NotFound(f"delete {resource} {name}", status=404)
        self._tell(resource.kind, "DELETED", gone)

    def _tell(self, kind: str, what: str, body: Object) -> None:
        for queue in self._watchers.get(kind, ()):
            queue.put_nowait(WatchEvent(what, body))
        self._changed()
