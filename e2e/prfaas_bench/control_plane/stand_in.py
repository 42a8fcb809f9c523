"""Answers for the sidecar and the engine of every pod, which kwok only pretends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prfaas_bench.control_plane.bodies import ENGINE_PORT, engine_report

SIDECAR_HEALTH_PORT = 7402
_FINGERPRINT = "ab" * 32
_REQUEST_SECONDS = 10.0


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Every pod's sidecar tells of an engine, and every engine is healthy, within the block.

    Raises:
        OSError: one of the two ports is taken on this machine.
    """
    sidecar, engine = engine_report(_FINGERPRINT), b"{}"
    servers = [
        await asyncio.start_server(_answer(body), "0.0.0.0", port)  # noqa: S104 - pods have many addresses
        for port, body in ((SIDECAR_HEALTH_PORT, sidecar), (ENGINE_PORT, engine))
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()


def _answer(body: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head + body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    return answer
