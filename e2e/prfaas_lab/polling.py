"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], *, within_seconds: float, what: str) -> T:
    """Poll until ``condition`` returns something true, and return that.

    Raises:
        TimeoutError: it stayed false; ``what`` says what was awaited.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_seconds} s: {what}")
        time.sleep(POLL_SECONDS)
