"""Does a watch tell all? What it brought is compared with a list now and then.

A watch can be cut off in ways that nobody reports, and after a re-list kopf does not tell of what went
meanwhile. The comparison finds both: it puts the second right, and makes the first visible.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import Resource
from prfaas_operator.runtime.facts import CustomValue, is_newer
from prfaas_operator.runtime.store import Collection, Place

logger = logging.getLogger(__name__)

# A change that was listed may still be on its way through the watch.
GRACE_SECONDS = 5.0
FIRST_LOOK_SECONDS = 0.05
# Metadata alone is small, and the comparison comes again and again.
PAGE_OBJECTS = 250


@dataclass
class Agreement:
    """How a collection and the API server agree. Times are monotonic seconds.

    Attributes:
        agreed_at: when they agreed last, None: never so far.
        behind: objects whose change the watch has not brought, at the last comparison.
    """

    synced: asyncio.Event = field(default_factory=asyncio.Event)
    agreed_at: float | None = None
    behind: int = 0


class Audit:
    """Compares the collection of one kind.

    Args:
        namespaces: None in a list of one for all.
        count: told of each comparison: `agrees`, `behind`, `healed`, `failed`.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        collection: Collection[CustomValue],
        *,
        namespaces: tuple[str | None, ...],
        seconds: float,
        clock: Callable[[], float],
        count: Callable[[str], None],
    ) -> None:
        self._api = api
        self._resource = resource
        self._collection = collection
        self._namespaces = namespaces
        self._seconds = seconds
        self._clock = clock
        self._count = count
        self.agreement = Agreement()

    async def run(self) -> None:
        """Compare until cancelled: soon and often until they agree for the first time, then in peace."""
        while True:
            try:
                await self.compare()
            except errors.KubeError as error:
                self._count("failed")
                logger.warning("what the watch of %s brought is not checked: %s", self._resource, error)
            if self.agreement.synced.is_set():
                await asyncio.sleep(self._seconds)
            else:
                await asyncio.sleep(FIRST_LOOK_SECONDS * 4)

    async def compare(self) -> bool:
        """One comparison; whether they agree.

        Raises:
            KubeError: the API server could not be asked.
        """
        began = self._clock()
        listed, version = await self._list()
        behind = self._behind(listed)
        while behind and self._clock() - began < GRACE_SECONDS:
            await asyncio.sleep(FIRST_LOOK_SECONDS)
            behind = self._behind(listed)
        healed = self._remove_gone(listed, version)
        self.agreement.behind = len(behind)
        if behind:
            self._count("behind")
            if self.agreement.synced.is_set():
                logger.error(
                    "the watch of %s is silent: %d objects have changed without a word, %s/%s for one",
                    self._resource,
                    len(behind),
                    *behind[0],
                )
            return False
        self._count("healed" if healed else "agrees")
        self.agreement.agreed_at = self._clock()
        self.agreement.synced.set()
        return True

    async def _list(self) -> tuple[dict[Place, tuple[str, str]], str]:
        """Uid and version by place, and the version of the list that is oldest."""
        listed: dict[Place, tuple[str, str]] = {}
        oldest = ""
        for namespace in self._namespaces:
            async for page in self._api.pages(
                self._resource, namespace, metadata_only=True, page_objects=PAGE_OBJECTS
            ):
                if not oldest or is_newer(oldest, page.resource_version):
                    oldest = page.resource_version
                for body in page.objects:
                    about = body["metadata"]
                    place = (about.get("namespace", ""), about["name"])
                    listed[place] = (about["uid"], about["resourceVersion"])
        return listed, oldest

    def _behind(self, listed: dict[Place, tuple[str, str]]) -> list[Place]:
        found = []
        for place, (_, version) in listed.items():
            fact = self._collection.get(*place)
            if (fact is None and not self._collection.is_deleted(listed[place][0])) or (
                fact is not None and is_newer(version, fact.resource_version)
            ):
                found.append(place)
        return found

    def _remove_gone(self, listed: dict[Place, tuple[str, str]], version: str) -> int:
        """What is not in the list, and is older than it, is gone."""
        gone = [
            fact
            for fact in self._collection
            if (fact.namespace, fact.name) not in listed and not is_newer(fact.resource_version, version)
        ]
        for fact in gone:
            logger.warning("%s %s/%s went without a word", self._resource, fact.namespace, fact.name)
            self._collection.remove(fact, version)
        return len(gone)
