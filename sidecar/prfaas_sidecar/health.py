"""Plain HTTP for the kubelet and Prometheus. Says nothing about requests."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from prfaas_sidecar.metrics import Metrics


def application(
    metrics: Metrics, not_ready: Callable[[], str | None], collect: Callable[[], None]
) -> web.Application:
    """`/healthz`, `/readyz` and `/metrics`.

    Args:
        metrics: what is shown.
        not_ready: why the sidecar is not ready, or None.
        collect: brings gauges up to date before they are shown.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = not_ready()
        return (
            web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")
        )

    async def show(_: web.Request) -> web.Response:
        collect()
        return web.Response(
            body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show)])
    return app
