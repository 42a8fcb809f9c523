"""What the sidecar tells of its engine, and the model's files that it hands to gateways."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from prfaas_connector.local_api.messages import Facts
from prfaas_connector.local_api.model_files import MAX_BYTES, ModelFile, folder_beside
from prfaas_demo.certificates import Authority
from prfaas_sidecar.engine import MAX_FIELD_LENGTH, MAX_FIELDS
from prfaas_sidecar.status import fields_told
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FINGERPRINT, FakeEngine, Side
from tests.sidecar.harness import CONSUMER, GATEWAY, PRODUCER, Process, sidecar
from tests.sidecar.test_control import gateway, url

UNKNOWN = {
    "incarnation": None,
    "engine_connected": False,
    "fingerprint": None,
    "fingerprint_fields": None,
    "role": None,
    "block_tokens": None,
    "max_model_tokens": None,
    "served_models": None,
    "model_files": [],
    "model_files_error": None,
}


async def status(side: Process) -> dict[str, Any]:
    code, text = await side.get("/status")
    assert code == 200
    body: dict[str, Any] = json.loads(text)
    assert len(body.pop("links_epoch")) == 16
    return body


async def told(side: Process) -> dict[str, Any]:
    """The status, once the engine's facts have come."""

    async def known() -> dict[str, Any]:
        found = await status(side)
        return found if found["block_tokens"] is not None else {}

    found: dict[str, Any] = await eventually_async(known)
    return found


def lay(side: Process, name: str, content: bytes) -> ModelFile:
    folder = folder_beside(side.socket)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return ModelFile(name, len(content), hashlib.sha256(content).hexdigest())


def remove(side: Process) -> None:
    folder = folder_beside(side.socket)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def facts(*files: ModelFile, error: str = "") -> Facts:
    return Facts(32, 8192, ("chat", "chat-latest"), files, error)


async def test_the_status_is_that_of_the_engine_that_is_there(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(tmp_path, authority.leaf(PRODUCER), accept=[CONSUMER], gateways=[GATEWAY]) as side,
        gateway(tmp_path, authority) as client,
    ):
        always = {
            "version": 1,
            "draining": False,
            "active_transfers": 0,
            "arena_bytes": 16 << 20,
            "arena_used_bytes": 0,
            "peers": {"source": "config", "digest": None, "read_at": None, "error": None},
            "links": [],
        }
        assert await status(side) == {**always, **UNKNOWN}
        scheduler = await Side.connect(side.socket, "scheduler")
        assert (await status(side))["engine_connected"] is False
        worker = await Side.connect(side.socket, "worker")
        engine = FakeEngine(scheduler, [worker])
        connected = await status(side)
        assert connected["incarnation"]
        assert connected == {
            **always,
            **UNKNOWN,
            "incarnation": connected["incarnation"],
            "engine_connected": True,
            "fingerprint": FINGERPRINT,
            "fingerprint_fields": {"model": "fake"},
            "role": "both",
        }
        scheduler.send(facts(error="why not"))
        shown = await told(side)
        assert shown == {
            **connected,
            "block_tokens": 32,
            "max_model_tokens": 8192,
            "served_models": ["chat", "chat-latest"],
            "model_files_error": "why not",
        }
        engine_tells = await (await client.get(url(side, "/v1/engine"))).json()
        assert isinstance(engine_tells.pop("links_epoch"), str)
        assert engine_tells == shown
        await engine.close()
        await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        assert await status(side) == {**always, **UNKNOWN}
        assert await side.get("/healthz") == (200, "ok\n")


def test_fields_of_a_fingerprint_are_told_short_and_still_differ() -> None:
    long, longer = "x" * MAX_FIELD_LENGTH, "x" * (MAX_FIELD_LENGTH - 1) + "y"
    told = fields_told({"dtype": "bfloat16", "config": long})
    assert told["dtype"] == "bfloat16"
    assert told["config"].startswith("sha256:")
    assert told["config"] != fields_told({"config": longer})["config"]
    many = fields_told({f"{number}{'n' * (MAX_FIELD_LENGTH - 9)}": long for number in range(MAX_FIELDS)})
    # Readers take 256 KiB, for all that is told.
    assert len(json.dumps(many)) < 32 << 10


