"""What a process uses: processor time and memory, as the kernel counts them."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SHARE = 0.10
QUIET_WINDOW_SECONDS = 1.0
QUIET_WINDOWS = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB: the proportional share of what is resident now, and the most that was ever resident."""

    pss_mib: float
    peak_rss_mib: float


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads so far."""
    return parse_cpu_seconds(Path(f"/proc/{pid}/stat").read_text(), _TICKS)


def parse_cpu_seconds(stat: str, ticks_per_second: int) -> float:
    """User and system time in a text of /proc/PID/stat; a program's name may hold blanks and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_second


def memory(pid: int) -> Memory:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    status = Path(f"/proc/{pid}/status").read_text()
    return Memory(parse_kib(rollup, "Pss") / 1024, parse_kib(status, "VmHWM") / 1024)


def parse_kib(text: str, name: str) -> int:
    """The value of a line such as `Pss:  123 kB`.

    Raises:
        ValueError: there is none.
    """
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"no line {name}")


async def share_of_core(pid: int, seconds: float) -> float:
    """Which part of one core it uses, over so long; 0.02 are 2 %."""
    began, before = time.monotonic(), cpu_seconds(pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


async def until_quiet(pid: int, within_seconds: float) -> float:
    """Wait until it does next to nothing; the time (`time.time`) since when.

    Raises:
        TimeoutError: it did not come to rest.
    """
    deadline = time.monotonic() + within_seconds
    quiet_windows, since = 0, time.time()
    while quiet_windows < QUIET_WINDOWS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} was not at rest within {within_seconds:.0f} s")
        began = time.time()
        if await share_of_core(pid, QUIET_WINDOW_SECONDS) > QUIET_SHARE:
            quiet_windows = 0
            continue
        if quiet_windows == 0:
            since = began
        quiet_windows += 1
    return since
