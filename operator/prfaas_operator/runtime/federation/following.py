"""Collections that are followed in full: what was last listed or watched, by key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from prfaas.kube.api import KubeApi
from prfaas.kube.reflect import Added, Contact, Deleted, Modified, Synced, reflect
from prfaas.kube.resources import Object, Resource
from prfaas_operator.federation.values import ObjectKey

T = TypeVar("T")


class Followed(Generic[T]):
    """One collection.

    Args:
        slim: what to keep of an object.
        changed: told after every change.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        slim: Callable[[Object], T],
        changed: Callable[[], None],
        *,
        namespace: str | None = None,
        label_selector: str = "",
    ) -> None:
        self._api = api
        self.resource = resource
        self._slim = slim
        self._changed = changed
        self._namespace = namespace
        self._selector = label_selector
        self.contact = Contact()
        self._objects: dict[ObjectKey, T] = {}

    @property
    def synced(self) -> bool:
        return self.contact.synced

    @property
    def objects(self) -> Mapping[ObjectKey, T]:
        return self._objects

    def begin_anew(self) -> None:
        """What is known counts no more, until it is listed again. To be called while it is not followed."""
        self.contact = Contact()

    async def run(self) -> None:
        """Follow until cancelled."""
        changes = reflect(
            self._api,
            self.resource,
            slim=lambda body: (key_of(body, self.resource.kind), self._slim(body)),
            namespace=self._namespace,
            label_selector=self._selector,
            contact=self.contact,
        )
        async for change in changes:
            match change:
                case Synced(objects):
                    self._objects = dict(objects)
                case Added((key, value)) | Modified((key, value)):
                    self._objects[key] = value
                case Deleted((key, _)):
                    self._objects.pop(key, None)
            self._changed()


def key_of(body: Object, kind: str) -> ObjectKey:
    about = body["metadata"]
    return ObjectKey(kind, about.get("namespace", ""), about["name"])


class Wake:
    """Many changes, one look: set by whatever changes, waited for by whoever looks."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Until it is set, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()
