"""What follows the cluster: kopf for what users write, the client's reflector for what the operator made.

kopf keeps a task and a memory for each object, and does not tell of what went while its watch was away. For
users' objects, which are few, `audit` makes up for that; children and pods are many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import kopf

from prfaas.api import keys
from prfaas.kube.api import PAGE_OBJECTS, KubeApi
from prfaas.kube.client import KubeClient
from prfaas.kube.reflect import Added, Contact, Deleted, Modified, Synced, reflect
from prfaas.kube.resources import (
    AUTOSCALERS,
    CERTIFICATES,
    CONFIG_MAPS,
    CUSTOM_RESOURCES,
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REGIONS,
    SECRETS,
    Object,
    Resource,
)
from prfaas_operator.runtime import facts
from prfaas_operator.runtime.executor import secret
from prfaas_operator.runtime.facts import Fact
from prfaas_operator.runtime.store import Collection, Store

logger = logging.getLogger(__name__)

T = TypeVar("T")
POOL_SELECTOR = keys.LABEL_POOL


@dataclass
class Following:
    """One collection that a reflector follows.

    Attributes:
        needed: nothing starts before it was listed. Not so for a kind that somebody else has to install.
    """

    resource: Resource
    namespace: str | None
    contact: Contact
    needed: bool = True


class Children:
    """Follows children, pods, and what users may have beside them.

    Args:
        namespaces: None in a tuple of one for all.
        issued: whether cert-manager issues, and its Certificates are followed.
    """

    def __init__(
        self, api: KubeApi, store: Store, namespaces: tuple[str | None, ...], *, issued: bool = False
    ) -> None:
        self._api = api
        self._store = store
        self._issued = issued
        self._kinds = tuple(self._list_kinds())
        self.followings = [
            Following(resource, namespace, Contact(), needed=resource is not CERTIFICATES)
            for namespace in namespaces
            for resource, _, _, _ in self._kinds
            if resource.namespaced
        ]
        self._by_resource = {each[0]: each for each in self._kinds}
        self.followings += [
            Following(resource, None, Contact()) for resource in self._by_resource if not resource.namespaced
        ]

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for following in self.followings:
                _, selector, slim, collection = self._by_resource[following.resource]
                group.create_task(
                    self._follow(following, selector, slim, collection),
                    name=f"reflector of {following.resource}",
                )

    async def synced(self) -> None:
        """Wait until each was listed once."""
        for following in self.followings:
            if following.needed:
                await following.contact.synced_event.wait()

    def _list_kinds(self) -> Iterator[tuple[Resource, str, Callable[[Object], Fact[Any]], Collection[Any]]]:
        store = self._store
        yield PODS, POOL_SELECTOR, facts.pod, store.pods
        yield DEPLOYMENTS, POOL_SELECTOR, facts.deployment, store.deployments
        yield SECRETS, POOL_SELECTOR, secret, store.secrets
        yield CONFIG_MAPS, POOL_SELECTOR, facts.config_map, store.config_maps
        yield POD_DISRUPTION_BUDGETS, "", facts.budget, store.budgets
        yield AUTOSCALERS, "", facts.autoscaler, store.autoscalers
        yield REGIONS, "", facts.region, store.regions
        if self._issued:
            yield CERTIFICATES, POOL_SELECTOR, facts.request, store.requests

    async def _follow(
        self,
        following: Following,
        selector: str,
        slim: Callable[[Object], Fact[T]],
        collection: Collection[T],
    ) -> None:
        changes = reflect(
            self._api,
            following.resource,
            slim=slim,
            namespace=following.namespace,
            label_selector=selector,
            contact=following.contact,
        )
        async for change in changes:
            match change:
                case Synced(objects, version):
                    collection.replace_all(objects, following.namespace, version)
                case Added(fact) | Modified(fact):
                    collection.put(fact)
                case Deleted(fact):
                    collection.remove(fact)


def registry(client: KubeClient, store: Store) -> kopf.OperatorRegistry:
    """What kopf is to do: log in as the client does, and tell the store of users' objects.

    There are only `on.event` handlers: with these kopf writes no annotation and no finalizer.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        found = await client.credentials()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_file,
            insecure=not found.verify,
            token=found.token,
            scheme="Bearer" if found.token else None,
            certificate_path=found.client_certificate_file,
            private_key_path=found.client_key_file,
            proxy_url=found.proxy,
        )

    for resource in CUSTOM_RESOURCES:
        _tell(handlers, resource, store)
    return handlers


def _tell(handlers: kopf.OperatorRegistry, resource: Resource, store: Store) -> None:
    collection = store.custom(resource.kind)

    @kopf.on.event(resource.group, resource.version, resource.plural, registry=handlers, id=resource.plural)
    async def told(event: kopf.RawEvent, **_: Any) -> None:
        fact = facts.custom(event["object"])
        if event["type"] == "DELETED":
            collection.remove(fact)
        else:
            collection.put(fact)


class _NoMemory(kopf.AnnotationsDiffBaseStorage):
    """kopf copies each object that it hears of, to compare it with what was handled last. No handler asks."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None


def settings() -> kopf.OperatorSettings:
    """kopf's settings, each for a reason."""
    chosen = kopf.OperatorSettings()
    # Never used, since nothing here makes kopf write; a name of our own in case that ever changes.
    chosen.persistence.finalizer = f"{keys.GROUP}/operator"
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=keys.GROUP)
    chosen.persistence.diffbase_storage = _NoMemory(prefix=keys.GROUP)
    # Events are written by us, after the status.
    chosen.posting.enabled = False
    # A Lease elects, not kopf's peering.
    chosen.peering.standalone = True
    # The operator may not list CustomResourceDefinitions; they are there before it starts.
    chosen.scanning.disabled = True
    # Bookmarks come each minute: a watch that says nothing for longer is cut off.
    chosen.watching.inactivity_timeout = 70.0
    chosen.watching.server_timeout = 290
    chosen.watching.client_timeout = 300
    chosen.watching.connect_timeout = 10
    chosen.watching.chunk_size = PAGE_OBJECTS
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.queueing.idle_timeout = 1.0
    return chosen
