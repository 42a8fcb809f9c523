"""The peer port: HTTP over mutual TLS for gateways of other regions, bounded in connections, streams and
time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from prfaas_gateway.config import split_address
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.peering.feed import Feed
from prfaas_gateway.peering.legs import Legs, RefusalError
from prfaas_gateway.peering.trust import PeerObject, PeerTrust
from prfaas_gateway.peering.wire import VERSION, LinkState, PeerPod

MAX_CONNECTIONS = 1024
MAX_STREAMS_PER_REGION = 32
HANDSHAKE_SECONDS = 5.0
SLOW_READER_SECONDS = 5.0
_TICK_SECONDS = 0.25
_BUFFER_BYTES = 64 << 10
_GONE_MILLISECONDS = 10_000
"""After which data that nobody confirms ends a connection: a cut is not said by anybody."""


class Told(Protocol):
    """What there is to tell a region."""

    @property
    def cluster(self) -> str | None:
        """Name of the own cluster."""

    @property
    def leaving(self) -> bool:
        """Whether this gateway is about to end, so that others had better listen to another one."""

    def offered_to(self, region: str) -> Mapping[str, PeerPod]:
        """Pods, by uid; what has not changed is the same object."""

    def own_links(self) -> Sequence[LinkState]:
        """Links that end here."""

    def own_report(self) -> Mapping[str, Any] | None:
        """The cluster's report."""


class PeerListener:
    """Answers gateways of other regions."""

    def __init__(
        self,
        trust: PeerTrust,
        own_region: str,
        told: Told,
        metrics: Metrics,
        bytes_per_second: float,
        clocks: tuple[Callable[[], float], Callable[[], float]],
    ) -> None:
        self._trust = trust
        self._own_region = own_region
        self._told = told
        self._metrics = metrics
        self._bytes_per_second = bytes_per_second
        self._clock, self._wall_clock = clocks
        self._streams: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None while it does not."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else None

    async def start(self, address: str, legs: Legs) -> None:
        """Listen.

        Raises:
            OSError: that address cannot be listened on.
        """
        app = web.Application(client_max_size=1 << 20)
        app.add_routes(
            [web.get("/v1/exchange", self._exchange), web.get("/v1/reach", self._reach), *legs.routes()]
        )
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        host, port = split_address(address)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: self._protocol(runner),
                host or None,
                port,
                ssl=self._trust.listener,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                backlog=256,
            )
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Accept nobody any more, end streams, and give legs a moment."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._server is not None:
            await self._server.wait_closed()
        self._server = self._runner = None

    def caller(self, request: web.Request) -> str:
        """The region of who asks, as proved by the handshake.

        Raises:
            RefusalError: it is not trusted any more, or by another bundle now.
        """
        return self._proved(request).region

    def _proved(self, request: web.Request) -> PeerObject:
        connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        if not isinstance(connection, PeerObject):
            raise RefusalError(
                403, "NotAuthorised", "this port is for gateways with certificates", retryable=False
            )
        if not self._trust.stands(connection):
            text = "what this connection was verified by is not trusted any more; connect anew"
            raise RefusalError(401, "UnknownRegion", text, retryable=True)
        return connection

    def _protocol(self, runner: web.AppRunner) -> asyncio.BaseProtocol:
        server = runner.server
        if server is None or len(server.connections) >= MAX_CONNECTIONS:
            self._metrics.peers_refused.labels("unknown", "TooManyConnections").inc()
            return _Closed()
        return server()

    async def _reach(self, request: web.Request) -> web.StreamResponse:
        try:
            self.caller(request)
        except RefusalError as refusal:
            return refusal.response()
        return web.json_response(
            {"region": self._own_region, "cluster": self._told.cluster, "now": self._wall_clock()}
        )

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        try:
            connection = self._proved(request)
            self._may_begin(request, connection.region)
        except RefusalError as refusal:
            response = refusal.response()
            response.force_close()
            return response
        self._streams[connection.region] += 1
        try:
            return await self._tell(request, connection)
        finally:
            self._streams[connection.region] -= 1

    def _may_begin(self, request: web.Request, region: str) -> None:
        version = request.query.get("version", "")
        if not version.isdecimal() or len(version) > 6 or int(version) < VERSION:
            text = (
                f"this gateway speaks version {VERSION} of the exchange, no earlier one: upgrade the caller"
            )
            raise RefusalError(400, "UnsupportedVersion", text, retryable=False)
        if self._told.leaving:
            raise RefusalError(503, "Draining", "this gateway is about to end; connect anew", retryable=True)
        if self._streams[region] >= MAX_STREAMS_PER_REGION:
            text = (
                f"gateways of region {region} have {MAX_STREAMS_PER_REGION} streams to this gateway already"
            )
            raise RefusalError(429, "TooManyStreams", text, retryable=True)

    async def _tell(self, request: web.Request, connection: PeerObject) -> web.StreamResponse:
        region = connection.region
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.force_close()
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
            _end_when_unconfirmed(request.transport.get_extra_info("socket"))
        await response.prepare(request)
        feed = Feed(self._bytes_per_second, self._clock())
        data = feed.hello(self._own_region, self._told.cluster, self._wall_clock())
        try:
            while not self._told.leaving and self._trust.stands(connection):
                data += b"".join(
                    feed.lines(
                        self._clock(),
                        self._wall_clock(),
                        self._told.offered_to(region),
                        self._told.own_links(),
                        self._told.own_report(),
                    )
                )
                if data:
                    async with asyncio.timeout(SLOW_READER_SECONDS):
                        await response.write(data)
                    self._metrics.exchange_bytes.labels(region, "sent").inc(len(data))
                    data = b""
                await asyncio.sleep(_TICK_SECONDS)
            await response.write_eof()
        except TimeoutError:
            self._metrics.peers_refused.labels(region, "SlowReader").inc()
            if request.transport is not None:
                request.transport.abort()
        except (ConnectionResetError, ConnectionAbortedError):
            # It went; it comes again when it wants to.
            pass
        return response


class _Closed(asyncio.Protocol):
    """Ends a connection that there is no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.abort()  # type: ignore[attr-defined]


def _end_when_unconfirmed(connection: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MILLISECONDS)
