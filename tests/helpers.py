"""What tests of all parts share."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.02


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Prefer port 0 where the server can say which one it got."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], T], *, within_seconds: float = 10.0, what: str = "") -> T:
    """Poll until `condition` returns something true, and return that.

    Raises:
        AssertionError: it stayed false for `within_seconds`.
    """
    deadline_seconds = time.monotonic() + within_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline_seconds:
            raise AssertionError(
                f"still not after {within_seconds} s: {what or inspect.getsource(condition).strip()}"
            )
        time.sleep(POLL_SECONDS)


async def eventually_async(
    condition: Callable[[], T | Awaitable[T]], *, within_seconds: float = 10.0, what: str = ""
) -> T:
    """`eventually` for a running event loop; `condition` may be a coroutine function.

    Raises:
        AssertionError: it stayed false for `within_seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline_seconds = loop.time() + within_seconds
    while True:
        answer = condition()
        result: T = await answer if isinstance(answer, Awaitable) else answer
        if result:
            return result
        if loop.time() > deadline_seconds:
            raise AssertionError(f"still not after {within_seconds} s: {what or condition}")
        await asyncio.sleep(POLL_SECONDS)


def children(of_pid: int | None = None) -> dict[int, str]:
    """Living child processes (no zombies) of a process, by default this one: process id to command line."""
    parent = of_pid or os.getpid()
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The second field, the command, is in parentheses and may hold spaces.
            state, its_parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = command.strip() or folder.name
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def kill(pid: int) -> None:
    """Send SIGKILL; a process that is gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
