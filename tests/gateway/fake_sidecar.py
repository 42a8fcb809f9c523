"""The control interface of a sidecar, with real mutual TLS: answers as told and keeps what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from prfaas.held_blocks import HeldBlocks, read_question
from prfaas_bench.fake_engine import Asked
from prfaas_demo.certificates import Authority


@dataclass
class PrefillScript:
    """How one prefill leg ends.

    Attributes:
        finish: set when it may end; None means at once.
        status: HTTP status; with one other than 200, ``code`` and ``retryable`` are the error's.
        die: close the connection instead.
        refused: the engine's answer names this code: its connector produced no KV. None when it did.
    """

    finish: asyncio.Event | None = None
    status: int = 200
    code: str = "Draining"
    retryable: bool = True
    die: bool = False
    refused: object = None


@dataclass
class FakeSidecar:
    """One sidecar. ``default_transfer`` is what it tells of every transfer; None means that it knows none."""

    identity: str
    prefill_scripts: list[PrefillScript] = field(default_factory=list)
    prefill_default: PrefillScript = field(default_factory=PrefillScript)
    prefills: list[Asked] = field(default_factory=list)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    default_transfer: dict[str, Any] | None = None
    refuse_control: bool = False
    url: str = ""
    report: dict[str, Any] | None = None
    held_blocks: HeldBlocks | None = None
    """What it tells of the engine's cache; nothing ever changes. None: it is of an earlier version."""
    files: dict[str, bytes] = field(default_factory=dict)
    files_given: asyncio.Event | None = None
    """Set when files may be given; None means at once."""

    @asynccontextmanager
    async def run(
        self,
        authority: Authority,
        folder: Path,
        uri: str | list[str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        **validity: Any,
    ) -> AsyncIterator[FakeSidecar]:
        """Serve with a certificate for ``uri``, by default the sidecar's own identity."""
        name = self.identity.rsplit("/", 1)[-1]
        context = await asyncio.to_thread(
            server_context, authority, folder, name, uri or self.identity, validity
        )
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/prefill", self._prefill)
        app.router.add_post("/v1/transfers/{id}/{verb}", self._verb)
        app.router.add_get("/v1/transfers/{id}", self._transfer)
        app.router.add_get("/v1/engine", self._engine)
        app.router.add_get("/v1/held-blocks", self._held_blocks)
        app.router.add_get("/v1/model-files/{name}", self._model_file)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        self.url = "https://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _held_blocks(self, request: web.Request) -> web.Response:
        if self.held_blocks is None:
            raise web.HTTPNotFound
        cursor, wait_seconds = read_question(request.query)
        if cursor == self.held_blocks.cursor:
            await asyncio.sleep(wait_seconds)
        return web.Response(body=self.held_blocks.encode(), content_type="application/octet-stream")

    async def wait_for_prefill(self, count: int = 1) -> Asked:
        """The ``count``-th prefill leg, as soon as it has arrived."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.prefills) >= count)
        return self.prefills[count - 1]

    async def wait_for_call(self, verb: str, transfer_id: str) -> Any:
        """The body of a fail or cancel call for a transfer, as soon as it has arrived."""

        def found() -> list[Any]:
            return [body for name, called, body in self.calls if (name, called) == (verb, transfer_id)]

        async with self.arrived:
            await self.arrived.wait_for(found)
        return found()[0]

    def called(self, verb: str) -> list[str]:
        """Ids of all calls of this kind so far."""
        return [transfer_id for name, transfer_id, _ in self.calls if name == verb]

    async def _prefill(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.raw_path, dict(request.headers), await request.read())
        script = self.prefill_scripts.pop(0) if self.prefill_scripts else self.prefill_default
        async with self.arrived:
            self.prefills.append(asked)
            self.arrived.notify_all()
        try:
            if script.finish is not None:
                await script.finish.wait()
        except asyncio.CancelledError:
            asked.aborted.set()
            raise
        if script.die and request.transport is not None:
            request.transport.abort()
            raise ConnectionResetError("scripted")
        if script.status != 200:
            error = {"code": script.code, "message": "scripted", "retryable": script.retryable}
            return web.json_response({"error": error}, status=script.status)
        params = {"prfaas": {"transfer_id": transfer_id_of(asked), "refused": script.refused}}
        return web.json_response(
            {
                "choices": [{"text": "thrown away"}],
                "usage": {"prompt_tokens": 7},
                "kv_transfer_params": params,
            }
        )

    async def _verb(self, request: web.Request) -> web.Response:
        body = await request.json()
        async with self.arrived:
            self.calls.append((request.match_info["verb"], request.match_info["id"], body))
            self.arrived.notify_all()
        return web.Response(status=503 if self.refuse_control else 204)

    async def _transfer(self, request: web.Request) -> web.Response:
        transfer_id = request.match_info["id"]
        if self.refuse_control:
            return web.json_response(
                {"error": {"code": "Draining", "message": "", "retryable": True}}, status=503
            )
        known = None if transfer_id == "0" * 32 else self.default_transfer
        if known is None:
            error = {"code": "UnknownTransfer", "message": "scripted", "retryable": False}
            return web.json_response({"error": error}, status=404)
        return web.json_response({"transfer_id": transfer_id, **known})

    async def _engine(self, _: web.Request) -> web.Response:
        if self.report is None:
            return web.Response(status=404)
        listed = [
            {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.files.items()
        ]
        return web.json_response({"version": 1, "model_files": listed, **self.report})

    async def _model_file(self, request: web.Request) -> web.Response:
        if self.files_given is not None:
            await self.files_given.wait()
        return web.Response(body=self.files[request.match_info["name"]])


def transfer_id_of(leg: Asked) -> str:
    """The transfer id of a leg."""
    assert leg.transfer is not None
    found: str = leg.transfer["transfer_id"]
    return found


def server_context(
    authority: Authority, folder: Path, name: str, uri: str | list[str], validity: dict[str, Any]
) -> ssl.SSLContext:
    """What a sidecar's control listener uses: TLS 1.3, both sides authenticated."""
    files = authority.leaf(uri, **validity).write(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    return context


def transfer(**fields: Any) -> dict[str, Any]:
    """What a sidecar tells of a transfer, with usual values for what is not given."""
    return {
        "side": "consumer",
        "state": "open",
        "code": None,
        "units_wanted": 40,
        "units_landed": 0,
        "bytes_wire": 0,
        "bytes_kv": 0,
        "taken_tokens": None,
        "ended_at": None,
        "streams": 1,
        "resumes": 0,
        **fields,
    }
