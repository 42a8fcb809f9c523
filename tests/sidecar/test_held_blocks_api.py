"""What gateways are told of an engine's cache: a sidecar process, a publisher, calls with certificates."""

from __future__ import annotations

import asyncio
import os
import secrets
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from prfaas.block_chain import chain_seed, chained
from prfaas.held_blocks import Cursor, HeldBlocks, read_held_blocks
from prfaas_connector.local_api.messages import Facts
from prfaas_demo.certificates import Authority
from prfaas_sidecar.kv_events.serving import Pace
from tests.helpers import eventually_async
from tests.sidecar.harness import CONSUMER, GATEWAY, PRODUCER, Process, sidecar
from tests.sidecar.kv_publisher import BLOCK, Publisher, removed, stored
from tests.sidecar.test_control import gateway, url

IDS = list(range(12))
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
NAMES = chained(array("I", IDS), BLOCK, chain_seed())
FACTS = Facts(BLOCK, 8192, ("chat",), (), "")


async def ask(
    client: aiohttp.ClientSession, side: Process, cursor: Cursor | None = None, wait: int = 0
) -> HeldBlocks:
    """One call that has to succeed."""
    asked = {"wait": str(wait)}
    if cursor is not None:
        asked |= {"epoch": cursor.epoch, "version": str(cursor.version)}
    async with client.get(url(side, "/v1/held-blocks"), params=asked) as answer:
        assert answer.status == 200, await answer.text()
        return read_held_blocks(await answer.read())


async def refusal(client: aiohttp.ClientSession, side: Process, query: str = "") -> tuple[int, str]:
    """Status and code of one that is refused."""
    async with client.get(url(side, f"/v1/held-blocks{query}")) as answer:
        return answer.status, (await answer.json())["error"]["code"]


@asynccontextmanager
async def publishing(
    folder: Path, authority: Authority, **kv_events: object
) -> AsyncIterator[tuple[Process, Publisher, aiohttp.ClientSession]]:
    """A sidecar whose engine has published one prompt of two blocks, and a gateway."""
    name = f"ipc://@prfaas-test-{os.getpid()}-{secrets.token_hex(4)}"
    publisher = Publisher(name, f"{name}-replay")
    await publisher.publish(stored([A, B], IDS[:8]))
    try:
        async with (
            sidecar(
                folder, authority.leaf(PRODUCER), accept=[CONSUMER], gateways=[GATEWAY], kv_events=kv_events
            ) as side,
            gateway(folder, authority) as client,
        ):
            engine = await side.engine()
            engine.scheduler.send(
                Facts(BLOCK, 8192, ("chat",), (), "", kv_events=(name, f"{name}-replay", ""))
            )
            await side.until("prfaas_sidecar_held_blocks", lambda count: count == 2)
            yield side, publisher, client
            await engine.close()
    finally:
        await publisher.close()


async def test_all_at_first_and_then_what_changes(tmp_path: Path, authority: Authority) -> None:
    async with publishing(tmp_path, authority) as (side, publisher, client):
        first = await ask(client, side)
        assert (first.whole, first.complete, first.block_tokens) == (True, True, BLOCK)
        assert sorted(first.stored) == sorted(NAMES[:2])

        waiting = asyncio.create_task(ask(client, side, first.cursor, wait=20))
        await publisher.publish(stored([C], IDS[8:], parent=B), removed(A))
        news = await waiting
        assert (news.whole, list(news.stored), list(news.removed)) == (False, NAMES[2:], NAMES[:1])
        nothing = await ask(client, side, news.cursor)
        assert (nothing.cursor, len(nothing.stored), len(nothing.removed)) == (news.cursor, 0, 0)

        # Whoever comes from another epoch gets all of it.
        anew = await ask(client, side, Cursor("0" * 16, news.cursor.version))
        assert (anew.whole, sorted(anew.stored)) == (True, sorted(NAMES[1:]))


async def test_only_gateways_are_told(tmp_path: Path, authority: Authority) -> None:
    async with (
        publishing(tmp_path, authority) as (side, _, _),
        gateway(tmp_path / "other", authority, PRODUCER) as other,
    ):
        assert await refusal(other, side) == (403, "NotAuthorised")


@pytest.mark.parametrize("query", ["?epoch=x&version=1", "?wait=-1", "?wait=1e3", "?epoch=0&version=x"])
async def test_a_question_that_makes_no_sense(tmp_path: Path, authority: Authority, query: str) -> None:
    async with publishing(tmp_path, authority) as (side, _, client):
        assert await refusal(client, side, query) == (400, "BadRequest")


async def test_more_readers_than_may_wait(tmp_path: Path, authority: Authority) -> None:
    async with publishing(tmp_path, authority, readers=1) as (side, publisher, client):
        here = (await ask(client, side)).cursor
        waiting = asyncio.create_task(ask(client, side, here, wait=20))

        async def refused() -> bool:
            asked = f"?epoch={here.epoch}&version={here.version}&wait=0"
            async with client.get(url(side, f"/v1/held-blocks{asked}")) as answer:
                return answer.status == 503

        await eventually_async(refused)
        await publisher.publish(removed(A))
        assert list((await waiting).removed) == NAMES[:1]


async def test_whoever_has_nothing_to_tell_says_why(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(tmp_path, authority.leaf(PRODUCER), gateways=[GATEWAY]) as side,
        gateway(tmp_path, authority) as client,
    ):
        assert await refusal(client, side) == (503, "EngineGone")
        engine = await side.engine()
        engine.scheduler.send(FACTS)
        await eventually_async(lambda: _is(client, side, (404, "NotSupported")))
        await engine.close()


async def test_it_can_be_turned_off(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(tmp_path, authority.leaf(PRODUCER), gateways=[GATEWAY], kv_events={"enabled": False}) as side,
        gateway(tmp_path, authority) as client,
    ):
        assert await refusal(client, side) == (404, "NotSupported")


async def _is(client: aiohttp.ClientSession, side: Process, expected: tuple[int, str]) -> bool:
    return await refusal(client, side) == expected


def test_bytes_wait_for_their_turn() -> None:
    pace = Pace(1000)
    assert pace.wait_seconds(10) == 0
    pace.take(500, 10)
    assert pace.wait_seconds(10) == 0.5
    pace.take(1000, 10.25)
    assert pace.wait_seconds(10.5) == 1.0
    assert pace.wait_seconds(20) == 0
    pace.take(100, 20)
    assert pace.wait_seconds(20) == pytest.approx(0.1)
