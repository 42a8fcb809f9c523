"""What time it is for the API server, whose clock decides what has ended, and not this machine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from prfaas.kube.client import KubeClient
from prfaas.kube.transport import Transport

AHEAD = timedelta(hours=3)


class Clock:
    """A server that answers anything with its time."""

    def __init__(self) -> None:
        self.date: str | None = None
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        return web.json_response({}, headers={} if self.date is None else {"Date": self.date})


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    made = Clock()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(clock: Clock) -> AsyncIterator[KubeClient]:
    async def load() -> Configuration:
        return await asyncio.to_thread(Configuration, host=clock.url)

    async with KubeClient(Transport(load)) as made:
        yield made


def about(moment: datetime) -> Any:
    """That moment, give or take what a test on a busy machine takes."""
    return pytest.approx(moment.timestamp(), abs=30)


async def test_before_the_first_answer_it_is_this_machines(client: KubeClient) -> None:
    assert client.server_now().timestamp() == about(datetime.now(UTC))


async def test_after_an_answer_it_is_the_servers(client: KubeClient, clock: Clock) -> None:
    clock.date = format_datetime(datetime.now(UTC) + AHEAD, usegmt=True)
    await client.version()
    assert client.server_now().timestamp() == about(datetime.now(UTC) + AHEAD)
    first = client.server_now()
    await asyncio.sleep(0)
    assert client.server_now() >= first


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT", "0"])
async def test_an_answer_without_a_time_that_can_be_read_changes_nothing(
    client: KubeClient, clock: Clock, date: str
) -> None:
    clock.date = date
    await client.version()
    assert client.server_now().timestamp() == about(datetime.now(UTC))
