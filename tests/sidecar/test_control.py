"""What gateways may do: fail, cancel, ask, and pass prefill legs to the engine; and what others may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas_demo.certificates import Authority, Leaf
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import Refusal, lanes_of
from tests.sidecar.harness import CONSUMER, GATEWAY, PRODUCER, Pair, Process, sidecar, transfer_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

LANES = lanes_of()
STRANGER = "spiffe://test/region/eu/ns/default/gateway/other"


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, authority: Authority, identity: str = GATEWAY
) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client with a gateway's certificate."""
    context = await asyncio.to_thread(_context, authority.leaf(identity), folder / "gateway")
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, middlewares=(_read_whole,)) as session:
        yield session


async def _read_whole(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A response that a test does not look into would keep its connection, which counts as unclosed."""
    response = await handler(request)
    await response.read()
    return response


def _context(leaf: Leaf, folder: Path) -> ssl.SSLContext:
    files = leaf.write(folder, "gateway")
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    return context


def url(side: Process, path: str) -> str:
    return f"https://127.0.0.1:{side.ports['control']}{path}"


async def half_way(two: Pair) -> str:
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    for index in range(len(LANES)):
        two.prefill.fill(produced, LANES, index, 0, 4)
        two.prefill.publish(name, index, 0, 4)
    await two.decode.progressed(name, lambda told: told.landed == (((0, 4),),))
    return name


async def test_a_failed_prefill_leg_ends_the_wait_with_what_has_landed(two: Pair, tmp_path: Path) -> None:
    name = await half_way(two)
    async with gateway(tmp_path, two.authority) as client:
        answer = await client.post(
            url(two.consumer, f"/v1/transfers/{name}/fail"), json={"reason": "PrefillFailed"}
        )
        assert answer.status == 204
    assert (await two.decode.ended(name)).code == "PrefillFailed"
    assert two.decode.landed(name) == (((0, 4),),)
    # The producer is told as well, and frees what no rank may write any more.
    two.prefill.done(name, complete=False)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


@pytest.mark.parametrize("side", ["producer", "consumer"])
async def test_a_cancelled_transfer_ends_on_both_sides(two: Pair, tmp_path: Path, side: str) -> None:
    name = await half_way(two)
    async with gateway(tmp_path, two.authority) as client:
        for _ in range(2):
            answer = await client.post(url(getattr(two, side), f"/v1/transfers/{name}/cancel"))
            assert answer.status == 204
    assert (await two.decode.ended(name)).code == "Cancelled"
    await two.producer.until(
        "prfaas_sidecar_transfers_total", lambda n: n == 1, code="Cancelled", side="producer"
    )
    two.prefill.done(name, complete=False)
    two.decode.release(name)
    for each in (two.producer, two.consumer):
        await each.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


@pytest.mark.parametrize(("call", "code"), [("fail", "PrefillFailed"), ("cancel", "Cancelled")])
async def test_a_call_that_comes_before_its_transfer_is_remembered(
    two: Pair, tmp_path: Path, call: str, code: str
) -> None:
    name = transfer_id()
    async with gateway(tmp_path, two.authority) as client:
        answer = await client.post(url(two.consumer, f"/v1/transfers/{name}/{call}"))
        assert answer.status == 204
    with pytest.raises(Refusal) as refusal:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    assert refusal.value.code == code


async def test_a_cancelled_question_that_still_waits_is_answered(two: Pair, tmp_path: Path) -> None:
    name = transfer_id()
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    await two.producer.until("prfaas_sidecar_streams", lambda n: n == 4, side="producer")
    async with gateway(tmp_path, two.authority) as client:
        await client.post(url(two.producer, f"/v1/transfers/{name}/cancel"))
    assert (await two.decode.ended(name)).code == "Cancelled"


async def test_a_transfer_can_be_looked_at(two: Pair, tmp_path: Path) -> None:
    name = await half_way(two)
    async with gateway(tmp_path, two.authority) as client:
        running = await (await client.get(url(two.consumer, f"/v1/transfers/{name}"))).json()
        assert (running["state"], running["side"], running["code"]) == ("running", "consumer", None)
        assert (running["units_wanted"], running["units_landed"]) == (16, 8)
        for index in range(len(LANES)):
            two.prefill.publish(name, index, 4, 4)
        two.prefill.done(name)
        await two.decode.ended(name)
        two.decode.release(name, taken_tokens=128)

        async def settled() -> list[dict[str, Any]]:
            shown = [
                await (await client.get(url(side, f"/v1/transfers/{name}"))).json()
                for side in (two.consumer, two.producer)
            ]
            return shown if shown[1]["state"] == "ended" and shown[0]["taken_tokens"] else []

        found: list[dict[str, Any]] = await eventually_async(settled)
        consumed, produced = found
        assert consumed["code"] == produced["code"] == "complete"
        assert consumed["taken_tokens"] == 128
        assert consumed["bytes_kv"] == produced["bytes_kv"] == 16 * 4096 < consumed["bytes_wire"]
        times = ("opened_at", "first_byte_at", "last_byte_at", "ended_at")
        assert [consumed[key] for key in times] == sorted(consumed[key] for key in times)
        assert produced["producer_done_at"] is not None
        missing = await client.get(url(two.consumer, f"/v1/transfers/{transfer_id()}"))
        assert (missing.status, (await missing.json())["error"]["code"]) == (404, "UnknownTransfer")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/transfers/short/fail", b"{}", 404),
        ("POST", "/v1/transfers/" + "0" * 32 + "/fail", b"{", 400),
        ("POST", "/v1/transfers/" + "0" * 32 + "/fail", b'{"reason": "has spaces"}', 400),
        ("POST", "/v1/transfers/" + "0" * 32 + "/fail", b'{"other": 1}', 400),
        ("GET", "/v1/nothing", b"", 404),
        ("PUT", "/v1/transfers/" + "0" * 32 + "/fail", b"", 405),
        ("POST", "/v1/prefill", b"{}", 404),
    ],
)
async def test_bad_calls_get_an_error_as_data(
    two: Pair, tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    async with gateway(tmp_path, two.authority) as client:
        answer = await client.request(method, url(two.consumer, path), data=body)
        error = (await answer.json())["error"]
    assert answer.status == status
    assert set(error) == {"code", "message", "retryable"}


async def test_only_listed_gateways_are_heard(two: Pair, tmp_path: Path) -> None:
    name = await half_way(two)
    for identity in (STRANGER, CONSUMER):
        async with gateway(tmp_path, two.authority, identity) as client:
            answer = await client.post(url(two.consumer, f"/v1/transfers/{name}/cancel"))
            assert answer.status == 403
            assert (await answer.json())["error"]["code"] == "NotAuthorised"
    context = ssl.create_default_context(cadata=two.authority.pem.decode())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.post(url(two.consumer, f"/v1/transfers/{name}/cancel"))
    assert await two.consumer.metric("prfaas_sidecar_transfers_running", side="consumer") == 1


class Engine:
    """The engine's HTTP side: answers, or does not."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.stuck = asyncio.Event()
        self.gone = asyncio.Event()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        if b"wait" in self.bodies[-1]:
            self.stuck.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.gone.set()
        return web.json_response({"choices": []}, status=429 if b"busy" in self.bodies[-1] else 200)


@contextlib.asynccontextmanager
async def with_engine(
    folder: Path, authority: Authority, **settings: Any
) -> AsyncIterator[tuple[Process, Engine]]:
    engine = Engine()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/completions", engine.complete)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = runner.addresses[0]
    try:
        async with sidecar(
            folder,
            authority.leaf(PRODUCER),
            gateways=[GATEWAY],
            engine={"url": f"http://{address[0]}:{address[1]}"},
            **settings,
        ) as running:
            yield running, engine
    finally:
        await runner.cleanup()


async def test_a_prefill_leg_is_passed_to_the_engine_and_back(tmp_path: Path, authority: Authority) -> None:
    async with with_engine(tmp_path, authority) as (side, engine), gateway(tmp_path, authority) as client:
        body = {"prompt": list(range(50_000)), "max_tokens": 1}
        answer = await client.post(url(side, "/v1/prefill"), json=body)
        assert (answer.status, await answer.json()) == (200, {"choices": []})
        assert json.loads(engine.bodies[0]) == body
        busy = await client.post(url(side, "/v1/prefill"), data=b'{"user": "busy"}')
        assert busy.status == 429
        assert not any("50000" in json.dumps(line) or "49999" in json.dumps(line) for line in side.log)


async def test_a_caller_that_goes_away_aborts_the_leg(tmp_path: Path, authority: Authority) -> None:
    context = await asyncio.to_thread(_context, authority.leaf(GATEWAY), tmp_path)
    async with with_engine(tmp_path, authority) as (side, engine):
        _, writer = await asyncio.open_connection("127.0.0.1", side.ports["control"], ssl=context)
        writer.write(b"POST /v1/prefill HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n")
        writer.write(b'{"user": "wait"}')
        await engine.stuck.wait()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(10):
            await engine.gone.wait()
        await side.until("prfaas_sidecar_prefill_requests_total", lambda n: n == 1, outcome="caller_gone")


async def test_an_engine_that_does_not_answer_in_time_is_given_up(
    tmp_path: Path, authority: Authority
) -> None:
    limits = {"prefill_seconds": 0.3}
    async with (
        with_engine(tmp_path, authority, limits=limits) as (side, _),
        gateway(tmp_path, authority) as client,
    ):
        answer = await client.post(url(side, "/v1/prefill"), data=b'{"user": "wait"}')
        assert answer.status == 504
        assert (await answer.json())["error"] == {
            "code": "DeadlineExceeded",
            "message": "the engine did not finish in time",
            "retryable": True,
        }


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, authority: Authority, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 1024

    limits = {"prefill_body_bytes": "16KiB"}
    async with (
        with_engine(tmp_path, authority, limits=limits) as (side, _),
        gateway(tmp_path, authority) as client,
    ):
        answer = await client.post(url(side, "/v1/prefill"), data=pieces() if chunked else b"x" * 65536)
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "BodyTooLarge"


async def test_an_engine_that_is_not_there_is_said(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(
            tmp_path, authority.leaf(PRODUCER), gateways=[GATEWAY], engine={"url": "http://127.0.0.1:9"}
        ) as side,
        gateway(tmp_path, authority) as client,
    ):
        answer = await client.post(url(side, "/v1/prefill"), data=b"{}")
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "EngineGone")
