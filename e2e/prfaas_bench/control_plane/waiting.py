"""Waits with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(
    ask: Callable[[], Awaitable[T]], what: str, within_seconds: float, *, pause_seconds: float = 0.1
) -> T:
    """Ask again and again until the answer is true; returns it.

    Raises:
        TimeoutError: it was not in time; the text says what was waited for.
    """
    deadline = asyncio.get_running_loop().time() + within_seconds
    while True:
        answer = await ask()
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"not within {within_seconds:.0f} s: {what}")
        await asyncio.sleep(pause_seconds)
