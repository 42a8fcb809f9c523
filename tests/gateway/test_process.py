"""The gateway as it is run: a process with a configuration file, signals and ports."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from prfaas_bench.fake_engine import FakeEngine, Script
from tests.gateway.tokenizers_for_tests import write_model
from tests.helpers import eventually_async, free_port


def write_config(
    folder: Path, engine: FakeEngine, listen: str, health_listen: str, **timeouts: float
) -> Path:
    """A gateway for one local engine and nothing remote."""
    write_model(folder / "model")
    file = folder / "gateway.yaml"
    config = {
        "listen": listen,
        "health_listen": health_listen,
        "region": "here",
        "models": [{"name": "chat", "tokenizer": "model", "max_model_tokens": 4096, "threshold_tokens": 100}],
        "decode_engines": [{"name": "d", "url": engine.url}],
        "timeouts": timeouts,
    }
    file.write_text(yaml.safe_dump(config))
    return file


@asynccontextmanager
async def gateway(
    folder: Path, **timeouts: float
) -> AsyncIterator[tuple[asyncio.subprocess.Process, FakeEngine, str, str]]:
    """The process when it is ready, its engine, its address and that of its health port."""
    ports = free_port(), free_port()
    listen, health = (f"127.0.0.1:{port}" for port in ports)
    async with FakeEngine().run() as engine:
        write = partial(write_config, folder, engine, listen, health, **timeouts)
        file = await asyncio.to_thread(write)
        process = await start(file)
        try:
            async with aiohttp.ClientSession() as client:

                async def ready() -> bool:
                    try:
                        async with client.get(f"http://{health}/readyz") as response:
                            return response.status == 200
                    except aiohttp.ClientConnectionError:
                        return False

                await eventually_async(ready, within_seconds=30)
            yield process, engine, f"http://{listen}", f"http://{health}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def start(file: Path) -> asyncio.subprocess.Process:
    """Run it with a configuration file."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "prfaas_gateway",
        "--config",
        str(file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_termination_lets_running_requests_end(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (process, engine, url, _), aiohttp.ClientSession() as client:
        go_on = asyncio.Event()
        engine.default = Script(go_on=go_on)
        body = {"prompt": "hello", "stream": True}
        async with client.post(f"{url}/v1/completions", json=body) as response:
            await response.content.readuntil(b"\n\n")
            process.send_signal(signal.SIGTERM)

            async def refuses() -> bool:
                try:
                    async with client.get(f"{url}/v1/models"):
                        return False
                except aiohttp.ClientConnectionError:
                    return True

            await eventually_async(refuses)
            assert process.returncode is None
            go_on.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        output, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert errors == b""
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    (access,) = [line for line in lines if line["logger"] == "prfaas_gateway.access"]
    assert (access["route"], access["status"], access["model"]) == ("local", 200, "chat")
    assert [line["message"] for line in lines if line["logger"] == "prfaas_gateway.command"] == [
        "serving",
        "draining",
    ]


async def test_a_termination_is_announced_before_connections_are_refused(tmp_path: Path) -> None:
    async with (
        gateway(tmp_path, stopping_seconds=3) as (process, _, url, health),
        aiohttp.ClientSession() as client,
    ):
        process.send_signal(signal.SIGTERM)

        async def announced() -> bool:
            async with client.get(f"{health}/readyz") as response:
                return response.status == 503

        await eventually_async(announced)
        async with client.post(f"{url}/v1/completions", json={"prompt": "hello"}) as response:
            assert response.status == 200
            await response.read()
        await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0


@pytest.mark.parametrize("taken", ["listen", "health_listen"])
async def test_a_port_in_use_is_named(tmp_path: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        busy = f"127.0.0.1:{holder.getsockname()[1]}"
        addresses = {"listen": "127.0.0.1:0", "health_listen": "127.0.0.1:0", taken: busy}
        async with FakeEngine().run() as engine:
            file = await asyncio.to_thread(write_config, tmp_path, engine, **addresses)
            process = await start(file)
            _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"cannot listen" in errors
    assert busy.rsplit(":", 1)[1].encode() in errors
