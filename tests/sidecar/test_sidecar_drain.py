"""The drain that the kubelet asks for before the engine ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas_demo.certificates import Authority
from prfaas_sidecar.drain import EngineLoad, _ask, busy, engine_load
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import Refusal, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Process, sidecar, transfer_id

LANES = lanes_of()
TOKEN = "a-token-of-the-revision"
DRAIN = f"/drain?token={TOKEN}&seconds="
PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="chat"} 2.0
vllm:num_requests_running{engine="1",model_name="chat"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="chat"} 4.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="chat",reason="capacity"} 90.0
vllm:num_requests_waiting{engine="1",model_name="chat"} 0.0
"""


@pytest.mark.parametrize(
    ("page", "load"),
    [
        (PAGE, EngineLoad(3, 4)),
        ("vllm:num_requests_running 0\nvllm:num_requests_waiting 1\n", EngineLoad(0, 1)),
    ],
)
def test_an_engines_load_is_the_sum_over_its_ranks(page: str, load: EngineLoad) -> None:
    assert engine_load(page) == load


@pytest.mark.parametrize(
    "page",
    [
        "",
        "vllm:num_requests_running 0\n",
        PAGE.replace("2.0", "many"),
        PAGE.replace("2.0", "NaN"),
        PAGE.replace("2.0", "+Inf"),
        "vllm:num_requests_running{ 0\nvllm:num_requests_waiting 1\n",
    ],
)
def test_a_page_without_the_load_says_so(page: str) -> None:
    assert engine_load(page).unknown


@pytest.mark.parametrize(
    ("load", "transfers", "used", "words"),
    [
        (EngineLoad(1, 0), 0, 0, "1 requests running"),
        (EngineLoad(0, 2), 0, 0, "2 waiting"),
        (EngineLoad(unknown="why"), 0, 0, "why"),
        (EngineLoad(), 1, 0, "1 transfers"),
        (None, 0, 4096, "4096 bytes"),
        (EngineLoad(), 0, 0, None),
        (None, 0, 0, None),
    ],
)
def test_what_a_drain_waits_for(
    load: EngineLoad | None, transfers: int, used: int, words: str | None
) -> None:
    reason = busy(load, transfers, used)
    assert reason is None if words is None else words in (reason or "")


