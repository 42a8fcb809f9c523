"""What a request holds is freed when its client leaves or does not read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prfaas_bench.fake_engine import Script
from tests.gateway.fake_sidecar import PrefillScript, transfer_id_of
from tests.gateway.ladder_client import Client, everything_is_free, soon
from tests.gateway.world import LONG, SHORT, World, running


async def test_a_client_that_leaves_while_it_waits_frees_everything(world: World) -> None:
    world.engine.default = Script(begin=asyncio.Event())
    world.prefill_sidecar.prefill_default = PrefillScript(finish=asyncio.Event())
    client = Client(world, stream=True)
    decode = await soon(world.engine.wait_for(1))
    prefill = await soon(world.prefill_sidecar.wait_for_prefill())
    client.task.cancel()
    await soon(decode.aborted.wait())
    await soon(prefill.aborted.wait())
    await soon(world.decode_sidecar.wait_for_call("cancel", transfer_id_of(decode)))
    await soon(world.prefill_sidecar.wait_for_call("cancel", transfer_id_of(decode)))
    await everything_is_free(world)
    assert world.counted("client_gone_total") == 1


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["local", "remote"])
async def test_a_client_that_leaves_in_mid_stream_frees_everything(world: World, prompt: str) -> None:
    world.engine.default = Script(go_on=asyncio.Event())
    async with world.complete(prompt, stream=True) as response:
        await soon(response.content.readuntil(b"\n\n"))
        response.close()
    decode = world.engine.asked[0]
    await soon(decode.aborted.wait())
    if prompt is LONG:
        await soon(world.decode_sidecar.wait_for_call("cancel", transfer_id_of(decode)))
        await soon(world.prefill_sidecar.wait_for_call("cancel", transfer_id_of(decode)))
    await everything_is_free(world)


async def test_a_client_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"timeouts": {"client_write_seconds": 0.2}}) as world:
        world.engine.default = Script(raw=b"data: " + b"x" * 60_000 + b"\n\n", repeat=1000)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(world.url.rsplit(":", 1)[1]), limit=1024
        )
        body = b'{"prompt": "x", "stream": true}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write(head + body)
        await soon(reader.readuntil(b"\r\n\r\n"))
        await soon(world.engine.asked[0].aborted.wait())
        await everything_is_free(world)
        writer.close()


async def test_a_running_stream_holds_nothing_of_its_request(world: World) -> None:
    world.engine.default = Script(go_on=asyncio.Event())
    async with world.complete(LONG, stream=True) as response:
        await soon(response.content.readuntil(b"\n\n"))
        assert world.services.budget.used_bytes == 0
        assert world.services.in_flight == 1


async def test_requests_in_flight_are_counted_by_engine(world: World) -> None:
    begin = asyncio.Event()
    world.engine.default = Script(begin=begin)
    world.prefill_sidecar.prefill_default = PrefillScript(finish=begin)
    client = Client(world)
    await soon(world.engine.wait_for(1))
    await soon(world.prefill_sidecar.wait_for_prefill())
    fleet = world.services.fleet
    assert [engine.in_flight for engine in fleet.decoders] == [1]
    assert [engine.in_flight_tokens for engine in fleet.prefillers] == [len(LONG)]
    begin.set()
    await client.done()
    await everything_is_free(world)
