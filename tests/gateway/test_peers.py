"""Who may answer as a sidecar, and how engines are looked after."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.control import ControlClient, ControlError, ControlTarget
from prfaas_gateway.probes import probe_once
from tests.gateway.fake_sidecar import FakeSidecar, transfer
from tests.gateway.tokenizers_for_tests import byte_tokenizer
from tests.gateway.world import GATEWAY, LONG, TRUST, World, prefill_identity, running

OTHER_REGION = f"{TRUST}/region/elsewhere/ns/llm/pool/PrefillPool/prefill-0"
OTHER_POOL = f"{TRUST}/region/there/ns/llm/pool/PrefillPool/other"


async def ask(world: World, authority: Authority, folder: Path, uri: str | list[str], **validity: Any) -> str:
    """Probe a sidecar that has a certificate of ``authority`` for ``uri``; the code of the failure, or OK."""
    async with AsyncExitStack() as stack:
        sidecar = await stack.enter_async_context(
            FakeSidecar(prefill_identity()).run(authority, folder / "impostor", uri, **validity)
        )
        assert world.services.control is not None
        try:
            await world.services.control.probe(ControlTarget(URL(sidecar.url), prefill_identity()))
        except ControlError as error:
            assert sidecar.prefills == []
            return error.code
        return "OK"


async def test_the_right_identity_is_accepted(world: World, tmp_path: Path) -> None:
    assert await ask(world, world.authority, tmp_path, prefill_identity()) == "OK"


@pytest.mark.parametrize("uri", [OTHER_REGION, OTHER_POOL], ids=["wrong-region", "wrong-pool"])
async def test_another_identity_of_the_same_authority_gets_nothing(
    world: World, tmp_path: Path, uri: str
) -> None:
    assert await ask(world, world.authority, tmp_path, uri) == "NotAuthorised"


async def test_the_right_identity_of_another_authority_gets_nothing(world: World, tmp_path: Path) -> None:
    assert await ask(world, ca("another CA"), tmp_path, prefill_identity()) == "NotAuthorised"


async def test_an_expired_certificate_gets_nothing(world: World, tmp_path: Path) -> None:
    expired = {
        "valid_from": dt.datetime.now(dt.UTC) - dt.timedelta(hours=2),
        "valid_for": dt.timedelta(hours=1),
    }
    assert await ask(world, world.authority, tmp_path, prefill_identity(), **expired) == "NotAuthorised"


async def test_two_identities_in_one_certificate_are_none(world: World, tmp_path: Path) -> None:
    both = [prefill_identity(), OTHER_POOL]
    assert await ask(world, world.authority, tmp_path, both) == "NotAuthorised"


async def test_an_impostor_gets_no_prompt(tmp_path: Path) -> None:
    async with running(tmp_path, probe=False) as world, AsyncExitStack() as stack:
        impostor = await stack.enter_async_context(
            FakeSidecar(prefill_identity()).run(world.authority, tmp_path / "impostor", OTHER_POOL)
        )
        prefiller = world.services.fleet.prefillers[0]
        prefiller.config = prefiller.config.model_copy(update={"control": impostor.url})
        async with world.complete() as response:
            assert response.status == 200
            assert response.headers["x-prfaas-reason"] == "PrefillFailed"
            await response.read()
        assert impostor.prefills == []
        assert world.counted("prefill_legs_total", engine="prefill-0", code="NotAuthorised") == 1


async def test_plaintext_is_no_sidecar(world: World) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = URL("https://{}:{}".format(*runner.addresses[0][:2]))
    assert isinstance(world.services.control, ControlClient)
    with pytest.raises(ControlError):
        await world.services.control.probe(ControlTarget(url, prefill_identity()))
    await runner.cleanup()


async def test_a_sidecar_that_does_not_answer_is_not_asked(world: World) -> None:
    world.prefill_sidecar.refuse_control = True
    await probe_once(world.services)
    async with world.complete() as response:
        assert response.headers["x-prfaas-reason"] == "NoPrefillEngine"
        await response.read()
    world.prefill_sidecar.refuse_control = False
    await probe_once(world.services)
    async with world.complete("z" + LONG) as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()


async def test_without_a_decode_sidecar_nothing_is_remote(world: World) -> None:
    world.decode_sidecar.refuse_control = True
    await probe_once(world.services)
    async with world.complete() as response:
        assert response.headers["x-prfaas-reason"] == "NoDecodeSidecar"
        await response.read()


async def test_remote_prefill_can_be_switched_off(tmp_path: Path) -> None:
    # Two decode engines, so that the prompt is tokenised all the same.
    async with running(tmp_path, decoders=2, settings={"remote_prefill": False}) as world:
        async with world.complete() as response:
            assert response.headers["x-prfaas-reason"] == "RemoteDisabled"
            await response.read()
        # The second request finds the engine that has the prefix.
        async with world.complete() as response:
            await response.read()
        assert sorted(len(engine.asked) for engine in world.engines) == [0, 2]


def shifted(body: dict[str, Any]) -> list[int]:
    """Another tokenizer than the gateway's."""
    return [1, *same(body)]