@pytest.mark.parametrize(
    ("cause", "gone"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (OSError(errno.EADDRNOTAVAIL, "no free port"), False),
        (PermissionError(errno.EACCES, "denied"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_an_engine_that_refuses_connections_is_gone(cause: OSError, gone: bool) -> None:
    key: Any = SimpleNamespace(host="127.0.0.1", port=8000, ssl=True, is_ssl=False)

    class Session:
        def get(self, _: str) -> Any:
            raise aiohttp.ClientConnectorError(key, cause)

    session: Any = Session()
    load = await _ask(session, "http://127.0.0.1:8000")
    # What could not be asked may have requests: a drain that ends early loses them.
    assert (load is None) is gone
    assert load is None or load.unknown


class Requests:
    """What the engine's `/metrics` show, set by a test."""

    def __init__(self) -> None:
        self.running = self.waiting = self.asked = 0
        self.broken = False

    async def show(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.broken:
            return web.Response(status=500)
        return web.Response(
            text=f"vllm:num_requests_running {self.running}\nvllm:num_requests_waiting {self.waiting}\n"
        )


@contextlib.asynccontextmanager
async def with_requests(
    folder: Path, authority: Authority, **settings: Any
) -> AsyncIterator[tuple[Process, Requests]]:
    requests = Requests()
    app = web.Application()
    app.router.add_get("/metrics", requests.show)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with sidecar(
            folder,
            authority.leaf(PRODUCER),
            accept=[CONSUMER],
            engine={"url": f"http://{host}:{port}"},
            drain_token=TOKEN,
            **settings,
        ) as side:
            yield side, requests
    finally:
        await runner.cleanup()


async def test_a_drain_waits_for_the_engine_and_for_memory(tmp_path: Path, authority: Authority) -> None:
    async with with_requests(tmp_path, authority) as (side, requests):
        engine = await side.engine()
        name = transfer_id()
        await engine.produce(name, LANES, CONSUMER)
        requests.running = 1
        calls = [asyncio.create_task(side.get(f"{DRAIN}50")) for _ in range(3)]
        await side.until("prfaas_sidecar_draining", lambda value: value == 1)
        assert await side.get("/readyz") == (503, "draining\n")
        assert await side.get("/healthz") == (200, "ok\n")
        assert '"draining": true' in (await side.get("/status"))[1]
        with pytest.raises(Refusal) as refusal:
            await engine.produce(transfer_id(), LANES, CONSUMER)
        assert refusal.value.code == "Draining"

        async def still() -> str:
            status, text = await side.get(f"{DRAIN}0.3")
            assert status == 200
            assert text.startswith("not drained after 0.3 s: ")
            return text

        await eventually_async(lambda: requests.asked > 2)
        assert "1 requests running and 0 waiting" in await still()
        requests.running, requests.waiting = 0, 3
        await eventually_async(lambda seen=requests.asked: requests.asked > seen + 1)
        assert "0 requests running and 3 waiting" in await still()
        requests.waiting = 0
        await eventually_async(lambda seen=requests.asked: requests.asked > seen + 1)
        assert "1 transfers are under way" in await still()
        engine.abort(name)
        engine.done(name, complete=False)
        assert await asyncio.gather(*calls) == [(200, "drained\n")] * 3
        # And once more, for a kubelet that asks again.
        assert await side.get(f"{DRAIN}30") == (200, "drained\n")
        assert await side.metric("prfaas_sidecar_drains_total", outcome="drained") == 4
        await engine.close()


async def test_a_new_run_of_the_engine_ends_the_drain(tmp_path: Path, authority: Authority) -> None:
    """The kubelet also calls preStop when it restarts an engine whose probe failed."""
    async with with_requests(tmp_path, authority) as (side, _):
        engine = await side.engine()
        assert await side.get(f"{DRAIN}30") == (200, "drained\n")
        await engine.close()
        await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        assert await side.get("/readyz") == (503, "draining\n")
        again = await side.engine()
        assert await side.get("/readyz") == (200, "ready\n")
        await again.produce(transfer_id(), LANES, CONSUMER)
        await again.close()


async def test_after_the_engine_a_sidecar_ends_at_once(tmp_path: Path, authority: Authority) -> None:
    """A native sidecar gets its SIGTERM when the engine's container has ended: nobody is left to wait for."""
    async with with_requests(tmp_path, authority, drain_seconds=3600) as (side, _):
        engine = await side.engine()
        name = transfer_id()
        await engine.produce(name, LANES, CONSUMER)
        assert "not drained" in (await side.get(f"{DRAIN}0"))[1]
        await engine.close()
        await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        waiting = asyncio.create_task(side.get(f"{DRAIN}3600"))
        await side.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)
        assert await side.stop() == 0
        with contextlib.suppress(aiohttp.ClientError):
            await waiting


async def test_an_engine_that_is_gone_has_nothing_to_wait_for(tmp_path: Path, authority: Authority) -> None:
    async with sidecar(
        tmp_path, authority.leaf(PRODUCER), engine={"url": "http://127.0.0.1:9"}, drain_token=TOKEN
    ) as side:
        assert await side.get(f"{DRAIN}30") == (200, "drained\n")


@pytest.mark.parametrize(
    "query", ["", "?seconds=1", "?token=", "?token=another", f"?token={TOKEN}x", "?token=%ff"]
)
async def test_a_stranger_does_not_drain(tmp_path: Path, authority: Authority, query: str) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER), drain_token=TOKEN) as side:
        status, text = await side.get(f"/drain{query}")
        assert (status, '"NotAuthorised"' in text) == (403, True)
        assert TOKEN not in text
        assert await side.metric("prfaas_sidecar_draining") == 0


async def test_without_a_token_only_the_pod_itself_drains(tmp_path: Path, authority: Authority) -> None:
    listen = {"health": "0.0.0.0:0"}
    async with sidecar(tmp_path, authority.leaf(PRODUCER), listen=listen) as side:
        address = f"http://127.0.0.1:{side.ports['health']}/drain?seconds=0"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as elsewhere,
            elsewhere.get(address) as answer,
        ):
            assert answer.status == 403
            assert "from the pod itself" in await answer.text()
        assert await side.metric("prfaas_sidecar_draining") == 0
        assert (await side.get("/drain?seconds=0"))[0] == 200
        assert await side.metric("prfaas_sidecar_draining") == 1


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "3601", "soon"])
async def test_a_drain_has_a_bound(tmp_path: Path, authority: Authority, seconds: str) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as side:
        assert (await side.get(f"/drain?seconds={seconds}"))[0] == 400
        async with (
            aiohttp.ClientSession() as session,
            session.head(f"http://127.0.0.1:{side.ports['health']}/drain?seconds=1") as answer,
        ):
            assert answer.status == 405
        assert await side.metric("prfaas_sidecar_draining") == 0
