"""Starts the demo's processes, each with a log file, and notices when one ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_demo.errors import DemoError
from prfaas_demo.janitor import MARK_VARIABLE
from prfaas_demo.regions import Region

GRACE_SECONDS = 3.0
_TAIL_BYTES = 64 << 10


@dataclass(eq=False)
class Child:
    """One process of the demo.

    Attributes:
        title: what the user knows it as.
    """

    title: str
    log: Path
    process: asyncio.subprocess.Process
    expected_to_end: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    async def died(self) -> None:
        """Returns never; raises DemoError when the process ends without having been told to."""
        status = await self.process.wait()
        if self.expected_to_end:
            await asyncio.Event().wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise DemoError(f"{self.title} {how}", self.log)

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """SIGTERM, after the grace SIGKILL."""
        self.expected_to_end = True
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Children:
    """All processes of a run.

    Args:
        logs: folder for their log files.
        mark: tells the janitor that they belong to this run.
        started: called with the id of each process; it leads a session of the same number.
    """

    def __init__(self, logs: Path, mark: str, started: Callable[[int], None]) -> None:
        self._logs = logs
        self._mark = mark
        self._started = started
        self._children: list[Child] = []

    async def start(
        self,
        region: Region,
        name: str,
        title: str,
        command: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a process in a region.

        Raises:
            DemoError: it cannot be started.
        """
        log = self._logs / f"{name}.log"
        words = region.command(command)
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **(environment or {}), MARK_VARIABLE: self._mark},
                )
            except OSError as error:
                raise DemoError(f"{title} cannot be started: {error}") from error
        self._started(process.pid)
        child = Child(title, log, process)
        self._children.append(child)
        return child

    async def stop_all(self) -> None:
        """End all of them, at once."""
        await asyncio.gather(*(child.stop() for child in self._children))

    async def any_died(self) -> None:
        """Returns never; raises DemoError when one of those started so far ends by itself."""
        tasks = [asyncio.create_task(child.died()) for child in self._children]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


def last_lines(log: Path, count: int = 25) -> list[str]:
    """The end of a log file, for a person to read; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-count:]
