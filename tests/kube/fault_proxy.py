"""An HTTP server in front of a real API server that passes everything on, unless a test says otherwise."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from prfaas.kube.client import connect
from prfaas.kube.watch import abort


class FaultProxy:
    """Passes requests on.

    Attributes:
        answer: may give an answer of its own to a request, or None to pass it on.
        silent: collections (such as `configmaps`) whose watches stay open and say nothing.
        requests: what was asked, in order: method and path with query.
    """

    def __init__(self, folder: Path) -> None:
        self.answer: Callable[[web.Request], web.StreamResponse | None] = lambda _: None
        self.silent: set[str] = set()
        self.requests: list[str] = []
        self._watches: set[aiohttp.ClientResponse] = set()
        self._folder = folder
        self.kubeconfig = folder / "proxy.kubeconfig"

    def asked(self, text: str) -> int:
        """How many requests have this in them."""
        return sum(text in each for each in self.requests)

    @property
    def open_watches(self) -> int:
        """How many the server has begun to answer; a watch that was only asked for cannot be cut."""
        return len(self._watches)

    def cut_watches(self) -> None:
        """Close the connections of all watches in the middle."""
        for watch in self._watches:
            abort(watch)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        own = self.answer(request)
        if own is not None:
            return own
        headers = {
            name: request.headers[name]
            for name in ("Accept", "Content-Type", "User-Agent")
            if name in request.headers
        }
        async with self._session.request(
            request.method, self._server + request.path_qs, headers=headers, data=await request.read() or None
        ) as answer:
            is_watch = request.query.get("watch") == "true"
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            if is_watch:
                self._watches.add(answer)
            try:
                async for part in answer.content.iter_any():
                    if is_watch and self.silent & set(request.path.split("/")):
                        continue
                    await response.write(part)
            except (aiohttp.ClientError, ConnectionError):
                # Cut: the answer ends in the middle.
                if request.transport is not None:
                    request.transport.abort()
                return response
            finally:
                self._watches.discard(answer)
                if is_watch:
                    abort(answer)
            await response.write_eof()
            return response

    async def start(self, kubeconfig: Path) -> None:
        client = await connect(str(kubeconfig))
        found = await client.credentials()
        await client.close()
        context = ssl.create_default_context(cafile=found.ca_file)
        if found.client_certificate_file:
            context.load_cert_chain(found.client_certificate_file, found.client_key_file)
        headers = {"Authorization": f"Bearer {found.token}"} if found.token else {}
        self._server = found.server
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=True,
        )
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        await asyncio.to_thread(self.kubeconfig.write_text, json.dumps(plain_kubeconfig(port)))

    async def stop(self) -> None:
        self.cut_watches()
        await self._runner.cleanup()
        await self._session.close()


@asynccontextmanager
async def fault_proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(folder)
    await proxy.start(kubeconfig)
    try:
        yield proxy
    finally:
        await proxy.stop()


def status(code: int, reason: str, *, retry_after: str | None = None) -> web.Response:
    """A refusal as an API server writes it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.json_response({**body, "message": f"the test says {reason}"}, status=code, headers=headers)


def times(
    count: int, make: Callable[[], web.Response], only: str
) -> Callable[[web.Request], web.Response | None]:
    """Answer so many requests whose method and path contain `only` with this."""
    left = count

    def answer(request: web.Request) -> web.Response | None:
        nonlocal left
        if left == 0 or only not in f"{request.method} {request.path_qs}":
            return None
        left -= 1
        return make()

    return answer


def plain_kubeconfig(port: int) -> dict[str, object]:
    """A kubeconfig for a server on this machine without TLS."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
    }
