"""Follow a collection: list, then watch, and list again when the server says so; until the caller ends it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prfaas.kube import errors
from prfaas.kube.api import KubeApi, WatchEvent
from prfaas.kube.resources import Object, Resource
from prfaas.kube.retry import backoff_seconds

logger = logging.getLogger(__name__)

T = TypeVar("T")
SERVER_SECONDS = 290
# Bookmarks are due every 60 s.
SILENT_SECONDS = 70.0
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 15.0
LONGEST_LIST_SECONDS = 60.0
# A watch that was open for so long has worked, although nothing came: something on the way cuts idle ones.
LONG_ENOUGH_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Synced(Generic[T]):
    """The whole collection as it was at a version. What the receiver had before and is not in it is gone,
    unless the receiver knows it by a newer version, as the answer to its own write is.
    """

    objects: tuple[T, ...]
    resource_version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Added(Generic[T]):
    object: T


@dataclass(frozen=True, slots=True)
class Modified(Generic[T]):
    object: T


@dataclass(frozen=True, slots=True)
class Deleted(Generic[T]):
    """Its last state. An object that leaves the selector is deleted as far as this goes."""

    object: T


Change = Synced[T] | Added[T] | Modified[T] | Deleted[T]


@dataclass
class Contact:
    """How well a collection is followed, for health and metrics. Times are the loop's."""

    synced: bool = False
    last_seconds: float | None = None
    failures: int = 0
    lists: int = 0
    watches: int = 0
    error: errors.KubeError | None = None
    synced_event: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, now_seconds: float) -> None:
        self.last_seconds, self.failures, self.error = now_seconds, 0, None

    def listed(self, now_seconds: float, *, well: bool) -> None:
        """The server has answered; `well` unless watches fail all the same."""
        self.last_seconds = now_seconds
        if well:
            self.heard(now_seconds)

    def failed(self, error: errors.KubeError) -> None:
        self.failures += 1
        self.error = error


async def reflect(
    api: KubeApi,
    resource: Resource,
    *,
    slim: Callable[[Object], T],
    namespace: str | None = None,
    label_selector: str = "",
    field_selector: str = "",
    silent_seconds: float = SILENT_SECONDS,
    contact: Contact | None = None,
) -> AsyncIterator[Change[T]]:
    """Changes of a collection without end; close the iterator to stop.

    Errors are logged (when they begin and every so often), counted in `contact`, and answered by trying again
    with growing pauses. A watch that says nothing is given up and opened anew; one whose version is too old,
    or that broke its protocol, is followed by a new list, which comes as another `Synced`.

    Args:
        slim: what to keep of an object; called once for each that comes, so the rest can be freed at once.
        namespace: None for all.

    Raises:
        Whatever `slim` raises.
    """
    loop = asyncio.get_running_loop()
    contact = contact if contact is not None else Contact()
    version: str | None = None
    # Watches in a row that brought nothing. Lists that work neither shorten the pauses nor hide why.
    fruitless = 0
    while True:
        watching, began_seconds = False, float("inf")
        try:
            if version is None:
                objects, version = await _list(api, resource, slim, namespace, label_selector, field_selector)
                contact.listed(loop.time(), well=fruitless == 0)
                contact.lists += 1
                contact.synced = True
                contact.synced_event.set()
                yield Synced(objects, version)
            # Spread over time, so that not all watches of all processes end at once.
            server_seconds = int(SERVER_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311
            watching = True
            async with api.watch(
                resource,
                namespace,
                resource_version=version,
                label_selector=label_selector,
                field_selector=field_selector,
                server_seconds=server_seconds,
                silent_seconds=silent_seconds,
            ) as events:
                contact.watches += 1
                began_seconds = loop.time()
                async for event in events:
                    contact.heard(loop.time())
                    fruitless, watching = 0, False
                    version = event.object["metadata"]["resourceVersion"]
                    change = _change(event, slim)
                    if change is not None:
                        yield change
            if loop.time() - began_seconds < 1.0:
                # A server or proxy that ends each watch at once must not be asked in a tight loop.
                raise errors.Unreachable(f"watch {resource}: it ended as soon as it had begun")
            fruitless = 0
        except errors.KubeError as error:
            fruitless += watching
            if isinstance(error, errors.Unreachable) and loop.time() - began_seconds >= LONG_ENOUGH_SECONDS:
                fruitless = contact.failures = 0
            if isinstance(error, errors.Gone):
                version = None
                if contact.failures == 0:
                    contact.failed(error)
                    continue
            elif not isinstance(error, errors.Unreachable | errors.DeadlineExceeded | errors.TooManyRequests):
                version = None
            contact.failed(error)
            wait_seconds = _pause_seconds(error, contact.failures)
            if contact.failures in {2, 10} or contact.failures % 100 == 0:
                logger.warning("%s (%s); attempt %d follows", error, error.reason, contact.failures + 1)
            await asyncio.sleep(wait_seconds)


async def _list(
    api: KubeApi,
    resource: Resource,
    slim: Callable[[Object], T],
    namespace: str | None,
    label_selector: str,
    field_selector: str,
) -> tuple[tuple[T, ...], str]:
    found: list[T] = []
    version = ""
    async for page in api.pages(
        resource,
        namespace,
        label_selector=label_selector,
        field_selector=field_selector,
        deadline_seconds=LONGEST_LIST_SECONDS,
    ):
        found += [slim(body) for body in page.objects]
        version = page.resource_version
    return tuple(found), version


def _change(event: WatchEvent, slim: Callable[[Object], T]) -> Change[T] | None:
    match event.kind:
        case "ADDED":
            return Added(slim(event.object))
        case "MODIFIED":
            return Modified(slim(event.object))
        case "DELETED":
            return Deleted(slim(event.object))
        case _:
            return None


def _pause_seconds(error: errors.KubeError, failures: int) -> float:
    chance = random.random()  # noqa: S311 - spreads retries, guards nothing
    pause = backoff_seconds(
        failures, chance, first_seconds=FIRST_BACKOFF_SECONDS, longest_seconds=LONGEST_BACKOFF_SECONDS
    )
    wanted = min(error.retry_after_seconds or 0.0, 2 * LONGEST_BACKOFF_SECONDS)
    # A server tells all the same time, and would have all of them at that time.
    return max(pause, wanted * (1 + 0.5 * chance))
