"""Steps of the failure ladder that begin at the decode leg, on real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prfaas_bench.fake_engine import Script
from tests.gateway.fake_sidecar import PrefillScript, transfer_id_of
from tests.gateway.ladder_client import Client, soon
from tests.gateway.world import LONG, SHORT, World, running

DECODE_FAILURES = [
    pytest.param(Script(status=500), id="status-500"),
    pytest.param(Script(status=503), id="status-503"),
    pytest.param(Script(die_before_first=True), id="connection-lost"),
    pytest.param(Script(error_event=500), id="error-event"),
    pytest.param(Script(raw=b""), id="empty-stream"),
]


@pytest.mark.parametrize("script", DECODE_FAILURES)
@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["local", "remote"])
async def test_a_decode_engine_that_fails_before_the_first_byte_is_replaced(
    tmp_path: Path, script: Script, prompt: str
) -> None:
    async with running(tmp_path, decoders=2) as world:
        # Which of two idle engines is asked first is the gateway's choice; both fail their first request.
        failing, healthy = world.engines
        failing.scripts = [script] * 2
        client = Client(world, prompt, stream=True)
        await client.done()
        assert client.status == 200
        assert client.body.endswith(b"data: [DONE]\n\n")
        assert len(healthy.asked) == 1
        if prompt is LONG:
            ids = [transfer_id_of(asked) for asked in (failing.asked[0], healthy.asked[0])]
            assert ids[0] != ids[1]
            await soon(world.decode_sidecars[0].wait_for_call("cancel", ids[0]))
            await soon(world.prefill_sidecar.wait_for_call("cancel", ids[0]))
            assert client.headers["x-prfaas-transfer-id"] == ids[1]


@pytest.mark.parametrize("stream", [True, False])
async def test_with_no_other_decode_engine_the_client_may_try_again(world: World, stream: bool) -> None:
    world.engine.default = Script(status=500)
    client = Client(world, SHORT, stream=stream)
    await client.done()
    assert client.status == 503
    assert client.headers["Retry-After"] == "1"
    assert b'"code":"DecodeFailed"' in client.body
    assert b'"retryable":true' in client.body
    assert world.counted("ladder_steps_total", step="give_up", code="Http500") == 1


async def test_a_busy_decode_engine_says_itself_when_to_come_back(world: World) -> None:
    world.engine.default = Script(status=503, retry_after="7")
    client = Client(world, SHORT)
    await client.done()
    assert (client.status, client.headers["Retry-After"]) == (503, "7")
    assert b'"code":"DecodeBusy"' in client.body


async def test_an_answer_that_breaks_off_before_it_was_sent_is_a_failed_leg(tmp_path: Path) -> None:
    async with running(tmp_path, decoders=2) as world:
        world.engines[0].scripts = [Script(die_after=0)]
        client = Client(world, SHORT)
        await client.done()
        assert client.status == 200
        assert client.body.endswith(b"}")


async def test_a_stale_connection_costs_nothing(world: World) -> None:
    world.engine.scripts = [Script(), Script(die_before_first=True)]
    for _ in range(2):
        client = Client(world, SHORT)
        await client.done()
        assert client.status == 200
    assert len(world.engine.asked) == 3


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["local", "remote"])
async def test_an_engine_that_dies_in_mid_stream_ends_the_stream_with_an_error(
    world: World, prompt: str
) -> None:
    world.engine.default = Script(die_after=2)
    client = Client(world, prompt, stream=True)
    await client.done()
    assert client.status == 200
    events = client.body.split(b"\n\n")
    assert len(events) == 4
    assert b"k1" in events[1]
    assert events[2].startswith(b'data: {"error":{')
    assert b'"code":"StreamBroken"' in events[2]
    assert b"[DONE]" not in client.body
    if prompt is LONG:
        await soon(world.decode_sidecar.wait_for_call("cancel", transfer_id_of(world.engine.asked[0])))


async def test_an_engine_that_falls_silent_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"timeouts": {"idle_seconds": 0.1}}) as world:
        world.engine.default = Script(go_on=asyncio.Event())
        client = Client(world, SHORT, stream=True)
        await client.done()
        assert b'"code":"StreamBroken"' in client.body
        await soon(world.engine.asked[0].aborted.wait())


async def test_a_first_byte_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"timeouts": {"first_byte_seconds": 0.2}}) as world:
        world.engine.default = Script(begin=asyncio.Event())
        client = Client(world, LONG, stream=True)
        await client.done()
        assert client.status == 503
        assert b'"code":"DeadlineExceeded"' in client.body
        await soon(world.engine.asked[0].aborted.wait())
        await soon(world.decode_sidecar.wait_for_call("cancel", transfer_id_of(world.engine.asked[0])))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_of_the_clients_making_is_passed_on(world: World, stream: bool) -> None:
    world.engine.default = Script(status=400)
    world.prefill_sidecar.prefill_default = PrefillScript(finish=asyncio.Event())
    client = Client(world, LONG, stream=stream)
    await client.done()
    assert client.status == 400
    assert b"scripted" in client.body
    # Nobody wants the KV of a refused request.
    prefill = await soon(world.prefill_sidecar.wait_for_prefill())
    await soon(prefill.aborted.wait())
    await soon(world.decode_sidecar.wait_for_call("cancel", transfer_id_of(world.engine.asked[0])))
