"""Reading with a bound: no peer decides how much memory the gateway uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp


class TooMuchError(ValueError):
    """A body is larger than what there is room for."""


class Budget:
    """Bytes that all requests together may hold in buffers."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0

    @contextmanager
    def account(self) -> Iterator[Account]:
        """An account whose bytes return to the budget at the end."""
        account = Account(self)
        try:
            yield account
        finally:
            account.release()


class Account:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Take bytes.

        Raises:
            TooMuchError: all requests together hold too much.
        """
        if self._budget.used_bytes + size_bytes > self._budget.total_bytes:
            raise TooMuchError("all requests together buffer too much")
        self._budget.used_bytes += size_bytes
        self._held_bytes += size_bytes

    def release(self) -> None:
        """Give everything back."""
        self._budget.used_bytes -= self._held_bytes
        self._held_bytes = 0


async def read_all(content: aiohttp.StreamReader, limit_bytes: int, account: Account | None = None) -> bytes:
    """The whole of a body.

    Raises:
        TooMuchError: more than ``limit_bytes``, or no room in the account's budget.
    """
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := await content.readany():
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            raise TooMuchError(f"over {limit_bytes} bytes")
        if account is not None:
            account.take(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def next_piece(content: aiohttp.StreamReader, idle_seconds: float) -> bytes:
    """The next bytes as they come; empty at the end.

    Raises:
        TimeoutError: nothing came for ``idle_seconds``.
    """
    async with asyncio.timeout(idle_seconds):
        return await content.readany()
