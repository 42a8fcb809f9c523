"""One stream from another region's gateways: connect, read, and begin again after a while, for ever."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from prfaas_gateway.peering.hops import Obstacle, broken, no_bundle, obstacle_of, refused
from prfaas_gateway.peering.lines import Lines, LineTooLongError
from prfaas_gateway.peering.trust import PeerTrust
from prfaas_gateway.peering.wire import (
    MAX_LINE_BYTES,
    VERSION,
    BadDocumentError,
    Document,
    Hello,
    read_line,
)
from prfaas_gateway.streams import TooMuchError, read_all

_log = logging.getLogger(__name__)
CONNECT_SECONDS = 3.0
_SILENT_SECONDS = 10.0
"""After which a stream is given up; the region counts as silent long before."""
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_STEADY_SECONDS = 30.0
_MOST_BYTES_PER_SECOND = 1 << 20
_MOST_BYTES_AT_ONCE = 16 << 20
_MAX_REFUSAL_BYTES = 64 << 10


class Listener(Protocol):
    """Who wants to know what a region says."""

    def heard(self, region: str, document: Document | None, size_bytes: int) -> None:
        """A line has come; None for a document of a type that is not known here."""

    def connected(self, region: str) -> None:
        """The region's gateways answer."""

    def stopped(self, region: str, obstacle: Obstacle | None) -> None:
        """They do not, or the stream has broken; None when they ended it in good order."""


@dataclass(slots=True)
class Allowance:
    """Bytes that are read without a pause: parsing must not take the event loop from requests."""

    per_second: float
    most: float
    left: float
    at: float

    def pause_seconds(self, size_bytes: int, now: float) -> float:
        """Take bytes; how long to wait before more are read."""
        self.left = min(self.most, self.left + (now - self.at) * self.per_second) - size_bytes
        self.at = now
        return max(0.0, -self.left / self.per_second)


class PeerStream:
    """Keeps one stream to a region's gateways at ``address``."""

    def __init__(
        self,
        region: str,
        address: str,
        own_region: str,
        server_name: str,
        trust: PeerTrust,
        session: aiohttp.ClientSession,
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self.region = region
        self.address = address
        self._own_region = own_region
        self._server_name = server_name
        self._trust = trust
        self._session = session
        self._listener = listener
        self._clock = clock
        self._greeted = False

    async def run(self) -> None:
        """Until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = self._clock()
            obstacle = await self._once()
            self._listener.stopped(self.region, obstacle)
            if self._clock() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            # Not all gateways of all regions at the same moment, when one comes back.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  a pause, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _once(self) -> Obstacle | None:
        self._greeted = False
        context = self._trust.client(self.region)
        if context is None:
            return no_bundle(self.region, self._trust.troubles.get(self.region, ""))
        try:
            async with self._session.get(
                f"https://{self.address}/v1/exchange",
                params={"version": str(VERSION)},
                ssl=context,
                server_hostname=self._server_name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=_SILENT_SECONDS
                ),
            ) as response:
                if response.status != 200:
                    return refused(response.status, await _answer(response), self.region, self._own_region)
                await self._read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, BadDocumentError, LineTooLongError) as error:
            if self._greeted:
                return broken(error, self.region)
            return obstacle_of(error, self.region, self.address, self._own_region)
        except Exception as error:  # noqa: BLE001  a bug, and what others say must not end the gateway through it
            _log.exception("the exchange failed inside the gateway", extra={"region": self.region})
            return broken(error, self.region)
        return None

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        lines = Lines(MAX_LINE_BYTES)
        allowance = Allowance(_MOST_BYTES_PER_SECOND, _MOST_BYTES_AT_ONCE, _MOST_BYTES_AT_ONCE, self._clock())
        async for piece in response.content.iter_any():
            for line in lines.feed(piece):
                document = read_line(line)
                if not self._greeted:
                    self._greet(document)
                self._listener.heard(self.region, document, len(line) + 1)
            pause = allowance.pause_seconds(len(piece), self._clock())
            if pause:
                await asyncio.sleep(pause)

    def _greet(self, document: Document | None) -> None:
        if not isinstance(document, Hello):
            raise BadDocumentError("the first line is no hello")
        if document.region != self.region:
            raise BadDocumentError(f"it says to be region {document.region}")
        if document.version > VERSION:
            raise BadDocumentError(f"it answers in version {document.version} where {VERSION} was asked for")
        self._greeted = True
        self._listener.connected(self.region)


async def _answer(response: aiohttp.ClientResponse) -> dict[str, object] | None:
    try:
        answer = json.loads(await read_all(response.content, _MAX_REFUSAL_BYTES))
    except (ValueError, TooMuchError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
