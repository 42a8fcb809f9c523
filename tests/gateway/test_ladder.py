"""Every step of the failure ladder, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from prfaas_bench.fake_engine import Script
from tests.gateway.fake_sidecar import PrefillScript, transfer, transfer_id_of
from tests.gateway.world import LONG, SHORT, World, running
from tests.helpers import eventually_async

T = TypeVar("T")


async def soon(wait: Awaitable[T]) -> T:
    """Wait for something that must happen; a failure says where instead of hanging."""
    return await asyncio.wait_for(wait, 10)


class Client:
    """One request of a client, running."""

    def __init__(self, world: World, prompt: str = LONG, **fields: Any) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.task = asyncio.create_task(self._run(world, prompt, fields))

    async def _run(self, world: World, prompt: str, fields: dict[str, Any]) -> None:
        async with world.complete(prompt, **fields) as response:
            self.status, self.headers = response.status, dict(response.headers)
            self.body = await response.read()

    async def done(self) -> None:
        """Wait for the whole answer."""
        await soon(self.task)

    @property
    def route(self) -> tuple[str | None, str | None]:
        """Route and reason as the client was told."""
        return self.headers.get("x-prfaas-route"), self.headers.get("x-prfaas-reason")


FAILURES = [
    pytest.param(PrefillScript(status=503, code="ArenaFull"), "ArenaFull", id="arena-full"),
    pytest.param(PrefillScript(status=500, code="EngineGone"), "EngineGone", id="engine-gone"),
    pytest.param(PrefillScript(die=True), "PeerUnreachable", id="connection-lost"),
    pytest.param(PrefillScript(refused="ArenaFull"), "ArenaFull", id="no-kv-arena-full"),
    pytest.param(PrefillScript(refused="SidecarGone"), "SidecarGone", id="no-kv-sidecar-gone"),
    pytest.param(PrefillScript(refused="NotSupported"), "NotSupported", id="no-kv-not-supported"),
    pytest.param(PrefillScript(refused="Invented"), "Other", id="no-kv-unknown-code"),
]


@pytest.mark.parametrize(("script", "code"), FAILURES)
async def test_a_failed_prefill_leg_lets_the_decode_engine_compute(
    world: World, script: PrefillScript, code: str
) -> None:
    begin = asyncio.Event()
    world.engine.scripts = [Script(begin=begin)]
    world.prefill_sidecar.prefill_scripts = [script]
    client = Client(world, stream=True)
    decode = await soon(world.engine.wait_for(1))
    body = await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
    assert body == {"reason": "PrefillFailed"}
    begin.set()
    await client.done()
    assert client.status == 200
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert client.route == ("local", "PrefillFailed")
    # The same decode leg went on: nothing was asked twice.
    assert len(world.engine.asked) == 1
    assert world.counted("ladder_steps_total", step="local_prefill", code=code) == 1
    assert world.counted("prefill_legs_total", engine="prefill-0", code=code) == 1


async def test_with_nothing_landed_another_prefill_engine_is_asked(tmp_path: Path) -> None:
    async with running(tmp_path, prefillers=2) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=asyncio.Event()), Script(begin=begin)]
        for sidecar in world.prefill_sidecars:
            sidecar.prefill_scripts = [PrefillScript(status=503)]
        world.decode_sidecar.default_transfer = transfer(units_landed=0)
        client = Client(world, stream=True)
        first, second = await soon(world.engine.wait_for(1)), await soon(world.engine.wait_for(2))
        one, two = transfer_id_of(first), transfer_id_of(second)
        assert one != two
        # The first attempt leaves nothing behind: its decode leg is aborted, both sidecars are told.
        await soon(first.aborted.wait())
        await soon(world.decode_sidecar.wait_for_call("cancel", one))
        # The second prefill engine fails as well; that is the last attempt.
        await soon(world.decode_sidecar.wait_for_call("fail", two))
        begin.set()
        await client.done()
        assert client.status == 200
        assert client.route == ("local", "PrefillFailed")
        assert [len(sidecar.prefills) for sidecar in world.prefill_sidecars] == [1, 1]
        assert world.counted("ladder_steps_total", step="retry_remote", code="Draining") == 1
        assert world.counted("ladder_steps_total", step="local_prefill", code="Draining") == 1


async def test_the_second_prefill_engine_can_save_the_transfer(tmp_path: Path) -> None:
    async with running(tmp_path, prefillers=2) as world:
        first_failed = PrefillScript(status=503)
        world.engine.scripts = [Script(begin=asyncio.Event()), Script()]
        for sidecar in world.prefill_sidecars:
            sidecar.prefill_default = PrefillScript()
        world.prefill_sidecar.prefill_scripts = [first_failed]
        client = Client(world)
        await client.done()
        assert client.route == ("remote", "OverThreshold")
        assert client.headers["x-prfaas-transfer-id"] == transfer_id_of(world.engine.asked[1])


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(transfer(units_landed=3), id="something-landed"),
        pytest.param(transfer(units_landed=0, ended_at=5.0), id="the-engine-went-on-already"),
    ],
)
async def test_what_landed_is_not_thrown_away_for_another_attempt(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    async with running(tmp_path, prefillers=2) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        world.prefill_sidecar.prefill_scripts = [PrefillScript(status=503)]
        world.prefill_sidecars[1].prefill_scripts = [PrefillScript(status=503)]
        world.decode_sidecar.default_transfer = known
        client = Client(world)
        decode = await soon(world.engine.wait_for(1))
        await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
        begin.set()
        await client.done()
        assert client.status == 200
        assert client.route == ("remote" if known["units_landed"] else "local", "PrefillFailed")
        assert len(world.engine.asked) == 1


async def test_a_decode_sidecar_that_says_nothing_means_local_prefill(tmp_path: Path) -> None:
    async with running(tmp_path, prefillers=2) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        world.prefill_sidecar.prefill_scripts = [PrefillScript(status=503)]
        world.prefill_sidecars[1].prefill_scripts = [PrefillScript(status=503)]
        world.decode_sidecar.refuse_control = True
        client = Client(world)
        decode = await soon(world.engine.wait_for(1))
        await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
        begin.set()
        await client.done()
        assert client.route == ("local", "PrefillFailed")


async def test_a_refusal_that_no_other_engine_could_mend_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path, prefillers=2) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        for sidecar in world.prefill_sidecars:
            sidecar.prefill_default = PrefillScript(status=400, code="PromptMismatch", retryable=False)
        client = Client(world)
        decode = await soon(world.engine.wait_for(1))
        await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
        begin.set()
        await client.done()
        assert client.route == ("local", "PrefillFailed")
        assert sum(len(sidecar.prefills) for sidecar in world.prefill_sidecars) == 1


@pytest.mark.parametrize("code", ["ArenaFull", "SidecarGone"])
async def test_an_answer_without_kv_is_worth_another_prefill_engine(tmp_path: Path, code: str) -> None:
    async with running(tmp_path, prefillers=2) as world:
        world.engine.scripts = [Script(begin=asyncio.Event()), Script()]
        first, second = world.prefill_sidecars
        first.prefill_scripts = [PrefillScript(refused=code)]
        client = Client(world)
        await client.done()
        assert client.route == ("remote", "OverThreshold")
        assert [len(sidecar.prefills) for sidecar in (first, second)] == [1, 1]
        assert client.headers["x-prfaas-transfer-id"] == transfer_id_of(world.engine.asked[1])
        assert world.counted("ladder_steps_total", step="retry_remote", code=code) == 1
        assert world.counted("prefill_legs_total", engine="prefill-0", code=code) == 1
        assert world.services.fleet.prefillers[0].sidecar.failures.score == 1


async def test_a_transfer_that_the_refusal_ended_already_needs_nothing_more(
    tmp_path: Path, logs: list[dict[str, Any]]
) -> None:
    async with running(tmp_path, prefillers=2) as world:
        begin, finish = asyncio.Event(), asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        for sidecar in world.prefill_sidecars:
            sidecar.prefill_default = PrefillScript(refused="ArenaFull", finish=finish)
        # The producer's sidecar refused the consumer's long before the prefill leg was answered.
        world.decode_sidecar.default_transfer = transfer(
            state="ended", code="ArenaFull", ended_at=5.0, taken_tokens=0
        )
        client = Client(world)
        decode = await soon(world.engine.wait_for(1))
        finish.set()
        await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
        begin.set()
        await client.done()
        assert client.status == 200
        assert client.route == ("local", "PrefillFailed")
        assert len(world.engine.asked) == 1
        assert sum(len(sidecar.prefills) for sidecar in world.prefill_sidecars) == 1
        await world.settled()
        (line,) = [record for record in logs if record["name"] == "prfaas_gateway.access"]
        assert (line["prefill_code"], line["transfer_code"], line["taken_tokens"]) == (
            "ArenaFull",
            "ArenaFull",
            0,
        )


async def test_a_refusal_after_the_answer_has_begun_is_only_counted(world: World) -> None:
    finish = asyncio.Event()
    world.prefill_sidecar.prefill_scripts = [PrefillScript(refused="ArenaFull", finish=finish)]
    world.decode_sidecar.default_transfer = transfer(state="ended", code="ArenaFull", ended_at=5.0)
    client = Client(world, stream=True)
    await client.done()
    assert client.body.endswith(b"data: [DONE]\n\n")
    finish.set()
    await world.settled()
    assert world.counted("prefill_legs_total", engine="prefill-0", code="ArenaFull") == 1
    assert world.counted("transfers_total", engine="prefill-0", code="ArenaFull") == 1
    assert world.decode_sidecar.called("fail") == []


async def test_a_prefill_leg_has_a_deadline(tmp_path: Path) -> None:
    timeouts = {"transfer_seconds": 0.1, "transfer_seconds_per_1000_tokens": 0}
    async with running(tmp_path, settings={"timeouts": timeouts}) as world:
        begin = asyncio.Event()
        world.engine.scripts = [Script(begin=begin)]
        world.prefill_sidecar.prefill_scripts = [PrefillScript(finish=asyncio.Event())]
        client = Client(world)
        decode = await soon(world.engine.wait_for(1))
        await soon(world.decode_sidecar.wait_for_call("fail", transfer_id_of(decode)))
        begin.set()
        await client.done()
        assert client.status == 200
        assert world.counted("prefill_legs_total", engine="prefill-0", code="PeerSilent") == 1


async def test_an_answer_that_begins_early_ends_the_prefill_leg_after_a_grace(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"timeouts": {"prefill_grace_seconds": 0.05}}) as world:
        world.prefill_sidecar.prefill_scripts = [PrefillScript(finish=asyncio.Event())]
        client = Client(world)
        await client.done()
        assert client.route == ("remote", "OverThreshold")
        prefill = await soon(world.prefill_sidecar.wait_for_prefill())
        await soon(prefill.aborted.wait())
        await soon(world.prefill_sidecar.wait_for_call("cancel", transfer_id_of(world.engine.asked[0])))
        assert world.decode_sidecar.called("cancel") == []


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


async def everything_is_free(world: World) -> None:
    """Wait until no request, job, byte or token is held any more."""
    services = world.services

    def free() -> bool:
        return not (
            services.in_flight
            or services.budget.used_bytes
            or len(services.supervisor)
            or sum(engine.in_flight for engine in services.fleet.decoders)
            or sum(engine.in_flight_tokens for engine in services.fleet.prefillers)
        )

    await eventually_async(free, what="everything is free again")


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
