"""The stream of one watch request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from prfaas.kube import errors
from prfaas.kube.api import WatchEvent
from prfaas.kube.transport import describe


@asynccontextmanager
async def watching(
    send: Callable[[], Awaitable[aiohttp.ClientResponse]],
    *,
    doing: str,
    silent_seconds: float,
    connect_seconds: float,
) -> AsyncIterator[AsyncIterator[WatchEvent]]:
    """Open the watch that `send` asks for; the connection is closed at exit.

    Raises:
        KubeError: as `KubeApi.watch` says, at entry or by the iterator.
    """
    try:
        async with asyncio.timeout(connect_seconds):
            response = await send()
    except TimeoutError as error:
        raise errors.DeadlineExceeded(f"{doing}: no answer within {connect_seconds:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise errors.Unreachable(f"{doing}: {describe(error)}") from error
    try:
        if response.status >= 400:
            raise await _refusal(response, doing, connect_seconds)
        yield _events(response, doing, silent_seconds)
    finally:
        abort(response)


def abort(response: aiohttp.ClientResponse) -> None:
    """Close its connection at once. A watch's answer has no end to wait for, and neither has a farewell of
    TLS.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _refusal(response: aiohttp.ClientResponse, doing: str, seconds: float) -> errors.KubeError:
    try:
        async with asyncio.timeout(seconds):
            body = await response.read()
    except (TimeoutError, aiohttp.ClientError, OSError):
        body = b""
    return errors.from_answer(response.status, body, response.headers.get("Retry-After"), doing=doing)


async def _events(
    response: aiohttp.ClientResponse, doing: str, silent_seconds: float
) -> AsyncIterator[WatchEvent]:
    while True:
        try:
            async with asyncio.timeout(silent_seconds):
                line = await response.content.readline()
        except TimeoutError as error:
            raise errors.DeadlineExceeded(
                f"{doing}: nothing came for {silent_seconds:.0f} s, not even a bookmark"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.Unreachable(f"{doing}: {describe(error)}") from error
        except ValueError as error:
            raise errors.MalformedAnswer(f"{doing}: a line is longer than any object may be") from error
        if not line:
            return
        if not line.endswith(b"\n"):
            raise errors.Unreachable(f"{doing}: the stream ended inside an event")
        yield _event(line, doing)


def _event(line: bytes, doing: str) -> WatchEvent:
    try:
        event = json.loads(line)
        kind, body = str(event["type"]), dict(event["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.MalformedAnswer(f"{doing}: a line is no watch event") from error
    if kind == "ERROR":
        status = body.get("code")
        raise errors.from_answer(
            status if isinstance(status, int) else 500, json.dumps(body).encode(), doing=doing
        )
    return WatchEvent(kind, body)
