"""The drain before an engine ends: waits, within a bound, until nothing is lost when it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from prfaas_sidecar.logs import fields
from prfaas_sidecar.node import Node
from prfaas_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

QUIET_SECONDS = 2.0
"""How long nothing may have happened: a gateway may use this engine for a second after its pod was marked."""
POLL_SECONDS = 0.25
_ASK_SECONDS = 2.0
_MAX_ANSWER_BYTES = 16 << 20
MAX_CALLS = 64
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Requests in the engine, or why that is not known."""

    running: int = 0
    waiting: int = 0
    unknown: str = ""


def engine_load(exposition: str) -> EngineLoad:
    """From the engine's ``/metrics``, over all its ranks."""
    # The whole page has thousands of lines of histograms.
    wanted = tuple(f"{name}{end}" for name in (RUNNING, WAITING) for end in "{ ")
    lines = [line for line in exposition.splitlines() if line.startswith(wanted)]
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        if not {RUNNING, WAITING} <= found.keys():
            return EngineLoad(unknown="its /metrics do not show its requests (--disable-log-stats?)")
        return EngineLoad(int(found[RUNNING]), int(found[WAITING]))
    except (ValueError, OverflowError):
        return EngineLoad(unknown="its /metrics cannot be read")


def busy(load: EngineLoad | None, transfers: int, arena_used_bytes: int) -> str | None:
    """What a drain still waits for, or None. ``load`` is None where nobody can be asked, or the engine is
    gone."""
    if load is not None and load.unknown:
        return f"the engine may have requests: {load.unknown}"
    if load is not None and (load.running or load.waiting):
        return f"the engine has {load.running} requests running and {load.waiting} waiting"
    if transfers or arena_used_bytes:
        return f"{transfers} transfers are under way, and {arena_used_bytes} bytes of the arena are held"
    return None


class TooManyCallsError(Exception):
    """More callers wait already than a pod's own can be."""


class Drain:
    """Any number of callers wait for one and the same thing, each as long as it likes."""

    def __init__(self, node: Node, active_transfers: Callable[[], int], tasks: Tasks) -> None:
        self._node = node
        self._active_transfers = active_transfers
        self._tasks = tasks
        self._calls = 0
        self._watching: asyncio.Task[None] | None = None
        self._quiet = asyncio.Event()
        self._waits_for = "the drain has just begun"

    async def wait(self, seconds: float) -> str:
        """Refuse new transfers from here on, and wait. Returns a line that says how it ended.

        Raises:
            TooManyCallsError: too many calls wait already.
        """
        if self._calls >= MAX_CALLS:
            raise TooManyCallsError
        if not self._node.drain_asked:
            self._node.drain_asked = True
            _log.info("draining before the engine ends", extra=fields(seconds=seconds))
        self._calls += 1
        try:
            # Done without having said so only when it failed.
            if self._watching is None or self._watching.done():
                self._quiet.clear()
                self._watching = self._tasks.spawn(self._watch(), "drain", essential=False)
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            self._node.metrics.drains.labels("timeout").inc()
            _log.warning("the drain's time is over", extra=fields(seconds=seconds, reason=self._waits_for))
            return f"not drained after {seconds:g} s: {self._waits_for}"
        else:
            self._node.metrics.drains.labels("drained").inc()
            _log.info("drained")
            return "drained"
        finally:
            self._calls -= 1

    async def _watch(self) -> None:
        url, clock = self._node.config.engine.url, self._node.clock
        quiet_since: float | None = None
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS)) as session:
            while self._calls:
                load = None if url is None else await _ask(session, url)
                reason = busy(load, self._active_transfers(), self._node.arena.used_bytes)
                now = clock()
                if reason is not None:
                    quiet_since, self._waits_for = None, reason
                elif quiet_since is None:
                    quiet_since, self._waits_for = now, f"it has been quiet for less than {QUIET_SECONDS:g} s"
                elif now - quiet_since >= QUIET_SECONDS:
                    self._quiet.set()
                    break
                await asyncio.sleep(POLL_SECONDS)
            # Before closing the session: a call that comes meanwhile starts a watch of its own.
            self._watching = None


class EnginePageError(Exception):
    """The engine's ``/metrics`` cannot be had; the text says why. ``gone``: nobody listens there."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


async def engine_page(session: aiohttp.ClientSession, url: str) -> str:
    """The engine's ``/metrics``.

    Raises:
        EnginePageError: it has none to give.
    """
    try:
        async with session.get(f"{url}/metrics") as answer:
            if answer.status != 200:
                raise EnginePageError(f"its /metrics answer {answer.status}")
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if len(body) > _MAX_ANSWER_BYTES:
                    raise EnginePageError("its /metrics are endless")
    except aiohttp.ClientConnectorError as error:
        raise EnginePageError(
            f"its /metrics cannot be asked ({error.os_error.strerror})",
            gone=isinstance(error.os_error, ConnectionRefusedError),
        ) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EnginePageError(f"its /metrics do not answer ({type(error).__name__})") from error
    return body.decode(errors="replace")


async def _ask(session: aiohttp.ClientSession, url: str) -> EngineLoad | None:
    try:
        return engine_load(await engine_page(session, url))
    except EnginePageError as error:
        # An engine that is gone has no requests.
        return None if error.gone else EngineLoad(unknown=str(error))
