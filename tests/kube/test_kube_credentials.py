"""Credentials that change, or cannot be had for a while, while a client lives on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException

from prfaas.kube import errors, transport
from prfaas.kube.api import Call
from prfaas.kube.client import KubeClient
from prfaas.kube.connect import NoCluster
from prfaas.kube.reflect import Contact, reflect
from prfaas.kube.resources import CONFIG_MAPS
from prfaas.kube.transport import Request, Transport
from tests.helpers import eventually_async


class Server:
    """Knows one token, and gives an empty list to whoever has it."""

    def __init__(self) -> None:
        self.token = "first"
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "reason": "Unauthorized", "code": 401}, status=401)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})


class Login:
    """Gives the token that it has, or fails."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.token = server.token
        self.error: Exception | None = None
        self.hook_error: Exception | None = None
        self.hook_waits: asyncio.Event | None = None
        self.load_waits: asyncio.Event | None = None

    async def __call__(self) -> Configuration:
        if self.error is not None:
            raise self.error
        if self.load_waits is not None:
            await self.load_waits.wait()
        configuration = Configuration(host=self.server.url)
        configuration.api_key["BearerToken"] = f"Bearer {self.token}"

        async def hook(_: Any) -> None:
            if self.hook_error is not None:
                raise self.hook_error
            if (waits := self.hook_waits) is not None:
                self.hook_waits = None
                await waits.wait()

        configuration.refresh_api_key_hook = hook  # type: ignore[assignment]
        return await asyncio.to_thread(lambda: configuration)


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    monkeypatch.setattr(logging.getLogger("prfaas.kube"), "propagate", False)
    monkeypatch.setattr(transport, "RELOAD_PAUSE_SECONDS", 0.0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
async def login(server: Server) -> Login:
    return Login(server)


@pytest.fixture
async def client(login: Login) -> AsyncIterator[KubeClient]:
    async with KubeClient(Transport(login)) as made:
        yield made


async def test_a_token_that_was_replaced_is_loaded_anew(
    client: KubeClient, server: Server, login: Login
) -> None:
    assert await client.list(CONFIG_MAPS, "a") == []
    server.token = login.token = "second"
    assert await client.list(CONFIG_MAPS, "a") == []


@pytest.mark.parametrize("where", ["load", "hook"])
@pytest.mark.parametrize(
    "error", [NoCluster("exec plug-in"), ConfigException("Token file exists but empty."), OSError("gone")]
)
async def test_credentials_that_cannot_be_had_are_an_error_of_the_call(
    client: KubeClient, server: Server, login: Login, where: str, error: Exception
) -> None:
    await client.list(CONFIG_MAPS, "a")
    server.token = "second"
    if where == "load":
        login.error = error
    else:
        login.hook_error = error
    with pytest.raises(errors.KubeError) as caught:
        await client.list(CONFIG_MAPS, "a", deadline_seconds=0.5)
    assert "second" not in str(caught.value)
    login.error = login.hook_error = None
    login.token = "second"
    assert await client.list(CONFIG_MAPS, "a") == []


async def test_who_follows_goes_on_when_credentials_are_back(
    client: KubeClient, server: Server, login: Login, tmp_path: Path
) -> None:
    server.token, login.error = "second", NoCluster("exec plug-in")
    contact = Contact()
    stream: Any = reflect(client, CONFIG_MAPS, slim=lambda body: body, contact=contact)
    following = asyncio.create_task(anext(stream))
    await eventually_async(lambda: contact.failures >= 2)
    login.error, login.token = None, "second"
    synced = await asyncio.wait_for(following, 10)
    assert synced.objects == ()
    await stream.aclose()


async def test_a_call_that_waited_while_credentials_were_replaced_is_answered(
    client: KubeClient, server: Server, login: Login
) -> None:
    await client.list(CONFIG_MAPS, "a")
    waits = login.hook_waits = asyncio.Event()
    waiting = asyncio.create_task(client.list(CONFIG_MAPS, "a"))
    await eventually_async(lambda: login.hook_waits is None)
    server.token = login.token = "second"
    await client.list(CONFIG_MAPS, "a")
    waits.set()
    assert await waiting == []


async def test_credentials_that_take_too_long_end_with_the_call(
    client: KubeClient, server: Server, login: Login
) -> None:
    await client.list(CONFIG_MAPS, "a")
    server.token, login.load_waits = "second", asyncio.Event()
    with pytest.raises(errors.KubeError):
        await asyncio.wait_for(client.list(CONFIG_MAPS, "a", deadline_seconds=0.3), 5)


@pytest.mark.parametrize(
    ("method", "first", "told"),
    [
        ("GET", errors.Unreachable("refused"), errors.Unreachable),
        # The second attempt may have taken effect, which matters more than why the first did not.
        ("POST", errors.TooManyRequests("busy", status=429), errors.DeadlineExceeded),
    ],
)
async def test_a_deadline_that_ends_the_last_of_several_attempts_does_not_hide_why_there_were_several(
    monkeypatch: pytest.MonkeyPatch, login: Login, method: str, first: errors.KubeError, told: type[Exception]
) -> None:
    outcomes = iter([first, errors.DeadlineExceeded("no answer")])

    async def attempt(*_: Any) -> bytes:
        raise next(outcomes)

    made = Transport(login)
    monkeypatch.setattr(made, "_attempt", attempt)
    write = Call("create", CONFIG_MAPS, "a", "b") if method == "POST" else None
    with pytest.raises(told):
        await made.read(Request(method, "/", "try", write=write), 5.0)
