"""Owner of work that outlives the request that started it: cancelling transfers, closing the books.

Bounded in number and, because every job has its own deadlines, in time. A job that fails is counted and
logged; it has nobody to tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs background jobs and waits for them at the end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: set[asyncio.Task[Any]] = set()
        self.dropped = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Coroutine[Any, Any, Any], name: str) -> None:
        """Run ``job``; at the limit it is dropped and counted: what it would free also ends by lease."""
        if len(self._jobs) >= self._limit:
            self.dropped += 1
            job.close()
            return
        task = asyncio.create_task(job, name=name)
        self._jobs.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._jobs.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failed += 1
            _log.error("a background job failed", exc_info=error, extra={"job": task.get_name()})

    async def close(self, grace_seconds: float) -> None:
        """Wait for the jobs that run, then end those that are left."""
        jobs = set(self._jobs)
        if not jobs:
            return
        _, late = await asyncio.wait(jobs, timeout=grace_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=grace_seconds)
