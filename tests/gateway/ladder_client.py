"""One request of a client, running, and waits that end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from tests.gateway.world import LONG, World
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
