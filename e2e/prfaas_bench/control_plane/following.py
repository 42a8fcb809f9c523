"""Follows the fleet by watches, and knows when it has converged."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from prfaas.kube.api import KubeApi
from prfaas.kube.reflect import Deleted, Synced, reflect
from prfaas.kube.resources import Object, Resource

Place = tuple[str, str]


class Following:
    """How many objects of some kinds are as they should be.

    Args:
        is_good: of an object.

    Attributes:
        changed_at: when an object last became good, or ceased to be, by `time.time`.
    """

    def __init__(self, api: KubeApi, resources: Mapping[Resource, str], is_good: Callable[[Object], bool]):
        self._api = api
        self._resources = resources
        self._is_good = is_good
        self._known: dict[Resource, dict[Place, bool]] = {resource: {} for resource in resources}
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.changed_at = 0.0

    async def __aenter__(self) -> Following:
        self._tasks = [asyncio.create_task(self._follow(resource)) for resource in self._resources]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def good(self) -> int:
        return sum(sum(places.values()) for places in self._known.values())

    async def until_good(self, count: int, within_seconds: float) -> float:
        """Wait until so many are good; when the last of them became it.

        Raises:
            TimeoutError: it was not in time.
        """
        try:
            async with asyncio.timeout(within_seconds):
                while self.good < count:
                    self._moved.clear()
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    await self._moved.wait()
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.good} of {count} objects are as they should be after {within_seconds:.0f} s; "
                f"others are {self._others()}"
            ) from error
        return self.changed_at

    def _others(self) -> str:
        names = (
            f"{resource} {name}"
            for resource, places in self._known.items()
            for (_, name), good in places.items()
            if not good
        )
        return ", ".join(itertools.islice(names, 3)) or "not there"

    async def _follow(self, resource: Resource) -> None:
        def slim(body: Object) -> tuple[Place, bool]:
            about = body["metadata"]
            return (about["namespace"], about["name"]), self._is_good(body)

        selector = self._resources[resource]
        changes = reflect(self._api, resource, slim=slim, label_selector=selector)
        async with aclosing(changes) as following:  # type: ignore[type-var]
            async for change in following:
                match change:
                    case Synced(objects):
                        after = dict(objects)
                    case Deleted((place, _)):
                        after = {each: good for each, good in self._known[resource].items() if each != place}
                    case _:
                        place, good = change.object
                        if self._known[resource].get(place) is good:
                            continue
                        self._known[resource][place] = good
                        after = self._known[resource]
                self._known[resource] = after
                self.changed_at = time.time()
                self._moved.set()


def pool_has_converged(body: Object) -> bool:
    """Its newest spec is carried out, its pods are ready, their engines are known, and nothing is to come."""
    status = body.get("status") or {}
    states = {each["type"]: each["status"] for each in status.get("conditions") or []}
    return (
        status.get("observedGeneration") == body["metadata"]["generation"]
        and states.get("Ready") == "True"
        and states.get("Reconciling") == "False"
        and states.get("KVCompatible") == "True"
    )


def route_has_converged(body: Object) -> bool:
    """It has a status for its newest spec."""
    status: dict[str, Any] = body.get("status") or {}
    states = {each["type"]: each["status"] for each in status.get("conditions") or []}
    return (
        status.get("observedGeneration") == body["metadata"]["generation"] and states.get("Ready") == "True"
    )


def deployment_is_ready(body: Object) -> bool:
    """All its pods are."""
    return bool((body.get("status") or {}).get("readyReplicas", 0) >= body["spec"]["replicas"])
