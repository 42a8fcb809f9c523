"""The gateways' HTTPS interface: prefill legs to the engine, fail and cancel calls, and what became of a
transfer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prfaas_sidecar.errors import retryable
from prfaas_sidecar.identity import Identity, IdentityError, of_certificate
from prfaas_sidecar.kv_events.serving import HeldBlocksApi, NoBlocksError
from prfaas_sidecar.logs import fields
from prfaas_sidecar.model_files import FileChangedError, send_file
from prfaas_sidecar.net.refusals import REMEDIES
from prfaas_sidecar.node import Node

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_TRANSFER_ID = re.compile(r"[0-9a-f]{32}")
_CALL_BODY_BYTES = 16 << 10
_CONNECT_SECONDS = 5.0
_CHUNK_BYTES = 64 << 10


class FailBody(BaseModel):
    """Body of a fail call."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]{1,64}$")] = "PrefillFailed"


class Control:
    """Routes and their handlers."""

    def __init__(
        self,
        node: Node,
        end: Callable[[str, str, str], bool],
        fail: Callable[[str, str], bool],
        status: Callable[[], dict[str, Any]],
        held_blocks: HeldBlocksApi | None = None,
    ) -> None:
        """``end(id, code, message)`` ends a transfer on either side, ``fail(id, code)`` at the consumer only;
        ``status()`` is what `GET /v1/engine` shows; without ``held_blocks`` nobody is told of the engine's
        cache."""
        self._node = node
        self._end = end
        self._fail = fail
        self._status = status
        self._held_blocks = held_blocks
        self._engine: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """For an aiohttp runner."""
        limits = self._node.config.limits
        app = web.Application(middlewares=[self._guard], client_max_size=limits.prefill_body_bytes)
        app.add_routes(
            [
                web.post("/v1/prefill", self._prefill),
                web.post("/v1/transfers/{id}/fail", self._fail_call),
                web.post("/v1/transfers/{id}/cancel", self._cancel_call),
                web.get("/v1/transfers/{id}", self._show),
                web.get("/v1/engine", self._show_engine),
                web.get("/v1/model-files/{name}", self._model_file),
                web.get("/v1/held-blocks", self._show_held_blocks),
            ]
        )
        app.on_startup.append(self._open_session)
        app.on_cleanup.append(self._close_session)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        certificate = None if request.transport is None else request.transport.get_extra_info("peercert")
        try:
            identity = of_certificate(certificate)
        except IdentityError as error:
            return self._stranger(str(error))
        if (wrong := _wrong_region(request, identity)) is not None:
            self._node.metrics.handshakes_refused.labels("control", "wrong_region").inc()
            _log.warning("gateway refused", extra=fields(reason=wrong, remedy=REMEDIES["wrong_region"]))
            return _error(403, "WrongRegion", f"{wrong}; {REMEDIES['wrong_region']}")
        if not self._node.access.may_control(identity) or not self._node.trusts(identity.region):
            return self._stranger(f"{identity} is not on the list of gateways")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "BodyTooLarge", "the body is over limits.prefill_body_bytes")
        except web.HTTPException as error:
            return _error(error.status, error.reason.title().replace(" ", ""), error.reason)

    def _stranger(self, reason: str) -> web.Response:
        self._node.metrics.handshakes_refused.labels("control", "not_authorised").inc()
        _log.warning("gateway refused", extra=fields(reason=reason))
        return _error(
            403, "NotAuthorised", "this certificate's identity is not on the sidecar's list of gateways"
        )

    async def _fail_call(self, request: web.Request) -> web.Response:
        transfer_id = _transfer_id(request)
        data = await request.content.read(_CALL_BODY_BYTES)
        try:
            body = FailBody.model_validate_json(data or b"{}")
        except ValidationError:
            return _error(400, "BadRequest", 'the body is {"reason": "<Code>"}')
        if not self._fail(transfer_id, body.reason):
            self._remember(transfer_id, body.reason)
        return web.Response(status=204)

    async def _cancel_call(self, request: web.Request) -> web.Response:
        transfer_id = _transfer_id(request)
        if not self._end(transfer_id, "Cancelled", "the gateway cancelled it"):
            self._remember(transfer_id, "Cancelled")
        return web.Response(status=204)

    async def _show(self, request: web.Request) -> web.Response:
        record = self._node.records.get(_transfer_id(request))
        if record is None:
            return _error(404, "UnknownTransfer", "this sidecar does not know the transfer")
        return web.json_response(record.as_json())

    async def _show_engine(self, _: web.Request) -> web.Response:
        return web.json_response(self._status())

    async def _show_held_blocks(self, request: web.Request) -> web.StreamResponse:
        if self._held_blocks is None:
            return _error(404, "NotSupported", "kv_events.enabled is false in the sidecar's configuration")
        try:
            return await self._held_blocks.answer(request)
        except NoBlocksError as error:
            return _error(error.status, error.code, str(error))

    async def _model_file(self, request: web.Request) -> web.StreamResponse:
        engine, name = self._node.engine, request.match_info["name"]
        facts = None if engine is None else engine.facts
        file = next((each for each in facts.model_files if each.name == name), None) if facts else None
        if file is None:
            return _error(
                404, "UnknownFile", "the engine has told of no such file; GET /v1/engine lists them"
            )
        try:
            return await send_file(request, self._node.config.engine.model_folder, file)
        except FileChangedError as error:
            _log.error("model file cannot be sent", extra=fields(file=name, reason=str(error)))
            return _error(503, "EngineGone", "the file is not there as the engine told it; ask again later")

    def _remember(self, transfer_id: str, code: str) -> None:
        if transfer_id not in self._node.records:
            self._node.records.remember_call(transfer_id, code, self._node.clock())

    async def _prefill(self, request: web.Request) -> web.StreamResponse:
        url, session = self._node.config.engine.url, self._engine
        if url is None or session is None:
            return _error(404, "NoEngine", "this sidecar serves no prefill legs: engine.url is not set")
        if self._node.draining:
            return _error(503, "Draining", "the sidecar is shutting down; send new prefill legs elsewhere")
        most = self._node.config.limits.prefill_body_bytes
        if (request.content_length or 0) > most:
            raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
        response = web.StreamResponse()
        outcome = "caller_gone"
        try:
            async with session.post(
                f"{url}/v1/completions",
                data=_bounded(request.content, most),
                headers={"Content-Type": "application/json"},
            ) as answer:
                response.set_status(answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    await response.write(chunk)
                await response.write_eof()
                outcome = "passed"
        except TimeoutError:
            outcome = "timeout"
            return self._broken(
                request, response, 504, "DeadlineExceeded", "the engine did not finish in time"
            )
        except aiohttp.ClientError as error:
            if isinstance(error.__cause__, web.HTTPRequestEntityTooLarge):
                raise error.__cause__ from None
            outcome = "engine_unreachable"
            _log.warning("prefill leg failed", extra=fields(reason=type(error).__name__))
            return self._broken(request, response, 502, "EngineGone", "the engine did not answer")
        finally:
            self._node.metrics.prefills.labels(outcome).inc()
        return response

    def _broken(
        self, request: web.Request, response: web.StreamResponse, status: int, code: str, message: str
    ) -> web.StreamResponse:
        """An error of our own, or, when part of the engine's answer is out already, the end of the
        connection."""
        if not response.prepared:
            return _error(status, code, message)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _open_session(self, _: web.Application) -> None:
        timeout = aiohttp.ClientTimeout(
            total=self._node.config.limits.prefill_seconds, sock_connect=_CONNECT_SECONDS
        )
        # No limit of connections: what the engine cannot run yet waits in the engine, which knows its own
        # order.
        self._engine = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def _close_session(self, _: web.Application) -> None:
        if self._engine is not None:
            await self._engine.close()


async def _bounded(content: aiohttp.StreamReader, most: int) -> AsyncIterator[bytes]:
    """A request's body, piece by piece, up to a size."""
    size = 0
    async for chunk in content.iter_chunked(_CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            raise web.HTTPRequestEntityTooLarge(most, size)
        yield chunk


def _wrong_region(request: web.Request, identity: Identity) -> str | None:
    """What is wrong when the authority that signed the certificate does not speak for its region."""
    shown = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    region = getattr(getattr(shown, "context", None), "region", None)
    if region in (None, identity.region):
        return None
    return f"{identity} is signed by the authority of region {region}"


def _transfer_id(request: web.Request) -> str:
    transfer_id = request.match_info["id"]
    if not _TRANSFER_ID.fullmatch(transfer_id):
        raise web.HTTPNotFound
    return transfer_id


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"code": code, "message": message, "retryable": retryable(code) or status in (502, 504)}}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")
