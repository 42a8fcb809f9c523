"""Calls of other regions' gateways for a pod of this cluster, passed on to its sidecar.

The caller's region may reach pods of the pools that are offered to it, and of those nothing but legs,
transfers and what their engines hold. Errors keep the sidecar's codes; `via: gateway` says that they came
this way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from prfaas.held_blocks import read_question
from prfaas_gateway.control import ControlClient, ControlError
from prfaas_gateway.fleet import Prefiller
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.peering.offers import Offers
from prfaas_gateway.streams import Budget, TooMuchError, read_all

MAX_LEGS_PER_REGION = 512
MAX_READERS_PER_REGION = 512
"""Calls that wait for news of what engines hold: one for each pod and gateway of the region."""
_BYTES_PER_TOKEN = 6
"""Of a prompt's ids in JSON: enough to tell how busy an engine is."""
_PASSED_HEADERS = ("content-type", "x-request-id", "traceparent", "tracestate")


@dataclass(eq=False)
class RefusalError(Exception):
    """An answer in place of the sidecar's."""

    status: int
    code: str
    message: str
    retryable: bool

    def response(self) -> web.Response:
        """As it goes to the caller."""
        error = {"code": self.code, "message": self.message, "retryable": self.retryable, "via": "gateway"}
        return web.json_response({"error": error}, status=self.status)


def offered_engine(offers: Offers, engines: Iterable[Prefiller], uid: str, region: str) -> Prefiller:
    """The engine of an own pod that a region asks for.

    Raises:
        RefusalError: there is none, or not for that region.
    """
    regions = offers.regions.get(uid)
    if regions is not None and region not in regions:
        text = f"the pod's pool is not offered to region {region}: no decode pool there has a route to it"
        raise RefusalError(403, "NotAuthorised", text, retryable=False)
    engine = next((each for each in engines if each.uid == uid and each.region is None), None)
    if regions is None or engine is None:
        raise RefusalError(
            404, "UnknownPod", "no such pod here: it has gone, or its pool is new", retryable=True
        )
    return engine


class Legs:
    """Handlers below `/v1/legs`.

    Args:
        engine_of: by uid of the pod and region of the caller; see `offered_engine`.
        caller: the region of a request's peer, as its certificate says; raises `RefusalError` for one that is
            not trusted any more.
    """

    def __init__(
        self,
        engine_of: Callable[[str, str], Prefiller],
        control: ControlClient,
        metrics: Metrics,
        budget: Budget,
        caller: Callable[[web.Request], str],
        clock: Callable[[], float],
        *,
        max_body_bytes: int,
        call_seconds: float,
        leg_seconds: float,
    ) -> None:
        self._engine_of = engine_of
        self._control = control
        self._metrics = metrics
        self._budget = budget
        self._caller = caller
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._call_seconds = call_seconds
        self._leg_seconds = leg_seconds
        self._running: Counter[str] = Counter()
        self._readers: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        transfer = "/v1/legs/{uid}/transfers/{id:[0-9a-f]{32}}"
        return [
            web.post("/v1/legs/{uid}/prefill", self.prefill),
            web.post(transfer + "/{verb:fail|cancel}", self.tell),
            web.get(transfer, self.look),
            web.get("/v1/legs/{uid}/held-blocks", self.held_blocks),
        ]

    async def prefill(self, request: web.Request) -> web.StreamResponse:
        """Run a prefill leg. The caller going away ends it."""
        return await self._answer(request, "prefill", self._leg_seconds)

    async def tell(self, request: web.Request) -> web.StreamResponse:
        """That a transfer has failed, or that nobody wants it."""
        match = request.match_info
        return await self._answer(request, f"transfers/{match['id']}/{match['verb']}", self._call_seconds)

    async def look(self, request: web.Request) -> web.StreamResponse:
        """What is known of a transfer."""
        return await self._answer(request, f"transfers/{request.match_info['id']}", self._call_seconds)

    async def held_blocks(self, request: web.Request) -> web.StreamResponse:
        """What the pod's engine holds, as its sidecar tells."""
        try:
            region = self._caller(request)
            engine = self._engine_of(request.match_info["uid"], region)
            cursor, wait_seconds = read_question(request.query)
            with self._counted(region, self._readers, MAX_READERS_PER_REGION):
                news = await self._control.held_blocks(engine.target, cursor, wait_seconds)
        except RefusalError as refusal:
            return refusal.response()
        except ValueError as error:
            return RefusalError(400, "BadRequest", str(error), retryable=False).response()
        except ControlError as error:
            text = "the pod's sidecar did not tell what its engine holds"
            return RefusalError(502, error.code, text, error.retryable).response()
        if news is None:
            return RefusalError(404, "NotSupported", "this engine does not tell", retryable=False).response()
        return web.Response(body=news.encode(), content_type="application/octet-stream")

    async def _answer(self, request: web.Request, path: str, seconds: float) -> web.StreamResponse:
        region = "unknown"
        try:
            region = self._caller(request)
            engine = self._engine_of(request.match_info["uid"], region)
            with self._counted(region, self._running, MAX_LEGS_PER_REGION):
                response = await self._ask(request, engine, path, seconds)
        except RefusalError as refusal:
            response = refusal.response()
            if refusal.status in (401, 413):
                response.force_close()
        if path == "prefill":
            outcome = "OK" if response.status == 200 else code_of(response)
            self._metrics.passed_legs.labels(region, outcome).inc()
        return response

    async def _ask(self, request: web.Request, engine: Prefiller, path: str, seconds: float) -> web.Response:
        is_leg = path == "prefill"
        if is_leg and not engine.open:
            raise RefusalError(
                503, "Draining", "the pod takes no new requests; try another pod", retryable=True
            )
        headers = {name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers}
        with self._budget.account() as account:
            body = None
            try:
                if request.method == "POST":
                    body = await read_all(request.content, self._max_body_bytes, account)
            except TooMuchError as error:
                text = f"the leg's body is {error}: a limit of the gateway that passes it on"
                raise RefusalError(413, "BodyTooLarge", text, retryable=False) from error
            with engine.work(len(body or b"") // _BYTES_PER_TOKEN) if is_leg else nullcontext():
                try:
                    status, answer = await self._control.pass_on(
                        request.method, engine.target, f"/v1/{path}", body, headers, seconds
                    )
                except ControlError as error:
                    if error.blames_peer:
                        engine.sidecar.failed(self._clock())
                    text = "the pod's sidecar did not answer the gateway of its region; try another pod"
                    raise RefusalError(
                        504 if error.code == "PeerSilent" else 502, error.code, text, error.retryable
                    ) from error
        if status >= 400:
            return web.json_response(_with_via(status, answer), status=status)
        return web.Response(status=status, body=answer or None, content_type="application/json")

    @contextmanager
    def _counted(self, region: str, running: Counter[str], most: int) -> Iterator[None]:
        if running[region] >= most:
            text = f"region {region} has {most} calls under way here; try another gateway"
            raise RefusalError(503, "Overloaded", text, retryable=True)
        running[region] += 1
        try:
            yield
        finally:
            running[region] -= 1


def code_of(response: web.Response) -> str:
    """The code of an error, as this gateway wrote it."""
    body = response.body
    try:
        return str(json.loads(body if isinstance(body, bytes) else b"")["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"Http{response.status}"


def _with_via(status: int, answer: bytes) -> dict[str, Any]:
    try:
        error = dict(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # An engine's own error, without our shape.
        error = {"code": f"Http{status}", "message": "the engine refused the leg", "retryable": status >= 429}
    return {"error": {**error, "via": "gateway"}}
