"""Plain HTTP for the kubelet, Prometheus and the operator. Says nothing about requests."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from prfaas_sidecar.drain import Drain, TooManyCallsError
from prfaas_sidecar.metrics import Metrics

MAX_DRAIN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class DrainCall:
    """Who may call `/drain`, and for how long it waits unless the call says so."""

    drain: Drain
    token: str | None
    default_seconds: float


def application(
    metrics: Metrics,
    not_ready: Callable[[], str | None],
    collect: Callable[[], None],
    status: Callable[[], dict[str, Any]],
    draining: DrainCall,
    load: Callable[[], Awaitable[dict[str, Any]]],
) -> web.Application:
    """`/healthz`, `/readyz`, `/metrics`, `/status`, `/load` and `/drain`.

    Args:
        metrics: what is shown.
        not_ready: why the sidecar is not ready, or None.
        collect: brings gauges up to date before they are shown.
        status: what `/status` shows.
        draining: what `/drain` does.
        load: what `/load` shows.
    """

    async def healthz(_: web.Request) -> web.Response:
        # The process's own: a sidecar whose engine is gone is not to be restarted.
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

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(status())

    async def show_load(_: web.Request) -> web.Response:
        return web.json_response(await load())

    async def drain(request: web.Request) -> web.Response:
        if not may_drain(request, draining.token):
            needed = "the token of drain_token" if draining.token else "to come from the pod itself"
            return _error(403, "NotAuthorised", f"a call of /drain needs {needed}")
        try:
            seconds = float(request.query.get("seconds", draining.default_seconds))
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= MAX_DRAIN_SECONDS:
            return _error(400, "BadRequest", f"seconds is a number from 0 to {MAX_DRAIN_SECONDS:g}")
        try:
            return web.Response(text=f"{await draining.drain.wait(seconds)}\n")
        except TooManyCallsError:
            return _error(429, "TooManyCalls", "too many calls of /drain wait already")

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", show),
            web.get("/status", show_status),
            web.get("/load", show_load),
            # A HEAD must not drain.
            web.get("/drain", drain, allow_head=False),
        ]
    )
    return app


def may_drain(request: web.Request, token: str | None) -> bool:
    """With a token, whoever knows it; without one, whoever calls from this pod."""
    if token is not None:
        return hmac.compare_digest(request.query.get("token", "").encode(), token.encode())
    if request.transport is None:
        return False
    caller, here = (request.transport.get_extra_info(name) for name in ("peername", "sockname"))
    return bool(caller and here and caller[0] == here[0])


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"code": code, "message": message, "retryable": status == 429}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")