def same(body: dict[str, Any]) -> list[int]:
    """What the gateway's tokenizer makes of the probe."""
    text = body.get("prompt")
    if text is None:
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in body["messages"])
        text += "<|im_start|>assistant\n"
    ids: list[int] = byte_tokenizer().encode(text).ids
    return ids


@pytest.mark.parametrize(
    ("tokenize", "reason"),
    [(same, "OverThreshold"), (shifted, "TokenizerMismatch"), (None, "OverThreshold")],
    ids=["same", "differs", "cannot-be-asked"],
)
async def test_an_engine_with_another_tokenizer_gets_no_remote_requests(
    world: World, tokenize: Callable[[dict[str, Any]], list[int]] | None, reason: str
) -> None:
    world.engine._tokenize = tokenize
    await probe_once(world.services)
    async with world.complete() as response:
        assert response.headers["x-prfaas-reason"] == reason
        await response.read()


async def test_readiness_follows_the_decode_engines(world: World) -> None:
    async def ready() -> int:
        async with world.client.get(f"{world.health_url}/readyz") as response:
            return response.status

    assert await ready() == 200
    world.engine.healthy = False
    await probe_once(world.services)
    assert await ready() == 503
    world.engine.healthy = True
    await probe_once(world.services)
    assert await ready() == 200
    world.services.draining = True
    assert await ready() == 503
    async with world.complete() as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "Draining"
    async with world.client.get(f"{world.health_url}/healthz") as response:
        assert response.status == 200


async def test_metrics_can_be_scraped(world: World) -> None:
    async with world.complete() as response:
        await response.read()
    await world.settled()
    async with world.client.get(f"{world.health_url}/metrics") as response:
        text = await response.text()
    route = 'code="OK",model="chat",reason="OverThreshold",route="remote"'
    assert f"prfaas_gateway_requests_total{{{route}}} 1.0" in text
    assert 'prfaas_gateway_prefix_index_blocks{engine="decode-0"} 28.0' in text
    assert 'prfaas_gateway_engine_healthy{engine="prefill-0",part="sidecar"} 1.0' in text
    assert "quick brown" not in text


async def test_failures_take_a_prefill_engine_out_for_a_while(world: World) -> None:
    sidecar = world.services.fleet.prefillers[0].sidecar
    now = world.services.clock()
    for _ in range(3):
        sidecar.failed(now)
    assert not sidecar.healthy(now)
    assert sidecar.healthy(now + 10)


async def test_a_transfer_that_never_came_counts_against_its_producer(world: World) -> None:
    world.decode_sidecar.default_transfer = transfer(code="LinkLost", ended_at=1.0)
    for number in range(3):
        async with world.complete(f"{number}{LONG}") as response:
            assert response.headers["x-prfaas-route"] == "remote"
            await response.read()
        await world.settled()
    async with world.complete("!" + LONG) as response:
        assert response.headers["x-prfaas-reason"] == "NoPrefillEngine"
        await response.read()


async def test_renewed_certificates_are_used_without_a_restart(world: World, tmp_path: Path) -> None:
    tls, control = world.services.config.tls, world.services.control
    assert tls is not None
    assert control is not None
    other = ca("the next CA")
    async with FakeSidecar(prefill_identity()).run(other, tmp_path / "next") as sidecar:
        target = ControlTarget(URL(sidecar.url), prefill_identity())
        with pytest.raises(ControlError, match="NotAuthorised"):
            await control.probe(target)
        await asyncio.to_thread(other.leaf(GATEWAY).write, tls.key.parent, "gateway")
        await probe_once(world.services)
        await control.probe(target)


async def test_certificates_that_cannot_be_used_change_nothing(
    world: World, logs: list[dict[str, Any]]
) -> None:
    tls = world.services.config.tls
    assert tls is not None
    await asyncio.to_thread(tls.key.write_text, "half a k")
    await probe_once(world.services)
    assert "new certificates cannot be used" in [line["message"] for line in logs]
    async with world.complete() as response:
        assert response.headers["x-prfaas-route"] == "remote"
        await response.read()
