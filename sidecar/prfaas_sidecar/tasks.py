"""Background tasks with somebody who notices when one dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from prfaas_sidecar.logs import fields

_log = logging.getLogger(__name__)


class Tasks:
    """Keeps tasks alive and reports one that failed; `close` ends them all."""

    def __init__(self, crashed: Callable[[str, BaseException], None]) -> None:
        """``crashed`` is told which essential task failed, and how."""
        self._crashed = crashed
        self._tasks: dict[asyncio.Task[None], bool] = {}

    def spawn(
        self, work: Coroutine[Any, Any, None], name: str, *, essential: bool = True
    ) -> asyncio.Task[None]:
        """Run in the background. What serves one connection only is not essential: its failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = essential
        task.add_done_callback(self._finished)
        return task

    async def close(self) -> None:
        """Cancel what runs and wait until it is gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        essential = self._tasks.pop(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if essential:
            self._crashed(task.get_name(), error)
        else:
            _log.error("a connection's task failed", extra=fields(task=task.get_name()), exc_info=error)
