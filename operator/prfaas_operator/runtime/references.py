"""Whether the objects that pools name exist: asked one by one, and remembered for a while."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import BY_KIND
from prfaas_operator.planning.values import FoundReference, Reference
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

# What is there seldom goes; what is missing is waited for.
FOUND_SECONDS = 600.0
MISSING_SECONDS = 10.0
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class _Known:
    found: FoundReference | None
    until: float


class References:
    """Looks references up.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, api: KubeApi, store: Store, *, clock: Callable[[], float]) -> None:
        self._api = api
        self._store = store
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()

    async def find(self, namespace: str, wanted: Iterable[Reference]) -> tuple[FoundReference, ...]:
        """Those that are there.

        Raises:
            KubeError: it could not be asked; nothing is assumed then.
        """
        wanted = tuple(wanted)
        found = await asyncio.gather(*(self._find(namespace, each.kind, each.name) for each in wanted))
        return tuple(each for each in found if each is not None)

    async def _find(self, namespace: str, kind: str, name: str) -> FoundReference | None:
        if kind == "ModelKVProfile":
            profile = self._store.profiles.get(namespace, name)
            return None if profile is None else FoundReference(kind, name)
        place, now = (kind, namespace, name), self._clock()
        known = self._known.get(place)
        if known is not None and known.until > now:
            return known.found
        found = await self._ask(namespace, kind, name)
        seconds = MISSING_SECONDS if found is None else FOUND_SECONDS
        self._known[place] = _Known(found, now + seconds)
        self._known.move_to_end(place)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _ask(self, namespace: str, kind: str, name: str) -> FoundReference | None:
        is_claim = kind == "PersistentVolumeClaim"
        try:
            # Never the content of a Secret.
            body = await self._api.get(BY_KIND[kind], namespace, name, metadata_only=not is_claim)
        except errors.NotFound:
            return None
        modes = (body.get("spec") or {}).get("accessModes") or () if is_claim else ()
        return FoundReference(kind, name, tuple(modes))
