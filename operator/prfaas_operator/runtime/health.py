"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the operator is not ready: what, and what to look at."""

    what: str


Check = Callable[[], Iterable[Trouble]]


class HealthServer:
    """Answers probes and scrapes.

    Args:
        checks: each names what is wrong now; none wrong is ready.
    """

    def __init__(self, checks: Iterable[Check], metrics: CollectorRegistry) -> None:
        self._checks = tuple(checks)
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port = 0

    def troubles(self) -> tuple[Trouble, ...]:
        """All that is wrong now."""
        return tuple(trouble for check in self._checks for trouble in check())

    async def start(self, listen: str) -> None:
        """Listen at host:port; port 0 takes any, and `port` says which."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._scrape)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        host, _, port = listen.rpartition(":")
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        troubles = self.troubles()
        if not troubles:
            return web.Response(text="ok\n")
        text = "".join(f"{trouble.what}\n" for trouble in troubles)
        return web.Response(text=text, status=503)

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._metrics), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
