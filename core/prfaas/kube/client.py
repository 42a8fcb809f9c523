"""`KubeApi` over HTTP.

The verbs are written here because the official client's generated methods know neither server-side apply on
any kind nor lists without models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Self

import aiohttp

from prfaas.kube.api import CALL_SECONDS, PAGE_OBJECTS, Call, Page, Propagation, WatchEvent, WriteGuard
from prfaas.kube.connect import Credentials, configuration_loader, credentials_of
from prfaas.kube.resources import Object, Resource
from prfaas.kube.transport import CONNECT_SECONDS, JSON, Request, Transport
from prfaas.kube.watch import watching

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class KubeClient:
    """One API server, for the process's life. Made by `connect`; close it, or use it as a context manager."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    async def credentials(self) -> Credentials:
        """Address and credentials as they are now, for another client of the same server."""
        return await credentials_of((await self._transport.open()).configuration)

    def server_now(self) -> datetime:
        return self._transport.server_now()

    # --- reading

    async def version(self, *, deadline_seconds: float = CALL_SECONDS) -> Object:
        return await self._transport.json(Request("GET", "/version", "get version"), deadline_seconds)

    async def read_text(
        self, path: str, *, query: Mapping[str, str] | None = None, deadline_seconds: float = CALL_SECONDS
    ) -> str:
        request = Request("GET", path, f"get {path}", dict(query or {}), "*/*")
        body = await self._transport.read(request, deadline_seconds)
        return body.decode(errors="replace")

    async def get(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        metadata_only: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        path, doing = resource.path(namespace, name), _doing("get", resource, namespace, name)
        accept = METADATA if metadata_only else JSON
        return await self._transport.json(Request("GET", path, doing, accept=accept), deadline_seconds)

    async def pages(
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
        query = _selectors(label_selector, field_selector)
        accept = METADATA_LIST if metadata_only else JSON
        if any_version:
            query["resourceVersion"] = "0"
        else:
            query["limit"] = str(page_objects)
        while True:
            request = Request(
                "GET", resource.path(namespace), _doing("list", resource, namespace), dict(query), accept
            )
            answer = await self._transport.json(request, deadline_seconds)
            about = answer.get("metadata") or {}
            items: list[Object] = answer.get("items") or []
            for item in items:
                # Items of a list carry neither; code that gets an object may rely on both.
                item["apiVersion"], item["kind"] = resource.api_version, resource.kind
            continues = about.get("continue") or None
            yield Page(items, str(about.get("resourceVersion", "")), continues)
            if continues is None:
                return
            query["continue"] = continues

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        deadline_seconds: float = CALL_SECONDS,
    ) -> list[Object]:
        found: list[Object] = []
        async for page in self.pages(
            resource,
            namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            metadata_only=metadata_only,
            deadline_seconds=deadline_seconds,
        ):
            found += page.objects
        return found

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
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(server_seconds),
        }
        doing = _doing("watch", resource, namespace)
        request = Request("GET", resource.path(namespace), doing, query)
        # How long it may be silent is watched over where it is read.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        return watching(
            lambda: self._transport.send(request, limits),
            doing=doing,
            silent_seconds=silent_seconds,
            connect_seconds=connect_seconds,
        )

    async def get_scale(
        self, resource: Resource, namespace: str, name: str, *, deadline_seconds: float = CALL_SECONDS
    ) -> Object:
        doing = _doing("get scale of", resource, namespace, name)
        return await self._transport.json(
            Request("GET", resource.path(namespace, name, "scale"), doing), deadline_seconds
        )

    # --- writing

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
        namespace, name = _where(body)
        return await self._write(
            Call("create", resource, namespace, subresource_of or name, subresource, dry_run),
            "POST",
            resource.path(namespace, subresource_of or None, subresource),
            body,
            JSON,
            {},
            deadline_seconds,
        )

    async def replace(
        self, resource: Resource, body: Object, *, deadline_seconds: float = CALL_SECONDS
    ) -> Object:
        namespace, name = _where(body)
        call = Call("update", resource, namespace, name)
        return await self._write(
            call, "PUT", resource.path(namespace, name), body, JSON, {}, deadline_seconds
        )

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
        namespace, name = _where(body)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        if strict:
            query["fieldValidation"] = "Strict"
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._write(
            Call("patch", resource, namespace, name, subresource, dry_run),
            "PATCH",
            resource.path(namespace, name, subresource),
            whole,
            APPLY,
            query,
            deadline_seconds,
        )

    async def apply_status(
        self,
        resource: Resource,
        body: Object,
        *,
        field_manager: str,
        deadline_seconds: float = CALL_SECONDS,
    ) -> Object:
        return await self.apply(
            resource,
            body,
            field_manager=field_manager,
            force=True,
            subresource="status",
            deadline_seconds=deadline_seconds,
        )

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
        return await self._write(
            Call("patch", resource, namespace, name, subresource, dry_run),
            "PATCH",
            resource.path(namespace, name, subresource),
            body,
            MERGE,
            {"fieldManager": field_manager},
            deadline_seconds,
        )

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
        body: Object = {"spec": {"replicas": replicas}}
        if resource_version is not None:
            body["metadata"] = {"resourceVersion": resource_version}
        return await self.patch(
            resource,
            namespace,
            name,
            body,
            field_manager=field_manager,
            subresource="scale",
            deadline_seconds=deadline_seconds,
        )

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
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation.value,
        }
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if uid is not None or resource_version is not None:
            options["preconditions"] = {
                key: value for key, value in preconditions.items() if value is not None
            }
        await self._write(
            Call("delete", resource, namespace, name, dry_run=dry_run),
            "DELETE",
            resource.path(namespace, name),
            options,
            JSON,
            {},
            deadline_seconds,
        )

    async def _write(
        self,
        call: Call,
        method: str,
        path: str,
        body: Object,
        content_type: str,
        query: dict[str, str],
        deadline_seconds: float,
    ) -> Object:
        if call.dry_run:
            query = {**query, "dryRun": "All"}
        verb = f"{call.verb} {call.subresource}".strip()
        doing = _doing(verb, call.resource, call.namespace, call.name)
        request = Request(method, path, doing, query, JSON, body, content_type, call)
        return await self._transport.json(request, deadline_seconds)


async def connect(
    kubeconfig: str | None = None,
    context: str | None = None,
    *,
    guard: WriteGuard | None = None,
    user_agent: str = "prfaas",
) -> KubeClient:
    """A client of the cluster that the arguments, or else the surroundings, name. Nothing is sent yet.

    Raises:
        prfaas.kube.connect.NoCluster: there is none, or its credentials cannot be loaded.
    """
    load = configuration_loader(kubeconfig, context)
    return await KubeClient(Transport(load, guard=guard, user_agent=user_agent)).__aenter__()


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in query.items() if value}


def _where(body: Object) -> tuple[str | None, str | None]:
    about = body.get("metadata") or {}
    return about.get("namespace"), about.get("name")


def _doing(verb: str, resource: Resource, namespace: str | None, name: str | None = None) -> str:
    place = "/".join(part for part in (namespace, name) if part)
    return f"{verb} {resource} {place}".rstrip()
