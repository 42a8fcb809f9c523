"""`GET /v1/held-blocks` on the control port: what the engine holds, and then what changes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from prfaas.held_blocks import Cursor, read_question
from prfaas_sidecar.config import KvEventsSection
from prfaas_sidecar.kv_events.follower import Follower
from prfaas_sidecar.kv_events.ledger import Ledger

GATHER_SECONDS = 0.1
"""What happens within that time after the first news goes out together."""
PACE_SECONDS_MAX = 10.0


class Pace:
    """Turns for sending bytes, so that all together stay at a rate. The time is a value."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def wait_seconds(self, now: float) -> float:
        """Until the next may begin."""
        return max(0.0, self._free_at - now)

    def take(self, size_bytes: int, now: float) -> None:
        """So much goes out now."""
        self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_second


class NoBlocksError(Exception):
    """There is nothing to tell.

    Attributes:
        status, code: of the answer.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class HeldBlocksApi:
    """Answers to gateways.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, settings: KvEventsSection, ledger: Ledger, follower: Follower, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._follower = follower
        self._clock = clock
        self._pace = Pace(settings.bytes_per_second)
        self._news = asyncio.Event()
        self._readers = 0

    def changed(self) -> None:
        """Wake whoever waits for news."""
        self._news.set()
        self._news = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        """One answer: at once where something is new, else when it is, or empty after `wait` seconds.

        Raises:
            NoBlocksError: the engine does not tell, or too many ask.
        """
        try:
            cursor, wait_seconds = read_question(request.query)
        except ValueError as error:
            raise NoBlocksError(400, "BadRequest", str(error)) from error
        self._require_events()
        with self._counted():
            if wait_seconds and cursor is not None and cursor == self._ledger.cursor:
                await self._wait_for_news(cursor, wait_seconds)
            pause = self._pace.wait_seconds(self._clock())
            if pause > PACE_SECONDS_MAX:
                raise NoBlocksError(
                    503, "Overloaded", "gateways ask for more than kv_events.bytes_per_second; ask later"
                )
            await asyncio.sleep(pause)
            body = self._ledger.since(cursor).encode()
            self._pace.take(len(body), self._clock())
        return web.Response(body=body, content_type="application/octet-stream")

    def _require_events(self) -> None:
        state, text = self._follower.state, self._follower.text
        if state == "NoEngine":
            raise NoBlocksError(503, "EngineGone", "the engine has not told yet where it publishes events")
        if state == "Off":
            text = "the engine does not publish KV events: start it with --kv-events-config"
        if text:
            raise NoBlocksError(404, "NotSupported", text)

    async def _wait_for_news(self, cursor: Cursor, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._ledger.cursor == cursor:
                    await self._news.wait()
                await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            return

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._readers >= self._settings.readers:
            raise NoBlocksError(503, "Overloaded", "more gateways ask than kv_events.readers; ask later")
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