async def test_a_gateway_gets_the_files_that_the_engine_told_of(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(tmp_path, authority.leaf(PRODUCER), gateways=[GATEWAY]) as side,
        gateway(tmp_path, authority) as client,
    ):
        engine = await side.engine()
        # As large as it may be: the process must not hold it.
        content = bytes(range(256)) * (MAX_BYTES // 256)
        large = await asyncio.to_thread(lay, side, "tokenizer.json", content)
        small = await asyncio.to_thread(lay, side, "chat_template.jinja", b"")
        await asyncio.to_thread(lay, side, "special_tokens_map.json", b"{}")
        engine.scheduler.send(facts(large, small))
        shown = (await told(side))["model_files"]
        assert shown == [
            {"name": "tokenizer.json", "bytes": MAX_BYTES, "sha256": large.sha256},
            {"name": "chat_template.jinja", "bytes": 0, "sha256": small.sha256},
        ]
        for file in (large, small):
            answer = await client.get(url(side, f"/v1/model-files/{file.name}"))
            body = await answer.read()
            assert (answer.status, len(body)) == (200, file.size_bytes)
            assert hashlib.sha256(body).hexdigest() == file.sha256
        for name in ("special_tokens_map.json", "tls.key", "..%2Fsidecar.yaml"):
            answer = await client.get(url(side, f"/v1/model-files/{name}"))
            assert answer.status == 404, name
        assert await asyncio.to_thread(side.private_mib) < 80
        await engine.close()
        await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        assert (await client.get(url(side, "/v1/model-files/tokenizer.json"))).status == 404
        await asyncio.to_thread(remove, side)


@pytest.mark.parametrize("change", ["longer", "gone", "link", "pipe", "folder"])
async def test_a_file_that_is_not_what_was_told_is_not_sent(
    tmp_path: Path, authority: Authority, change: str
) -> None:
    import os

    def spoil(path: Path) -> None:
        if change == "longer":
            path.write_bytes(b"{}  ")
            return
        path.unlink()
        if change == "link":
            secret = path.parent / "secret"
            secret.write_bytes(b"{}")
            path.symlink_to(secret)
        elif change == "pipe":
            os.mkfifo(path)
        elif change == "folder":
            path.symlink_to(path.parent, target_is_directory=True)

    async with (
        sidecar(tmp_path, authority.leaf(PRODUCER), gateways=[GATEWAY]) as side,
        gateway(tmp_path, authority) as client,
    ):
        engine = await side.engine()
        file = await asyncio.to_thread(lay, side, "tokenizer.json", b"{}")
        engine.scheduler.send(facts(file))
        await told(side)
        await asyncio.to_thread(spoil, folder_beside(side.socket) / "tokenizer.json")
        answer = await client.get(url(side, "/v1/model-files/tokenizer.json"))
        assert answer.status == 503
        assert (await answer.json())["error"]["retryable"] is True
        await engine.close()
        await asyncio.to_thread(remove, side)


async def test_facts_that_cannot_be_passed_on_end_the_connection(
    tmp_path: Path, authority: Authority
) -> None:
    file = ModelFile("tokenizer.json", 1, "0" * 64)
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as side:
        for wrong in (
            Facts(1, 1, ("x" * 5000,), (), ""),
            Facts(1, 1, ("x",) * 1000, (), ""),
            Facts(1, 1, (), (file, file), ""),
        ):
            engine = await side.engine()
            engine.scheduler.send(wrong)
            await eventually_async(engine.scheduler.closed.is_set)
            await engine.close()
            await side.until("prfaas_sidecar_engine_connections", lambda count: count == 0)
        engine = await side.engine()
        engine.workers[0].send(facts())
        await eventually_async(engine.workers[0].closed.is_set)
        await engine.close()


async def test_a_connector_of_the_first_version_works(tmp_path: Path, authority: Authority) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER)) as side:
        sides = [await Side.connect(side.socket, kind, protocol=1) for kind in ("scheduler", "worker")]
        assert (await side.get("/readyz"))[0] == 200
        shown = await status(side)
        assert (shown["fingerprint"], shown["block_tokens"]) == (FINGERPRINT, None)
        for each in sides:
            await each.close()
