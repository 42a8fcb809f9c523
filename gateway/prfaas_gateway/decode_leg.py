"""The decode leg: the client's own request to a decode engine, to the first byte worth sending and after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from yarl import URL

from prfaas_gateway.sockets import socket_to_peer
from prfaas_gateway.sse import EventCutter, EventTooLargeError, data_of, split_events
from prfaas_gateway.streams import Account, TooMuchError, next_piece, read_all

_RETRYABLE_STATUS = frozenset({429, 500, 502, 503, 504})
_ENGINE_KEEPALIVE_SECONDS = 4
"""Shorter than the five seconds after which vLLM's server closes an idle connection under our feet."""
_ERROR_START = b'data: {"error"'


@dataclass(eq=False)
class DecodeError(Exception):
    """The decode leg failed before the first byte of an answer.

    Attributes:
        code: what happened.
        status: the engine's status, if it answered.
        blames_engine: whether it speaks against the engine's health; a full engine is not an ill one.
        retry_after: the engine's own Retry-After.
    """

    code: str
    status: int | None = None
    blames_engine: bool = True
    retry_after: str | None = None

    def __str__(self) -> str:
        return self.code


class StreamBrokenError(Exception):
    """The engine stopped in the middle of an answer; the text says how, without content."""


@dataclass(slots=True, eq=False)
class Answer:
    """An engine's answer that has begun.

    Attributes:
        status: HTTP status.
        headers: all headers as they came.
        first: whole events so far, or the complete body of an answer that is no stream.
        events: True for a stream of events, of which `rest` gives the remaining ones.
    """

    status: int
    headers: list[tuple[str, str]]
    first: bytes
    events: bool
    _response: aiohttp.ClientResponse
    _cutter: EventCutter | None
    _idle_seconds: float

    async def rest(self) -> AsyncIterator[bytes]:
        """Whole events as they come.

        Raises:
            StreamBrokenError: the engine went away, fell silent, or sent an event that is too large.
        """
        if self._cutter is None:
            return
        try:
            while piece := await next_piece(self._response.content, self._idle_seconds):
                whole = self._cutter.feed(piece)
                if whole:
                    yield whole
        except TimeoutError as error:
            raise StreamBrokenError("the engine fell silent") from error
        except EventTooLargeError as error:
            raise StreamBrokenError(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise StreamBrokenError("the engine's connection broke") from error
        if self._cutter.rest():
            raise StreamBrokenError("the engine's stream ended inside an event")

    def close(self) -> None:
        """Close the connection unless the answer is complete, which makes the engine abort."""
        self._response.close()


class DecodeClient:
    """Sends decode legs to engines of this region."""

    def __init__(
        self, *, connect_seconds: float, idle_seconds: float, max_event_bytes: int, max_response_bytes: int
    ) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_ENGINE_KEEPALIVE_SECONDS, socket_factory=socket_to_peer
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self._idle_seconds = idle_seconds
        self._max_event_bytes = max_event_bytes
        self._max_response_bytes = max_response_bytes

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def open(self, url: URL, body: bytes, headers: list[tuple[str, str]], account: Account) -> Answer:
        """Send the request and wait for the first whole event, or for the whole body if it is no stream.

        The caller bounds the time. Cancelling closes the connection, which makes the engine abort.

        Raises:
            DecodeError: nothing worth sending to the client came back.
        """
        try:
            try:
                return await self._open(url, body, headers, account)
            except aiohttp.ServerDisconnectedError:
                # A kept connection that the engine closed just then. The request did not reach it, or it died
                # of it; once more tells which.
                return await self._open(url, body, headers, account)
        except TimeoutError as error:
            raise DecodeError("PeerUnreachable") from error
        except TooMuchError as error:
            raise DecodeError("ResponseTooLarge", blames_engine=False) from error
        except EventTooLargeError as error:
            raise DecodeError("ResponseTooLarge", blames_engine=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise DecodeError("PeerUnreachable") from error

    async def get(self, url: URL, timeout_seconds: float) -> int:
        """Status of a GET, for probes.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError: no answer.
        """
        async with asyncio.timeout(timeout_seconds), self._session.get(url) as response:
            return response.status

    async def post_json(
        self, url: URL, body: object, timeout_seconds: float, limit_bytes: int
    ) -> tuple[int, bytes]:
        """Status and body of a small POST, for checks.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError, TooMuchError: no usable answer.
        """
        headers = {"content-type": "application/json"}
        data = json.dumps(body).encode()
        async with (
            asyncio.timeout(timeout_seconds),
            self._session.post(url, data=data, headers=headers) as response,
        ):
            return response.status, await read_all(response.content, limit_bytes)

    async def _open(self, url: URL, body: bytes, headers: list[tuple[str, str]], account: Account) -> Answer:
        response = await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        try:
            _refuse_status(response)
            if response.content_type == "text/event-stream":
                return await self._first_event(response)
            whole = await read_all(response.content, self._max_response_bytes, account)
            return Answer(
                response.status,
                list(response.headers.items()),
                whole,
                False,
                response,
                None,
                self._idle_seconds,
            )
        except BaseException:
            response.close()
            raise

    async def _first_event(self, response: aiohttp.ClientResponse) -> Answer:
        cutter = EventCutter(self._max_event_bytes)
        while piece := await response.content.readany():
            first = cutter.feed(piece)
            if first:
                _refuse_error_event(first)
                headers = list(response.headers.items())
                return Answer(response.status, headers, first, True, response, cutter, self._idle_seconds)
        raise DecodeError("StreamEmpty")


def _refuse_status(response: aiohttp.ClientResponse) -> None:
    if response.status in _RETRYABLE_STATUS:
        raise DecodeError(
            f"Http{response.status}",
            status=response.status,
            blames_engine=response.status not in (429, 503),
            retry_after=response.headers.get("Retry-After"),
        )


def _refuse_error_event(first: bytes) -> None:
    """A stream that begins with an engine's error is a failed leg; with a client's error it is an answer."""
    if not first.startswith(_ERROR_START):
        return
    try:
        error = json.loads(data_of(split_events(first)[0]) or b"")["error"]
        status = int(error["code"])
    except (ValueError, KeyError, TypeError):
        status = 500
    if status >= 500:
        raise DecodeError("EngineError", status=status)
