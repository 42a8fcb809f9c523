"""Finds and ends the processes that live in a host, however they got there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_POLL_SECONDS = 0.02


def process_ids() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def namespace_of(pid: int) -> int | None:
    """The inode of a process's network namespace; None when it has ended or may not be looked at."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


def age_seconds(pid: int) -> float:
    """How long ago a process started; 0 when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The process's name comes second, in parentheses, and may contain anything.
    started_ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def processes_in(namespaces: Collection[int]) -> list[int]:
    own = os.getpid()
    return [pid for pid in process_ids() if pid != own and namespace_of(pid) in namespaces]


def end_processes_in(namespaces: Collection[int], grace_seconds: float, kill_seconds: float = 5.0) -> bool:
    """SIGTERM, then SIGKILL after the grace, until none is left. False when some survive even that."""
    if _signal_until_gone(namespaces, signal.SIGTERM, grace_seconds):
        return True
    return _signal_until_gone(namespaces, signal.SIGKILL, kill_seconds)


def _signal_until_gone(namespaces: Collection[int], number: signal.Signals, limit_seconds: float) -> bool:
    told: set[int] = set()
    deadline = time.monotonic() + limit_seconds
    while found := processes_in(namespaces):
        if time.monotonic() >= deadline:
            return False
        for pid in found:
            # A process may fork before it dies, so whoever is new is told too; nobody is told to stop twice.
            if pid not in told or number == signal.SIGKILL:
                send(pid, number)
                told.add(pid)
        time.sleep(_POLL_SECONDS)
    return True


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
