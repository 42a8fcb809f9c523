"""What may happen to a connection: a proxy that cuts, stalls and damages, and clients that should not be
heard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from prfaas_demo.certificates import Leaf

_CHUNK_BYTES = 16 << 10
_CLIENT_SECONDS = 10.0


class Proxy:
    """Relays TCP between a consumer and a producer, both ways."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.accepting = True
        self.connections = 0
        self.bytes_to_consumer = 0
        self.damage: set[int] = set()
        """Positions in the byte stream towards the consumer, counted over all connections, that get a
        flipped bit."""
        self.damage_every = 0

    @property
    def address(self) -> str:
        """Where to dial instead of the producer."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Keep connections open and pass nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        """Undo `stall`."""
        self._flowing.set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Stop everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.accepting:
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, upstream_writer}
        for source, sink, damaged in ((reader, upstream_writer, False), (upstream_reader, writer, True)):
            task = asyncio.create_task(self._relay(source, sink, damaged=damaged))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, damaged: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(_CHUNK_BYTES):
                await self._flowing.wait()
                sink.write(self._damaged(data) if damaged else data)
                await sink.drain()
        sink.transport.abort()
        self._writers.discard(sink)

    def _damaged(self, data: bytes) -> bytes:
        start, self.bytes_to_consumer = self.bytes_to_consumer, self.bytes_to_consumer + len(data)
        changed = bytearray(data)
        for at in [at for at in self.damage if start <= at < start + len(data)]:
            changed[at - start] ^= 0x10
        if self.damage_every and len(data) > self.damage_every:
            changed[self.damage_every] ^= 0x10
        return bytes(changed)


@contextlib.asynccontextmanager
async def proxy(address: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a producer."""
    host, _, port = address.rpartition(":")
    running = Proxy(host, int(port))
    await running.start()
    try:
        yield running
    finally:
        await running.close()


async def tls_client(
    address: str,
    leaf: Leaf | None,
    ca_pem: bytes,
    folder: Path,
    data: bytes = b"",
    server_name: str | None = None,
) -> bytes:
    """Connect as anybody could, send, and return what came back until the sidecar closed. Without a server
    name, as sidecars of earlier versions do."""
    return await asyncio.to_thread(_tls_client, address, leaf, ca_pem, folder, data, server_name)


async def plain_client(address: str, data: bytes) -> bytes:
    """The same without TLS."""
    return await asyncio.to_thread(_plain_client, address, data)


async def stubborn_client(
    address: str, leaf: Leaf, ca_pem: bytes, folder: Path, data: bytes, heartbeat: bytes
) -> None:
    """Send ``data``, then only signs of life, and read nothing, until the sidecar breaks the connection."""
    await asyncio.to_thread(_stubborn_client, address, leaf, ca_pem, folder, data, heartbeat)


def _stubborn_client(
    address: str, leaf: Leaf, ca_pem: bytes, folder: Path, data: bytes, heartbeat: bytes
) -> None:
    files = leaf.write(folder, "stubborn")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca_pem.decode())
    context.load_cert_chain(files.certificate, files.key)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=_CLIENT_SECONDS) as raw,
        context.wrap_socket(raw) as wrapped,
        contextlib.suppress(ConnectionError, ssl.SSLError),
    ):
        wrapped.sendall(data)
        closed = threading.Event()
        for _ in range(200):
            wrapped.sendall(heartbeat)
            closed.wait(0.1)


def _tls_client(
    address: str, leaf: Leaf | None, ca_pem: bytes, folder: Path, data: bytes, server_name: str | None
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca_pem.decode())
    if leaf is not None:
        files = leaf.write(folder, "client")
        context.load_cert_chain(files.certificate, files.key)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=_CLIENT_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=server_name) as wrapped,
    ):
        return _say(wrapped, data)


def _plain_client(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_CLIENT_SECONDS) as raw:
        return _say(raw, data)


def _say(connection: socket.socket, data: bytes) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        if data:
            connection.sendall(data)
        while part := connection.recv(_CHUNK_BYTES):
            answer += part
    return answer
