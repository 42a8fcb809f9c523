"""Sidecars as real processes with real certificates, for component tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from prfaas_demo.certificates import Authority, Leaf
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FakeEngine

PRODUCER = "spiffe://test/region/us/ns/default/pool/PrefillPool/long"
CONSUMER = "spiffe://test/region/eu/ns/default/pool/DecodePool/chat"
GATEWAY = "spiffe://test/region/eu/ns/default/gateway/main"
_START_SECONDS = 40.0


@dataclass
class Process:
    """A running sidecar."""

    config: dict[str, Any]
    socket: Path
    process: asyncio.subprocess.Process
    ports: dict[str, int]
    log: list[dict[str, Any]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None
    before: dict[str, float] = field(default_factory=dict)

    @property
    def peer_address(self) -> str:
        """Where consumers dial."""
        return f"127.0.0.1:{self.ports['peer']}"

    async def engine(self, **options: Any) -> FakeEngine:
        """An engine that has said hello."""
        return await FakeEngine.connect(self.socket, **options)

    async def get(self, path: str) -> tuple[int, str]:
        """A request to the health listener."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ports['health']}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that carry these labels; counters count from `begin`."""
        total = 0.0
        for sample, value in (await self._samples()).items():
            base = sample.partition("{")[0]
            if base == name and all(f'{key}="{wanted}"' in sample for key, wanted in labels.items()):
                total += value - (self.before.get(sample, 0.0) if base.endswith("_total") else 0.0)
        return total

    async def begin(self) -> None:
        """A new test of a process that has run others: forget what they counted and logged."""
        self.log.clear()
        self.before = await self._samples()

    async def _samples(self) -> dict[str, float]:
        _, text = await self.get("/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {sample: float(value) for sample, _, value in lines}

    async def until(self, name: str, holds: Callable[[float], bool], **labels: str) -> float:
        """Poll a metric until it has a value, within a bound."""

        async def reached() -> list[float]:
            value = await self.metric(name, **labels)
            return [value] if holds(value) else []

        found: list[float] = await eventually_async(reached, within_seconds=15, what=f"{name} {labels}")
        return found[0]

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            code = await self.process.wait()
        if self.reader is not None:
            await self.reader
        return code

    def private_mib(self) -> float:
        """Memory of the process without the arena."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024

    def said(self, message: str) -> list[dict[str, Any]]:
        """Log lines with a message."""
        return [line for line in self.log if line["message"] == message]


@contextlib.asynccontextmanager
async def sidecar(
    folder: Path,
    leaf: Leaf | None,
    *,
    accept: list[str] | None = None,
    dial: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> AsyncIterator[Process]:
    """Start a sidecar on free ports of the loopback and stop it afterwards."""
    # Unix socket paths are short, pytest's folders are not.
    socket_path = Path(f"{tempfile.gettempdir()}/prfaas-test-{os.getpid()}-{secrets.token_hex(4)}.sock")
    config: dict[str, Any] = {
        "engine": {"socket": str(socket_path)},
        "arena_bytes": "16MiB",
        "listen": {"peer": "127.0.0.1:0", "control": "127.0.0.1:0", "health": "127.0.0.1:0"},
        "peers": {"accept": accept or [], "dial": dial or []},
        "drain_seconds": 5,
    }
    if leaf is not None:
        files = await asyncio.to_thread(leaf.write, folder, "tls")
        config["tls"] = {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)}
    for name, value in settings.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = {**config[name], **value} if isinstance(config.get(name), dict) else value
    path = await asyncio.to_thread(_write, folder, yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "prfaas_sidecar",
        "--config",
        str(path),
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(config, socket_path, process, {})
    started = asyncio.Event()
    running.reader = asyncio.create_task(_read_log(running, started))
    try:
        async with asyncio.timeout(_START_SECONDS):
            await started.wait()
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await running.reader
        await asyncio.to_thread(socket_path.unlink, missing_ok=True)
        # pytest shows it when the test fails.
        for line in running.log:
            print(folder.name, json.dumps(line).replace("\\n", "\n"))


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sidecar.yaml"
    path.write_text(text)
    return path


async def _read_log(running: Process, started: asyncio.Event) -> None:
    assert running.process.stderr is not None
    while raw := await running.process.stderr.readline():
        try:
            line = json.loads(raw)
        except ValueError:
            line = {"message": raw.decode(errors="replace").rstrip(), "level": "plain"}
        running.log.append(line)
        if line["message"] == "sidecar started":
            running.ports = line["ports"]
            started.set()
    started.set()


@dataclass
class Pair:
    """A producer's and a consumer's sidecar, each with an engine."""

    producer: Process
    consumer: Process
    prefill: FakeEngine
    decode: FakeEngine
    authority: Authority


@contextlib.asynccontextmanager
async def processes(
    folder: Path, authority: Authority, **settings: Any
) -> AsyncIterator[tuple[Process, Process]]:
    """A producer's and a consumer's sidecar that may talk to one another. ``settings`` go to both;
    ``producer`` and
    ``consumer`` to one."""
    only_producer, only_consumer = settings.pop("producer", {}), settings.pop("consumer", {})
    for_producer, for_consumer = {**settings, **only_producer}, {**settings, **only_consumer}
    rule = {"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}
    async with (
        sidecar(
            folder / "p", authority.leaf(PRODUCER), accept=[CONSUMER], gateways=[GATEWAY], **for_producer
        ) as p,
        sidecar(folder / "c", authority.leaf(CONSUMER), dial=[rule], gateways=[GATEWAY], **for_consumer) as c,
    ):
        yield p, c


@contextlib.asynccontextmanager
async def engines(producer: Process, consumer: Process, authority: Authority) -> AsyncIterator[Pair]:
    """An engine at each of two sidecars."""
    prefill, decode = await producer.engine(), await consumer.engine()
    try:
        yield Pair(producer, consumer, prefill, decode, authority)
    finally:
        await decode.close()
        await prefill.close()


@contextlib.asynccontextmanager
async def pair(folder: Path, authority: Authority, **settings: Any) -> AsyncIterator[Pair]:
    """Two new sidecars with engines."""
    async with (
        processes(folder, authority, **settings) as (producer, consumer),
        engines(producer, consumer, authority) as running,
    ):
        yield running


def transfer_id() -> str:
    """A new one."""
    return secrets.token_hex(16)


async def install(side: Process, leaf: Leaf, trusted: bytes) -> None:
    """Another leaf and ``ca.crt`` on disk, as the kubelet brings them; waits until they are in force."""
    before = len(side.said("TLS credentials were read again"))

    def write() -> None:
        files = side.config["tls"]
        for name, content in (
            ("ca", trusted),
            ("key", leaf.key_pem),
            ("certificate", leaf.certificate_pem),
        ):
            fresh = Path(files[name] + ".new")
            fresh.write_bytes(content)
            fresh.replace(files[name])

    await asyncio.to_thread(write)
    # The last of the three files may have come after the first look.
    await eventually_async(
        lambda: len(side.said("TLS credentials were read again")) > before, within_seconds=20
    )
