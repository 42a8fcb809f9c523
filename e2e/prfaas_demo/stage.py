"""Brings everything up: regions, sidecars, engines, gateway. All of it ends with the block."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prfaas_demo import cpu_shares, engines, layout
from prfaas_demo.children import Child, Children, last_lines
from prfaas_demo.errors import DemoError
from prfaas_demo.observer import Observer
from prfaas_demo.progress import Step, Teller
from prfaas_demo.regions import Region, Regions

T = TypeVar("T")

ENGINE_START_SECONDS = 300.0
PART_START_SECONDS = 30.0
HEALTHY_AGAIN_SECONDS = 60.0
LOG_CHARACTERS = 60
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Software:
    """What is run.

    Attributes:
        engine_python: of the engine's environment; its `vllm` lies beside it.
        engine_variables: by role, what an engine needs in its environment.
        model: folder of the model.
    """

    engine_python: Path
    engine_variables: dict[str, dict[str, str]]
    model: Path


@dataclass(frozen=True)
class EnginePair:
    """Options of the two engines."""

    prefill: engines.EngineOptions
    decode: engines.EngineOptions


@dataclass(eq=False)
class Stage:
    """Everything that runs, and what it takes to run more."""

    folder: Path
    regions: Regions
    children: Children
    observer: Observer
    shares: cpu_shares.CpuShares
    software: Software
    credentials: layout.Credentials
    producer_sidecar: Child | None = None

    async def start_all(self, pair: EnginePair, teller: Teller) -> None:
        """Sidecars first, then both engines at once, then the gateway.

        Raises:
            DemoError: a part did not come up.
        """
        east, west = self.regions.east, self.regions.west
        producer, consumer = layout.write_sidecars(self.folder, self.credentials, east, west)
        with teller.step("sidecars: one per region, mutual TLS between them"):
            self.producer_sidecar = await self._start_sidecar(east, producer)
            consumer_sidecar = await self._start_sidecar(west, consumer)
            await self._until_listening(self.producer_sidecar, east)
            await self._until_listening(consumer_sidecar, west)
        _, decoder = await both(
            self._start_engine(east, producer, pair.prefill, teller),
            self._start_engine(west, consumer, pair.decode, teller),
        )
        self.shares.divide(decoder.pid)
        with teller.step("gateway: an OpenAI API in the west"):
            await self.start_gateway(remote=True)
            await self.east_is_healthy()

    async def start_gateway(self, *, remote: bool) -> Child:
        """The gateway, or with `remote` false the one to compare with."""
        west, ports = self.regions.west, self.regions.west.ports
        config = layout.write_gateway(
            self.folder,
            self.credentials.gateway,
            self.regions.east,
            west,
            self.software.model,
            remote=remote,
        )
        name = "gateway" if remote else "gateway-local"
        child = await self.children.start(
            west, name, name, [sys.executable, "-m", "prfaas_gateway", "--config", config]
        )
        port = ports.gateway_health if remote else ports.local_gateway_health
        ready = west.shell_url(port) + "/readyz"
        await wait_until(lambda: self.observer.answers(ready), child, PART_START_SECONDS)
        return child

    async def east_is_healthy(self) -> None:
        """Until the gateway would send a long prompt to the east.

        Raises:
            DemoError: it does not within `HEALTHY_AGAIN_SECONDS`.
        """
        url = self.regions.west.shell_url(self.regions.west.ports.gateway_health)

        async def seen() -> bool:
            healthy = [
                await self.observer.metric(
                    url, "prfaas_gateway_engine_healthy", {"engine": name, "part": "sidecar"}
                )
                for name in ("east", "west")
            ]
            agrees = await self.observer.metric(url, "prfaas_gateway_tokenizer_agrees", {})
            return healthy == [1.0, 1.0] and agrees == 1.0

        await wait_until(
            seen, None, HEALTHY_AGAIN_SECONDS, "the gateway does not find both sidecars in good health"
        )

    async def _start_sidecar(self, region: Region, sidecar: layout.Sidecar) -> Child:
        return await self.children.start(
            region,
            f"sidecar-{region.name}",
            f"the sidecar of {region.name}",
            [sys.executable, "-m", "prfaas_sidecar", "--config", sidecar.config],
        )

    async def _until_listening(self, child: Child, region: Region) -> None:
        url = region.shell_url(region.ports.health) + "/healthz"
        await wait_until(lambda: self.observer.answers(url), child, PART_START_SECONDS)

    async def _start_engine(
        self, region: Region, sidecar: layout.Sidecar, options: engines.EngineOptions, teller: Teller
    ) -> Child:
        title = f"vLLM in the {region.name} ({options.role})"
        with teller.step(title) as step:
            child = await self.children.start(
                region,
                f"engine-{region.name}",
                title,
                engines.command(
                    options, region, self.software.model, sidecar.engine_socket, self.software.engine_python
                ),
                engines.environment(
                    self.software.engine_variables[options.role], self.folder / f"scratch-{region.name}"
                ),
            )
            self.shares.enter(options.role, child.pid)
            health = region.shell_url(region.ports.engine) + "/health"
            connected = region.shell_url(region.ports.health) + "/readyz"

            async def up() -> bool:
                await _show_log(step, child)
                return await self.observer.answers(health) and await self.observer.answers(connected)

            await wait_until(up, child, ENGINE_START_SECONDS)
            return child


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Run two at once. The first that fails cancels the other, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(other)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def _show_log(step: Step, child: Child) -> None:
    lines = await asyncio.to_thread(last_lines, child.log, 1)
    step.update(lines[0].rpartition("] ")[2].strip()[:LOG_CHARACTERS] if lines else "")


async def wait_until(
    condition: Callable[[], Awaitable[bool]], child: Child | None, within_seconds: float, what: str = ""
) -> None:
    """Poll until the condition holds.

    Raises:
        DemoError: it does not in time, or the process behind it ended.
    """
    deadline = time.monotonic() + within_seconds
    died = asyncio.create_task(child.died()) if child is not None else None
    try:
        while not await condition():
            if died is not None and died.done():
                await died
            if time.monotonic() > deadline:
                text = what or f"{child.title if child else 'it'} did not come up"
                raise DemoError(f"{text} within {within_seconds:.0f} s", child.log if child else None)
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        if died is not None:
            died.cancel()


def new_folder() -> Path:
    """The folder of one run: logs, configuration, keys and sockets. Its path is short, as sockets demand."""
    return Path(tempfile.mkdtemp(prefix=f"{cpu_shares.NAME_PREFIX}{os.getpid()}-"))
