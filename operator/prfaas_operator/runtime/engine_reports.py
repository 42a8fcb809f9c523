"""What the sidecars tell of their engines, asked once for each run of a pod's containers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from prfaas.kube.retry import backoff_seconds
from prfaas_operator.planning.values import EngineReport, PoolKey
from prfaas_operator.runtime.facts import Fact, PodValue

logger = logging.getLogger(__name__)

HEALTH_PORT = 7402
ASK_SECONDS = 3.0
ANSWER_BYTES = 256 * 1024
FINGERPRINT_CHARACTERS = 128
AT_ONCE = 16
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0
# Of all sidecars that do not answer together: a thousand of them must not keep the operator busy.
RETRIES_PER_SECOND = 5.0


@dataclass(slots=True)
class _Entry:
    incarnation: str
    report: EngineReport | None = None
    failures: int = 0


class EngineReports:
    """Asks in the background and remembers.

    Args:
        changed: told of the pool of a pod whose report is new, or that does not answer at first.
        count: told of each answer: `ok`, `waiting` (the engine is not connected yet) or `failed`.
        port: of the sidecar's health listener.
    """

    def __init__(
        self, changed: Callable[[PoolKey], None], count: Callable[[str], None], *, port: int = HEALTH_PORT
    ) -> None:
        self._changed = changed
        self._count = count
        self._port = port
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def of_pods(self, pods: tuple[Fact[PodValue], ...]) -> Mapping[str, EngineReport]:
        """What is known, by pod; what is not known of a ready pod is being asked for."""
        known: dict[str, EngineReport] = {}
        for pod in pods:
            if not pod.value.observed.ready or not pod.value.address:
                continue
            place = (pod.namespace, pod.name)
            entry = self._entries.get(place)
            if entry is None or entry.incarnation != pod.value.incarnation:
                self._ask_for(place, pod)
            elif entry.report is not None:
                known[pod.name] = entry.report
        return known

    def awaited(self, pods: tuple[Fact[PodValue], ...]) -> frozenset[str]:
        """Names of those whose first answer, or first failure, is still to come."""
        return frozenset(
            pod.name
            for pod in pods
            if (entry := self._entries.get((pod.namespace, pod.name))) is not None
            and entry.report is None
            and entry.failures == 0
        )

    def forget(self, namespace: str, name: str) -> None:
        """The pod is gone."""
        place = (namespace, name)
        self._entries.pop(place, None)
        task = self._tasks.pop(place, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _ask_for(self, place: tuple[str, str], pod: Fact[PodValue]) -> None:
        before = self._tasks.pop(place, None)
        if before is not None:
            before.cancel()
        entry = self._entries[place] = _Entry(pod.value.incarnation)
        task = asyncio.create_task(self._ask(pod, entry), name=f"engine report of {pod.name}")
        self._tasks[place] = task
        task.add_done_callback(lambda done: self._ended(place, done))

    def _ended(self, place: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._tasks.get(place) is task:
            del self._tasks[place]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("asking %s/%s for its engine failed by a defect", *place, exc_info=error)

    async def _ask(self, pod: Fact[PodValue], entry: _Entry) -> None:
        """Ask until the engine is known."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._slots:
                    report = await self._get(pod.value.address)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                self._count("failed")
                entry.failures += 1
                level = logging.INFO if entry.failures == 1 else logging.DEBUG
                logger.log(level, "pod %s/%s does not tell of its engine: %r", pod.namespace, pod.name, error)
                if entry.failures == 1 and pod.pool is not None:
                    self._changed(pod.pool)
            else:
                self._count("ok" if report.engine_connected else "waiting")
                if report != entry.report:
                    entry.report = report
                    if pod.pool is not None:
                        self._changed(pod.pool)
                if report.engine_connected and report.fingerprint is not None:
                    return
                entry.failures += 1
            chance = loop.time() % 1.0
            await asyncio.sleep(
                backoff_seconds(
                    entry.failures,
                    chance,
                    first_seconds=FIRST_RETRY_SECONDS,
                    longest_seconds=longest_retry_seconds(len(self._tasks)),
                )
            )

    async def _get(self, address: str) -> EngineReport:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ASK_SECONDS), trust_env=False
            )
        host = f"[{address}]" if ":" in address else address
        async with self._session.get(f"http://{host}:{self._port}/status") as answer:
            answer.raise_for_status()
            body = await answer.content.read(ANSWER_BYTES)
            if not answer.content.at_eof():
                raise ValueError(f"the answer is longer than {ANSWER_BYTES} bytes")
        return read_report(body)


def longest_retry_seconds(asked: int) -> float:
    """The longest pause of a pod's questions while so many pods are asked."""
    return max(LONGEST_RETRY_SECONDS, asked / RETRIES_PER_SECOND)


def read_report(body: bytes) -> EngineReport:
    """The report in an answer of `/status`.

    Raises:
        ValueError: it is none.
    """
    answer: Any = json.loads(body)
    if not isinstance(answer, dict) or answer.get("version") != 1:
        raise ValueError("the answer is no status of version 1")
    fingerprint = _text(answer.get("fingerprint"))
    if fingerprint is not None and len(fingerprint) > FINGERPRINT_CHARACTERS:
        # A status could not hold it, and every pass over the pool would fail.
        raise ValueError(f"the fingerprint has {len(fingerprint)} characters, which none has")
    models = answer.get("served_models")
    fields = answer.get("fingerprint_fields")
    return EngineReport(
        engine_connected=bool(answer.get("engine_connected")),
        fingerprint=fingerprint,
        role=_text(answer.get("role")),
        block_tokens=_count(answer.get("block_tokens")),
        max_model_tokens=_count(answer.get("max_model_tokens")),
        served_models=tuple(str(model) for model in models) if isinstance(models, list) else (),
        arena_bytes=_count(answer.get("arena_bytes")),
        fingerprint_fields={str(k): str(v) for k, v in fields.items()} if isinstance(fields, dict) else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
