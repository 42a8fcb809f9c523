"""Asks sidecars what their engines have to do, once a round, and remembers the answer before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp

from prfaas_operator.planning.autoscale.loads import EngineLoad, Interval, interval, read_load
from prfaas_operator.runtime.facts import Fact, PodValue

logger = logging.getLogger(__name__)

ASK_SECONDS = 3.0
AT_ONCE = 32
ANSWER_BYTES = 256 * 1024
Told = tuple[EngineLoad, Interval | None]


@dataclass(slots=True)
class _Known:
    incarnation: str
    load: EngineLoad


class SidecarLoads:
    """What was told of each pod.

    Args:
        clock: seconds since the epoch.
        count: told of each answer: `ok`, `unknown` (the engine does not tell) or `failed`.
        port: of the sidecar's health listener.
    """

    def __init__(self, *, clock: Callable[[], float], count: Callable[[str], None], port: int) -> None:
        self._clock = clock
        self._count = count
        self._port = port
        self._known: dict[str, _Known] = {}
        self._silent: set[str] = set()

    async def ask(self, session: aiohttp.ClientSession, pods: Iterable[Fact[PodValue]]) -> dict[str, Told]:
        """Ask all ready pods, within a few seconds; answers by uid. Pods that are not given are forgotten."""
        asked = [pod for pod in pods if pod.value.observed.ready and pod.value.address]
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(pod: Fact[PodValue]) -> tuple[str, Told | None]:
            async with slots:
                return pod.uid, await self._one(session, pod)

        answers = await asyncio.gather(*(one(pod) for pod in asked))
        uids = {pod.uid for pod in asked}
        self._known = {uid: known for uid, known in self._known.items() if uid in uids}
        self._silent &= uids
        return {uid: told for uid, told in answers if told is not None}

    async def _one(self, session: aiohttp.ClientSession, pod: Fact[PodValue]) -> Told | None:
        address = pod.value.address
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{self._port}/load") as answer:
                answer.raise_for_status()
                body = await answer.content.read(ANSWER_BYTES)
                load = read_load(body, self._clock())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            self._count("failed")
            # Once: a sidecar of an earlier version has no such answer, and will not have it in a minute.
            level = logging.DEBUG if pod.uid in self._silent else logging.INFO
            self._silent.add(pod.uid)
            logger.log(level, "pod %s/%s does not tell of its load: %r", pod.namespace, pod.name, error)
            return None
        if load is None:
            self._count("unknown")
            return None
        self._count("ok")
        self._silent.discard(pod.uid)
        before = self._known.get(pod.uid)
        self._known[pod.uid] = _Known(pod.value.incarnation, load)
        same = before is not None and before.incarnation == pod.value.incarnation
        return load, interval(before.load if before is not None and same else None, load)
