"""What a client of the Kubernetes API can do. Code takes a `KubeApi`, so that a test may give it another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from prfaas.kube.resources import Object, Resource

# A page is in memory as a whole, at ten times the size of its JSON, and a Deployment's is some 15 KB.
PAGE_OBJECTS = 50
CALL_SECONDS = 15.0


class Propagation(StrEnum):
    """What becomes of what an object owns when it is deleted."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: its objects, the list's resource version, and how to get the next part."""

    objects: list[Object]
    resource_version: str
    continues: str | None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch. `kind` is ADDED, MODIFIED, DELETED or BOOKMARK; errors are raised instead."""

    kind: str
    object: Object


@dataclass(frozen=True, slots=True)
class Call:
    """One call that writes, as a guard sees it. `verb` is RBAC's word for it."""

    verb: str
    resource: Resource
    namespace: str | None
    name: str | None
    subresource: str = ""
    dry_run: bool = False


class WriteGuard(Protocol):
    """Asked before and told after every attempt to write."""

    async def before(self, call: Call) -> float:
        """How many seconds the attempt may take at most. Raises to forbid it."""

    async def after(self, call: Call, error: BaseException | None) -> None:
        """The attempt ended; `error` is None when the server said that it is done."""


class KubeApi(Protocol):
    """Verbs on plain dictionaries. Each ends within its deadline and raises only `errors.KubeError`.

    Reads are tried again within the deadline when the error is retryable; writes only when the server
    certainly did nothing (429). What a caller gives is not changed.
    """

    def server_now(self) -> datetime:
        """The time as the server's last answer told it; this machine's clock may be hours off."""

    async def version(self, *, deadline_seconds: float = CALL_SECONDS) -> Object:
        """`/version`: gitVersion, major, minor."""

    async def get(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        metadata_only: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object: ...

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        any_version: bool = False,
        page_objects: int = PAGE_OBJECTS,
        deadline_seconds: float = CALL_SECONDS,
    ) -> AsyncIterator[Page]:
        """The list in parts. The deadline is for each part.

        Args:
            namespace: None for all namespaces.
            any_version: take what the server has in its cache, which may lag; cheaper, and in one part.

        Raises:
            Gone: the list took so long that its continuation expired.
        """

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> list[Object]: ...

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        server_seconds: int = 290,
        silent_seconds: float = 70.0,
        connect_seconds: float = CALL_SECONDS,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Changes after that version, with bookmarks. It ends when the server ends it, which is normal.

        Raises:
            Gone: the version is too old.
            DeadlineExceeded: nothing came for `silent_seconds`, though bookmarks are due every 60.
        """

    async def create(
        self,
        resource: Resource,
        body: Object,
        *,
        dry_run: bool = False,
        subresource_of: str = "",
        subresource: str = "",
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        """Make an object, or with `subresource` something of the object `subresource_of`, such as a token."""

    async def replace(
        self, resource: Resource, body: Object, *, deadline_seconds: float = CALL_SECONDS
    ) -> Object:
        """Put the whole object; with `metadata.resourceVersion` only if it has not changed since."""

    async def apply(
        self,
        resource: Resource,
        body: Object,
        *,
        field_manager: str,
        force: bool = False,
        dry_run: bool = False,
        strict: bool = False,
        subresource: str = "",
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        """Server-side apply. A `metadata.resourceVersion` in the body is one that must still hold.

        Args:
            strict: refuse fields that the server does not know instead of dropping them.

        Raises:
            Conflict: another manager owns a field and `force` is not set, or the version differs.
        """

    async def apply_status(
        self,
        resource: Resource,
        body: Object,
        *,
        field_manager: str,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        """Server-side apply of `/status`, with force: a status has one author."""

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: Object,
        *,
        field_manager: str,
        subresource: str = "",
        dry_run: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        """JSON merge patch: null removes a field."""

    async def get_scale(
        self, resource: Resource, namespace: str, name: str, *, deadline_seconds: float = CALL_SECONDS
    ) -> Object: ...

    async def scale(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        replicas: int,
        *,
        field_manager: str,
        resource_version: str | None = None,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        """Set the replicas through `/scale`."""

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        propagation: Propagation = Propagation.BACKGROUND,
        uid: str | None = None,
        resource_version: str | None = None,
        dry_run: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> None:
        """Delete the object.

        Raises:
            NotFound: it is not there.
            Conflict: `uid` or `resource_version` is not that of the object.
        """

    async def read_text(
        self, path: str, *, query: Mapping[str, str] | None = None, deadline_seconds: float = CALL_SECONDS
    ) -> str:
        """GET of any path, for health and logs."""

    async def close(self) -> None: ...
