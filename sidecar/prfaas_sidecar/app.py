"""The process: puts the parts together, keeps them running, and takes them down within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from prfaas_sidecar.access import Access, PeersFile, of_config
from prfaas_sidecar.arena import Arena
from prfaas_sidecar.config import Config, ConfigError
from prfaas_sidecar.consuming import Consuming
from prfaas_sidecar.control import Control
from prfaas_sidecar.drain import Drain
from prfaas_sidecar.engine_socket import EngineSocket
from prfaas_sidecar.health import DrainCall
from prfaas_sidecar.health import application as health_application
from prfaas_sidecar.identity import parse
from prfaas_sidecar.kv_events.following import KvEvents
from prfaas_sidecar.kv_events.ledger import Ledger
from prfaas_sidecar.kv_events.serving import HeldBlocksApi
from prfaas_sidecar.load import LoadReport
from prfaas_sidecar.logs import fields
from prfaas_sidecar.measure import LinkMeasurements
from prfaas_sidecar.memory import arena_limit_bytes, available_bytes, check_arena
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.listener import Listener
from prfaas_sidecar.net.tls import Credentials
from prfaas_sidecar.node import Node
from prfaas_sidecar.peers import PeerServer
from prfaas_sidecar.producing import Producing
from prfaas_sidecar.records import Records
from prfaas_sidecar.status import status
from prfaas_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
MEASURE_SECONDS = 5.0
ROTATE_SECONDS = 2.0
PEERS_SECONDS = 2.0
_DIGEST_SHOWN = 12
_CLOSE_SECONDS = 1.0


class Sidecar:
    """One process from start to end."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError or OSError when it cannot start; the text says what to change."""
        self.config = config
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks = Tasks(self._crashed)
        access = of_config(config)
        self.credentials = Credentials(config.tls, access.regions) if config.tls is not None else None
        if config.identity is not None:
            identity = parse(config.identity)
        elif self.credentials is not None:
            identity = self.credentials.identity
        else:
            raise ConfigError("neither tls nor identity is given")
        check_arena(config.arena_bytes, available_bytes(), arena_limit_bytes(config))
        self.node = Node(
            config=config,
            identity=identity,
            arena=Arena(config.arena_bytes, preallocate=config.arena_preallocate),
            records=Records(config.limits.remembered_transfers, config.limits.remembered_calls_seconds),
            metrics=Metrics(),
            clock=time.monotonic,
            access=access,
        )
        self._peers_file = PeersFile(config.peers_file) if config.peers_file is not None else None
        if self._peers_file is not None:
            self.node.access = self._peers_file.refresh(self.node.access)
            if self.credentials is not None:
                self.credentials.trust(self.node.access.regions)
        self._producing = Producing(self.node)
        peers_tls = self.credentials if not config.insecure_plaintext_peers else None
        self._consuming = Consuming(self.node, peers_tls, self._tasks)
        self._peers = PeerServer(self.node, self._producing, peers_tls)
        self._measurements = LinkMeasurements(self.node.metrics, self.node.links)
        self._runners: list[web.AppRunner] = []
        self._listeners: list[Listener] = []
        self._engine_socket: EngineSocket | None = None
        self._held_blocks: Ledger | None = None
        self._peers_context = peers_tls.server if peers_tls else None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until a part fails (which raises)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            await self._start()
            _log.info(
                "sidecar started",
                extra=fields(
                    identity=str(self.node.identity),
                    arena_bytes=self.node.arena.size_bytes,
                    engine_socket=str(self.config.engine.socket),
                    ports={listener.name: listener.port for listener in self._listeners},
                    plaintext_peers=self.config.insecure_plaintext_peers,
                ),
            )
            await self._stop.wait()
            if self._failure is None:
                await self._drain()
        finally:
            await self._shut_down()
        if self._failure is not None:
            raise self._failure

    def not_ready(self) -> str | None:
        """Why the sidecar takes no transfers, or None."""
        if self.node.draining:
            return "draining"
        if self._engine_socket is None or not self._listeners:
            return "starting"
        if self.node.engine is None or not self.node.engine.ready:
            return "the engine's connector is not (completely) connected"
        return None

    async def _start(self) -> None:
        config, node = self.config, self.node
        control = Control(node, self._end, self._fail, self._status, self._kv_events())
        drain = Drain(node, lambda: self._running, self._tasks)
        health = health_application(
            node.metrics,
            self.not_ready,
            self._collect,
            self._status,
            DrainCall(drain, config.drain_token, config.drain_seconds),
            LoadReport(node).read,
        )
        self._engine_socket = await asyncio.to_thread(
            EngineSocket, node, self._producing, self._consuming, self._tasks
        )
        self._tasks.spawn(self._engine_socket.serve(), "engine-socket")
        if config.listen.peer is not None:
            self._listen(
                Listener(
                    "peer",
                    config.listen.peer,
                    self._peers.protocol,
                    self._peers_context,
                    self._refused,
                    self._tasks,
                )
            )
        if config.listen.control is not None and self.credentials is not None:
            runner = web.AppRunner(
                control.application(),
                handler_cancellation=True,
                access_log=None,
                shutdown_timeout=_CLOSE_SECONDS,
            )
            server = await self._run(runner)
            self._listen(
                Listener(
                    "control",
                    config.listen.control,
                    server,
                    self.credentials.server,
                    self._refused,
                    self._tasks,
                )
            )
        server = await self._run(web.AppRunner(health, access_log=None, shutdown_timeout=_CLOSE_SECONDS))
        self._listen(Listener("health", config.listen.health, server, None, self._refused, self._tasks))
        self._tasks.spawn(self._tick(), "tick")
        if self.credentials is not None:
            self._tasks.spawn(self._rotate(self.credentials), "rotate")
        if self._peers_file is not None:
            self._tasks.spawn(self._follow(self._peers_file), "peers-file")

    def _kv_events(self) -> HeldBlocksApi | None:
        """Begin to listen to what the engine publishes; None when that is not wanted, or nobody could ask."""
        settings = self.config.kv_events
        if not settings.enabled or self.config.listen.control is None:
            return None
        events = KvEvents(self.node, settings)
        self._tasks.spawn(events.follower.run(), "kv-events")
        self._held_blocks = events.ledger
        return events.api

    async def _run(self, runner: web.AppRunner) -> web.Server:
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None  # noqa: S101 - setup makes it
        return runner.server

    def _listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        self._tasks.spawn(listener.serve(), f"listen-{listener.name}")

    async def _tick(self) -> None:
        measured = 0.0
        while True:
            now = self.node.clock()
            self._producing.tick(now)
            self._consuming.tick(now)
            self._peers.tick(now)
            self.node.links.tick(now)
            self.node.sending.tick(now, self._peers.streams)
            if now - measured > MEASURE_SECONDS:
                measured = now
                self._measurements.update([*self._peers.streams, *self._consuming.streams])
                self._peers.close_strangers()
                self._consuming.close_strangers()
            await asyncio.sleep(TICK_SECONDS)

    async def _rotate(self, credentials: Credentials) -> None:
        while True:
            await asyncio.sleep(ROTATE_SECONDS)
            await asyncio.to_thread(credentials.refresh)

    async def _follow(self, file: PeersFile) -> None:
        while True:
            await asyncio.sleep(PEERS_SECONDS)
            access = await asyncio.to_thread(self._look, file)
            if access is not self.node.access:
                self._take(access)

    def _look(self, file: PeersFile) -> Access:
        access = file.refresh(self.node.access)
        if self.credentials is not None:
            # Before anybody of a new region is let in, and again while files of a rotation are half there.
            self.credentials.trust(access.regions)
        return access

    def _take(self, access: Access) -> None:
        """From now on these may talk to us. What has begun goes on."""
        self.node.access = access
        self._peers.close_strangers()
        self._consuming.close_strangers()

    async def _drain(self) -> None:
        """Refuse what is new, let what runs end, but no longer than the configuration says."""
        self.node.stopping = True
        _log.info(
            "draining",
            extra=fields(producing=self._producing.running, consuming=self._consuming.running),
        )
        await self._until(lambda: self._running == 0, self.config.drain_seconds)
        if left := self._running:
            _log.warning("drain time is over", extra=fields(transfers_cut=left))

    @property
    def _running(self) -> int:
        return self._producing.running + self._consuming.running

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait for something that an ending transfer or stream makes true, within a bound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    self.node.an_end.clear()
                    await self.node.an_end.wait()

    async def _shut_down(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._consuming.close("Draining", "the sidecar shuts down")
        self._peers.close("Draining", "the sidecar shuts down")
        await self._until(lambda: not self._peers.streams and not self._consuming.streams, _CLOSE_SECONDS)
        await self._tasks.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._engine_socket is not None:
            await asyncio.to_thread(self._engine_socket.close)

    def _end(self, transfer_id: str, code: str, message: str) -> bool:
        here = self._consuming.end(transfer_id, code, message)
        return self._producing.cancel(transfer_id, code) or here

    def _fail(self, transfer_id: str, code: str) -> bool:
        return self._consuming.end(transfer_id, code, "the gateway says that the prefill leg failed")

    def _refused(self, listener: str, reason: str) -> None:
        self.node.metrics.handshakes_refused.labels(listener, reason).inc()

    def _status(self) -> dict[str, Any]:
        return status(self.node, self._running)

    def _collect(self) -> None:
        metrics, access = self.node.metrics, self.node.access
        metrics.draining.set(self.node.draining)
        metrics.peers_read.set(access.read_at or 0)
        metrics.peers_broken.set(access.error is not None)
        # One digest at a time: a series for each that ever was would grow without end.
        metrics.peers_in_force.clear()
        digest = (access.digest or "")[:_DIGEST_SHOWN]
        for name, entries in (
            ("accept", access.accept),
            ("dial", access.dial),
            ("gateways", access.gateways),
        ):
            metrics.peers_in_force.labels(name, digest).set(len(entries))
        if self.credentials is not None:
            trusted, broken = self.credentials.counts()
            metrics.regions.labels("trusted").set(trusted)
            metrics.regions.labels("broken").set(broken)
        self.node.links.collect(metrics)
        if self._held_blocks is not None:
            metrics.held_blocks.set(len(self._held_blocks))
            metrics.held_blocks_complete.set(self._held_blocks.complete)
        metrics.arena_total.set(self.node.arena.size_bytes)
        metrics.arena_used.set(self.node.arena.used_bytes)
        metrics.streams.labels("consumer").set(len(self._consuming.streams))
        metrics.streams.labels("producer").set(len(self._peers.streams))

    def _crashed(self, name: str, error: BaseException) -> None:
        """A part died: say so and end the process, whose supervisor starts it afresh."""
        _log.critical("a part of the sidecar failed", extra=fields(part=name), exc_info=error)
        self._failure = self._failure or error
        self._stop.set()
