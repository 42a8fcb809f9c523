"""An HTTP server that answers as vLLM does, with made-up text: for tests, and to measure what is around it.

What it answers can be scripted per request; what it was asked is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Script:
    """How the engine answers one request.

    Attributes:
        tokens: number of generated tokens, one event each.
        begin: set when the first event may be sent; None means at once.
        go_on: set when the events after the first may be sent.
        status: answered instead of 200, with vLLM's error shape.
        retry_after: sent with an error status.
        die_before_first: close the connection without an answer.
        die_after: close the connection after this many events.
        error_event: begin the stream with an error of this code.
        cached_tokens: reported in ``prompt_tokens_details``.
        kv_transfer_params: reported in an answer that is no stream.
        raw: sent instead of an answer of the engine's own making, as an event stream, ``repeat`` times.
        headers: added to the answer.
    """

    tokens: int = 3
    begin: asyncio.Event | None = None
    go_on: asyncio.Event | None = None
    status: int = 200
    retry_after: str | None = None
    die_before_first: bool = False
    die_after: int | None = None
    error_event: int | None = None
    cached_tokens: int | None = None
    kv_transfer_params: dict[str, Any] | None = None
    raw: bytes | None = None
    repeat: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """A request that the engine got.

    Attributes:
        aborted: set when the client went away before the end.
    """

    path: str
    headers: dict[str, str]
    raw: bytes
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> dict[str, Any]:
        """The body as JSON."""
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def transfer(self) -> dict[str, Any] | None:
        """``kv_transfer_params.prfaas``, if it is there."""
        params = self.body.get("kv_transfer_params") or {}
        found: dict[str, Any] | None = params.get("prfaas")
        return found


class FakeEngine:
    """The engine. ``scripts`` are used up in order; then ``default`` holds."""

    def __init__(self, tokenize: Callable[[dict[str, Any]], list[int] | None] | None = None) -> None:
        self.default = Script()
        self.scripts: list[Script] = []
        self.asked: list[Asked] = []
        self.arrived = asyncio.Condition()
        self.healthy = True
        self.models: list[dict[str, Any]] = []
        self.metrics = ""
        self.url = ""
        self._tokenize = tokenize

    @asynccontextmanager
    async def run(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[FakeEngine]:
        """Serve until the end of the context; ``url`` says where."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_post("/v1/chat/completions", self.generate)
        app.router.add_post("/tokenize", self._tokens)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    async def wait_for(self, count: int) -> Asked:
        """The ``count``-th request, as soon as it has arrived."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.asked) >= count)
        return self.asked[count - 1]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a generating request."""
        asked = Asked(request.raw_path, dict(request.headers), await request.read())
        script = self.scripts.pop(0) if self.scripts else self.default
        async with self.arrived:
            self.asked.append(asked)
            self.arrived.notify_all()
        try:
            return await self._answer(request, asked, script)
        except (asyncio.CancelledError, ConnectionResetError):
            asked.aborted.set()
            raise
        finally:
            asked.done.set()

    async def _answer(self, request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
        if script.status != 200:
            error = {"message": "scripted", "type": "Error", "param": None, "code": script.status}
            headers = {"Retry-After": script.retry_after} if script.retry_after else {}
            return web.json_response({"error": error}, status=script.status, headers=headers)
        stream = asked.body.get("stream") is True
        if not stream and script.begin is not None:
            await script.begin.wait()
        if script.die_before_first:
            _die(request)
        if stream:
            return await self._stream(request, asked, script)
        if script.die_after is not None:
            return await self._half_a_body(request, script)
        return web.json_response(answer_body(asked.body, script), headers=script.headers)

    async def _stream(self, request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **script.headers})
        await response.prepare(request)
        if script.begin is not None:
            await script.begin.wait()
        if script.error_event is not None:
            error = {"message": "scripted", "type": "Error", "param": None, "code": script.error_event}
            await response.write(event({"error": error}) + b"data: [DONE]\n\n")
            return response
        if script.raw is not None:
            for _ in range(script.repeat):
                await response.write(script.raw)
            return response
        for number, data in enumerate(stream_events(asked.body, script)):
            if number == script.die_after:
                _die(request)
            if number == 1 and script.go_on is not None:
                await script.go_on.wait()
            await response.write(data)
        return response

    async def _half_a_body(self, request: web.Request, script: Script) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"id":')
        _die(request)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.models})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _tokens(self, request: web.Request) -> web.Response:
        tokens = self._tokenize(await request.json()) if self._tokenize is not None else None
        if tokens is None:
            return web.json_response({"error": {"message": "scripted", "code": 404}}, status=404)
        return web.json_response({"count": len(tokens), "max_model_len": 4096, "tokens": tokens})


def event(fields: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage(tokens: int, script: Script) -> dict[str, Any]:
    """A usage object."""
    fields: dict[str, Any] = {
        "prompt_tokens": 100,
        "total_tokens": 100 + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": None,
    }
    if script.cached_tokens is not None:
        fields["prompt_tokens_details"] = {"cached_tokens": script.cached_tokens}
    return fields


def stream_events(body: dict[str, Any], script: Script) -> list[bytes]:
    """All events of a stream, with the usage at its end if that was asked for."""
    chat = "messages" in body
    common = {"id": "cmpl-1", "object": "chunk", "created": 1, "model": body.get("model")}
    events = []
    for number in range(script.tokens):
        text = f" t\N{LATIN SMALL LETTER O WITH DIAERESIS}k{number}"
        choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
        events.append(event({**common, "choices": [{**choice, "logprobs": None, "finish_reason": None}]}))
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(event({**common, "choices": [], "usage": usage(script.tokens, script)}))
    return [*events, b"data: [DONE]\n\n"]


def answer_body(body: dict[str, Any], script: Script) -> dict[str, Any]:
    """An answer that is no stream."""
    text = "".join(f" t\N{LATIN SMALL LETTER O WITH DIAERESIS}k{number}" for number in range(script.tokens))
    message = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    return {
        "id": "cmpl-1",
        "object": "completion",
        "created": 1,
        "model": body.get("model"),
        "choices": [{"index": 0, **message, "finish_reason": "length"}],
        "usage": usage(script.tokens, script),
        "kv_transfer_params": script.kv_transfer_params,
    }


def _die(request: web.Request) -> None:
    """As when the engine's process is killed: the connection breaks off."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("scripted")
