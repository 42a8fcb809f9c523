"""A gateway gets its tokenizer from a real sidecar process, and files that change under way are no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from yarl import URL

from prfaas_connector.local_api.model_files import folder_beside
from prfaas_demo.certificates import ca
from prfaas_gateway.classify import Endpoint, classify
from prfaas_gateway.cluster.tokenizers import TokenizerCache, TokenizerError
from prfaas_gateway.control import ControlClient, ControlTarget
from prfaas_gateway.engine_report import EngineReport
from prfaas_gateway.prefix_index import Scope
from prfaas_gateway.prompt import PreparedPrompt, PromptMaker
from tests.gateway.test_real_sidecar import credentials
from tests.gateway.tokenizers_for_tests import byte_tokenizer, write_model
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FINGERPRINT, FakeEngine
from tests.sidecar.harness import CONSUMER, GATEWAY, Process, sidecar
from tests.sidecar.test_sidecar_status import facts, lay


@dataclass
class Told:
    """A sidecar whose engine has told of its files."""

    side: Process
    engine: FakeEngine
    target: ControlTarget
    control: ControlClient
    report: EngineReport


@pytest_asyncio.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    """The tests' tokenizer, offered by a real sidecar."""
    authority = ca()
    model = await asyncio.to_thread(write_model, tmp_path / "model")
    async with AsyncExitStack() as stack:
        side = await stack.enter_async_context(
            sidecar(tmp_path, authority.leaf(CONSUMER), gateways=[GATEWAY])
        )
        engine = await side.engine()
        stack.push_async_callback(engine.close)
        shown = await asyncio.to_thread(credentials, authority, tmp_path / "ours", GATEWAY)
        control = ControlClient(shown, 5, 5)
        stack.push_async_callback(control.close)
        target = ControlTarget(URL(f"https://127.0.0.1:{side.ports['control']}"), CONSUMER)
        assert (await control.engine(target)).model_files == ()

        def offer() -> list[object]:
            return [lay(side, path.name, path.read_bytes()) for path in sorted(model.iterdir())]

        engine.scheduler.send(facts(*await asyncio.to_thread(offer)))  # type: ignore[arg-type]

        async def known() -> bool:
            return bool((await control.engine(target)).model_files)

        await eventually_async(known)
        yield Told(side, engine, target, control, await control.engine(target))


async def test_the_tokenizer_comes_from_the_engines_pod_once(told: Told, tmp_path: Path) -> None:
    report = told.report
    assert (report.fingerprint, report.block_tokens, report.max_model_tokens) == (FINGERPRINT, 32, 8192)
    cache = TokenizerCache(tmp_path / "cache", 1 << 30)
    loaded = await cache.load(told.control, [told.target], report.model_files, report.files_digest)
    maker = PromptMaker(loaded.tokenizer, loaded.template, threshold_tokens=10, block_tokens=16)
    fields = {"model": "chat", "prompt": "a prompt that is longer than ten bytes"}
    prepared = maker.prepare(classify(Endpoint.COMPLETIONS, fields), fields, Scope("chat"))
    assert isinstance(prepared, PreparedPrompt)
    assert prepared.tokens == len(byte_tokenizer().encode(fields["prompt"]).ids)
    assert maker.renders_chat
    # With nobody to ask, the disk has it.
    again = await cache.load(told.control, [], report.model_files, report.files_digest)
    assert again.digest == loaded.digest


async def test_files_that_were_changed_on_disk_are_fetched_again(told: Told, tmp_path: Path) -> None:
    cache, report = TokenizerCache(tmp_path / "cache", 1 << 30), told.report
    await cache.load(told.control, [told.target], report.model_files, report.files_digest)
    file = tmp_path / "cache" / report.files_digest / "tokenizer.json"
    whole = await asyncio.to_thread(file.read_bytes)
    await asyncio.to_thread(file.write_bytes, b"{}")
    await cache.load(told.control, [told.target], report.model_files, report.files_digest)
    assert await asyncio.to_thread(file.read_bytes) == whole


async def test_files_that_are_gone_in_the_pod_leave_nothing_behind(told: Told, tmp_path: Path) -> None:
    file = folder_beside(told.side.socket) / "tokenizer.json"
    await asyncio.to_thread(file.unlink)
    cache, report = TokenizerCache(tmp_path / "cache", 1 << 30), told.report
    with pytest.raises(TokenizerError):
        await cache.load(told.control, [told.target], report.model_files, report.files_digest)
    assert await asyncio.to_thread(lambda: list((tmp_path / "cache").iterdir())) == []


async def test_what_is_not_in_use_goes_when_there_is_too_much(tmp_path: Path) -> None:
    def fill() -> None:
        for name in ("old", "used", ".part-1"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "tokenizer.json").write_bytes(b"x" * 100)

    await asyncio.to_thread(fill)
    await TokenizerCache(tmp_path, 1000).prune({"used"})
    assert await asyncio.to_thread(lambda: sorted(p.name for p in tmp_path.iterdir())) == ["old", "used"]
    await TokenizerCache(tmp_path, 150).prune({"used"})
    assert await asyncio.to_thread(lambda: sorted(p.name for p in tmp_path.iterdir())) == ["used"]
