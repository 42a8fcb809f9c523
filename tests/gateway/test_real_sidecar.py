"""The gateway's control client and a real sidecar process understand each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from yarl import URL

from prfaas_bench.fake_engine import FakeEngine, Script
from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.config import Tls
from prfaas_gateway.control import ControlClient, ControlError, ControlTarget, new_transfer_id
from prfaas_gateway.tls import Credentials
from tests.sidecar.harness import CONSUMER, GATEWAY, sidecar

OTHER_GATEWAY = GATEWAY.replace("/eu/", "/mars/")
PROMPT = json.dumps({"model": "m", "prompt": [1, 2, 3], "max_tokens": 1, "stream": False}).encode()


@dataclass
class Pair:
    """A sidecar's control listener, the engine behind it, and clients of two gateways."""

    target: ControlTarget
    engine: FakeEngine
    ours: ControlClient
    strangers: ControlClient


def credentials(authority: Authority, folder: Path, identity: str) -> Credentials:
    """A gateway's certificate, and trust in the same authority."""
    files = authority.leaf(identity).write(folder, "gateway")
    return Credentials(Tls(certificate=files.certificate, key=files.key, trust_bundle=files.ca), [CONSUMER])


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """One sidecar that knows one gateway."""
    authority = ca()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine().run())
        process = await stack.enter_async_context(
            sidecar(tmp_path, authority.leaf(CONSUMER), gateways=[GATEWAY], engine={"url": engine.url})
        )
        clients = []
        for name, identity in (("ours", GATEWAY), ("strangers", OTHER_GATEWAY)):
            shown = await asyncio.to_thread(credentials, authority, tmp_path / name, identity)
            client = ControlClient(shown, 5, 5)
            stack.push_async_callback(client.close)
            clients.append(client)
        target = ControlTarget(URL(f"https://127.0.0.1:{process.ports['control']}"), CONSUMER)
        yield Pair(target, engine, *clients)


async def test_a_probe_finds_the_sidecar(pair: Pair) -> None:
    await pair.ours.probe(pair.target)
    assert await pair.ours.transfer(pair.target, new_transfer_id()) is None


async def test_another_gateway_is_refused(pair: Pair) -> None:
    with pytest.raises(ControlError, match="NotAuthorised") as refused:
        await pair.strangers.probe(pair.target)
    assert refused.value.blames_peer


async def test_calls_for_transfers_that_are_not_known_yet_are_taken(pair: Pair) -> None:
    await pair.ours.fail(pair.target, new_transfer_id(), "PrefillFailed")
    await pair.ours.cancel(pair.target, new_transfer_id())
    await pair.ours.cancel(pair.target, new_transfer_id())


async def test_a_prefill_leg_reaches_the_engine(pair: Pair) -> None:
    await pair.ours.prefill(pair.target, PROMPT, {"x-request-id": "prfaas-1"}, 10)
    assert pair.engine.asked[0].path == "/v1/completions"
    assert pair.engine.asked[0].raw == PROMPT


@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        (Script(status=400), "Http400", False),
        (Script(status=503), "Http503", True),
        (Script(die_before_first=True), "EngineGone", True),
    ],
    ids=["refused", "busy", "died"],
)
async def test_a_failed_prefill_leg_says_why(pair: Pair, script: Script, code: str, retryable: bool) -> None:
    pair.engine.default = script
    with pytest.raises(ControlError) as failed:
        await pair.ours.prefill(pair.target, PROMPT, {}, 10)
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


async def test_an_answer_without_kv_is_a_failed_prefill_leg(pair: Pair) -> None:
    params = {"prfaas": {"transfer_id": new_transfer_id(), "refused": "SidecarGone"}}
    pair.engine.scripts = [
        Script(kv_transfer_params=params),
        Script(kv_transfer_params={"prfaas": {"refused": None}}),
    ]
    with pytest.raises(ControlError, match="SidecarGone") as failed:
        await pair.ours.prefill(pair.target, PROMPT, {}, 10)
    assert failed.value.retryable
    assert failed.value.blames_peer
    await pair.ours.prefill(pair.target, PROMPT, {}, 10)


async def test_a_prefill_leg_that_is_given_up_ends_in_the_engine(pair: Pair) -> None:
    pair.engine.default = Script(begin=asyncio.Event())
    leg = asyncio.create_task(pair.ours.prefill(pair.target, PROMPT, {}, 30))
    asked = await asyncio.wait_for(pair.engine.wait_for(1), 10)
    leg.cancel()
    await asyncio.wait_for(asked.aborted.wait(), 10)
