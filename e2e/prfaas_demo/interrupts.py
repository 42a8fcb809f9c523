"""Ctrl-C and its relatives: the first one stops the demo, later ones cannot disturb the clearing up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(BaseException):
    """Raised where the demo was when the signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first signal to stop raises, and further ones are ignored."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop(number: int, _: FrameType | None) -> None:
        ignore_signals()
        raise Interruption(number)

    try:
        for number in STOP_SIGNALS:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Whoever is clearing up wants to finish."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_interruptible(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, whose first signal cancels `main` in an orderly way."""
    came: list[int] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(main)

        def stop(number: int) -> None:
            if not came:
                came.append(number)
                task.cancel()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop, number)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if came:
            raise Interruption(came[0]) from None
        raise
    finally:
        # The loop has put the default handlers back.
        ignore_signals()
