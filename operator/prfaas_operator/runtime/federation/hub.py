"""Talks to the hub: beats, keeps the way to it up to date, and remembers what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import NAMESPACES
from prfaas_operator.federation.hub import HubContact
from prfaas_operator.runtime.federation.hub_client import WayToHub, read_way
from prfaas_operator.runtime.federation.presence import BEAT_SECONDS, CALL_SECONDS, renew
from prfaas_operator.runtime.fence import WritingStopped

logger = logging.getLogger(__name__)

UID_NAMESPACE = "kube-system"


class Hub:
    """The hub as this cluster knows it.

    Args:
        path: of the kubeconfig.
        namespace: the hub's operator's, when the configuration says it; else the kubeconfig's context does.
        changed: told when the contact may read differently.

    Attributes:
        contact: what came of talking to it.
        lost: how often contact was lost, so that others know when to begin anew.
        uid: of the hub that answered last; `replaced` is set when it is another one than before.
    """

    def __init__(
        self,
        api: KubeClient,
        *,
        path: str,
        namespace: str | None,
        own_namespace: str,
        cluster: str,
        holder: str,
        clock: Callable[[], float],
        chance: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.api = api
        self._path = path
        self._namespace, self._own_namespace = namespace, own_namespace
        self._cluster, self._holder = cluster, holder
        self._clock, self._chance = clock, chance
        self._changed = changed
        self.way = WayToHub()
        self.contact = HubContact(began_at=clock())
        self.lost = 0
        self.uid = ""
        self.replaced = asyncio.Event()

    @property
    def namespace(self) -> str:
        """Of the hub's operator, where the Leases are."""
        return self._namespace or self.way.namespace or self._own_namespace

    async def run(self) -> None:
        """Beat until cancelled. Clusters that start together do not beat together."""
        while True:
            began = self._clock()
            await self._beat()
            self._changed()
            pause = BEAT_SECONDS * (0.9 + 0.2 * self._chance())
            await asyncio.sleep(max(0.0, began + pause - self._clock()))

    async def _beat(self) -> None:
        way = await read_way(self._path)
        if way.stamp != self.way.stamp:
            known = bool(self.way.stamp)
            self.way = way
            if known:
                logger.info("the way to the hub has changed: it is read anew")
                # The next request reads the file; watches break, and are opened anew.
                await self.api.close()
        try:
            await renew(self.api, self.namespace, self._cluster, self._holder, make=False)
            await self.identify()
        except errors.KubeError as error:
            self.failed(error)
        except WritingStopped as error:
            logger.debug("no beat: %s", error)
        else:
            self.answered()

    async def identify(self) -> str:
        """Ask which hub it is.

        Raises:
            KubeError: it did not say.
        """
        try:
            body = await self.api.get(
                NAMESPACES, None, UID_NAMESPACE, metadata_only=True, deadline_seconds=CALL_SECONDS
            )
        except errors.KubeError as error:
            self.failed(error)
            raise
        self.answered()
        uid = str(body["metadata"]["uid"])
        if uid != self.uid:
            # What is followed may be of another hub, whose versions mean nothing here.
            self.uid = uid
            self.replaced.set()
        return uid

    def answered(self) -> None:
        """The hub did as it was asked."""
        if self.contact.silence or self.contact.refused:
            logger.info("the hub answers again")
        self.contact = replace(
            self.contact, answered_at=self._clock(), refused="", unauthorized=False, silence=""
        )

    def failed(self, error: errors.KubeError) -> None:
        """A call failed. What a hub refuses is told at once, its silence when it lasts."""
        before = self.contact
        if error.status in (401, 403, 404) or isinstance(error, errors.Unauthorized):
            text = (
                f"{error.message}: run prfaas federation join again, and check with prfaas federation check"
            )
            unauthorized = isinstance(error, errors.Unauthorized)
            self.contact = replace(before, refused=text, unauthorized=unauthorized, silence="")
        else:
            # Without the words of the network, which may differ at each try.
            self.contact = replace(before, refused="", unauthorized=False, silence=error.reason)
        if not (before.silence or before.refused):
            self.lost += 1
            logger.warning("the hub: %s", error)
