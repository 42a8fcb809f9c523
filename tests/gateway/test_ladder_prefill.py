"""Steps of the failure ladder that begin at the prefill leg, on real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from prfaas_bench.fake_engine import Script
from tests.gateway.fake_sidecar import PrefillScript, transfer, transfer_id_of
from tests.gateway.ladder_client import Client, soon
from tests.gateway.world import World, running

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
