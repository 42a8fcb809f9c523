"""The two HTTP applications: the clients' API, and health and metrics on a port of their own."""

from __future__ import annotations

import asyncio
import logging
import time

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from prfaas_gateway.classify import Endpoint
from prfaas_gateway.errors import GatewayError, unavailable
from prfaas_gateway.exchange import Exchange
from prfaas_gateway.services import Services
from prfaas_gateway.standing import observations, observe, readiness, status

_log = logging.getLogger(__name__)
_LINGER_SECONDS = 1
"""How long a refused body is still read, so that its sender can see the refusal."""
_CREATED = int(time.time())


def client_app(services: Services) -> web.Application:
    """OpenAI's API, as far as it exists here."""
    app = web.Application(client_max_size=services.config.limits.max_body_bytes)
    for endpoint in Endpoint:
        app.router.add_post(endpoint.value, _Generate(services, endpoint).answer)
    models = _Models(services)
    app.router.add_get("/v1/models", models.all)
    app.router.add_get("/v1/models/{name:.+}", models.one)
    app.router.add_route("*", "/{path:.*}", _not_here)
    return app


def client_runner(services: Services) -> web.AppRunner:
    """Serves `client_app`: a client that leaves cancels its request; stopping waits for those that run."""
    return web.AppRunner(
        client_app(services),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=services.config.timeouts.drain_seconds,
        lingering_time=_LINGER_SECONDS,
    )


def health_app(services: Services) -> web.Application:
    """Probes and metrics."""
    health = _HealthPages(services)
    app = web.Application()
    app.router.add_get("/healthz", health.alive)
    app.router.add_get("/readyz", health.ready)
    app.router.add_get("/status", health.status)
    app.router.add_get("/metrics", health.metrics)
    app.router.add_get("/v1/regions", health.regions)
    app.router.add_get("/observations", health.observations)
    return app


class _Generate:
    def __init__(self, services: Services, endpoint: Endpoint) -> None:
        self._services = services
        self._endpoint = endpoint

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one request; whatever happens is counted and logged once."""
        services = self._services
        exchange = Exchange(services, request, self._endpoint, services.clock())
        status, code = 500, "InternalError"
        services.in_flight += 1
        try:
            response = await self._serve(exchange)
            status, code = response.status, exchange.record.code
            if code == "OK" and status >= 400:
                code = f"Http{status}"
        except GatewayError as error:
            status, code = error.status, error.code
            response = _error_response(error, exchange.route_headers())
        except (asyncio.CancelledError, ConnectionResetError):
            status, code = 499, "ClientGone"
            exchange.record.client_gone = True
            services.metrics.client_gone.inc()
            exchange.abandon()
            raise
        except Exception:
            _log.exception("a request failed inside the gateway")
            exchange.abandon()
            if exchange.response is not None:
                # Headers are out; closing the connection is the only honest end.
                raise
            response = _error_response(GatewayError(500, code, "the gateway failed; this is a bug"), {})
        finally:
            services.in_flight -= 1
            exchange.close(status, code)
            services.supervisor.start(exchange.conclude(), "conclude request")
        return response

    async def _serve(self, exchange: Exchange) -> web.StreamResponse:
        services = self._services
        if services.draining:
            raise unavailable("Draining", "this gateway is shutting down; try again")
        if services.in_flight > services.config.limits.max_in_flight:
            raise unavailable("Overloaded", "the gateway serves as many requests as it may; try again")
        with services.budget.account() as account:
            return await exchange.serve(account)


def _error_response(error: GatewayError, headers: dict[str, str]) -> web.Response:
    response = web.Response(
        status=error.status,
        body=error.body(),
        content_type="application/json",
        headers={"Server": "prfaas-gateway", **headers},
    )
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.oversized:
        response.force_close()
    return response


class _Models:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def all(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [self._card(name) for name in self._services.models]}
        )

    async def one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._services.models:
            return _error_response(
                GatewayError(
                    404, "model_not_found", "this model does not exist here; see /v1/models", param="model"
                ),
                {},
            )
        return web.json_response(self._card(name))

    def _card(self, name: str) -> dict[str, object]:
        model = self._services.models[name]
        return {
            "id": name,
            "object": "model",
            "created": _CREATED,
            "owned_by": "prfaas",
            "root": model.name,
            "parent": None if name == model.name else model.name,
            "max_model_len": model.max_model_tokens,
        }


async def _not_here(request: web.Request) -> web.Response:
    offered = {endpoint.value: "POST" for endpoint in Endpoint} | {"/v1/models": "GET"}
    method = offered.get(request.path)
    if method is not None:
        error = GatewayError(405, "MethodNotAllowed", f"{request.path} takes {method}")
        return _error_response(error, {"Allow": method})
    return _error_response(
        GatewayError(404, "NotFound", f"this gateway offers {', '.join(offered)} and nothing else"), {}
    )


class _HealthPages:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(self, _: web.Request) -> web.Response:
        """Whether requests should come here: see docs/gateway.md."""
        ready, answer = readiness(self._services)
        return web.json_response(answer, status=200 if ready else 503)

    async def status(self, _: web.Request) -> web.Response:
        return web.json_response(status(self._services))

    async def observations(self, _: web.Request) -> web.Response:
        """What the operator adds up: see docs/scheduler.md."""
        return web.json_response(observations(self._services))

    async def regions(self, _: web.Request) -> web.Response:
        """How other regions are seen from here; a gateway without a cluster knows none."""
        peers = self._services.peers
        if peers is None:
            own = {"version": 1, "region": self._services.config.region, "listening": False, "regions": []}
            return web.json_response(own)
        return web.json_response(peers.picture())

    async def metrics(self, _: web.Request) -> web.Response:
        observe(self._services)
        body = generate_latest(self._services.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
