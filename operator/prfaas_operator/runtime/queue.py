"""Which key is reconciled next: each at most once at a time, no duplicates, failures later and later.

`QueueCore` is values and no clock; `WorkQueue` runs it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from prfaas.kube.retry import backoff_seconds

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class QueueCore(Generic[K]):
    """Keys that are ready, that wait, and that are being worked on. Times are monotonic seconds.

    Args:
        urgent: a key that is taken before all others that are ready.
    """

    def __init__(
        self,
        *,
        first_retry_seconds: float = 0.5,
        longest_retry_seconds: float = 120.0,
        urgent: K | None = None,
    ) -> None:
        self._urgent = urgent
        self._first_retry_seconds = first_retry_seconds
        self._longest_retry_seconds = longest_retry_seconds
        self._ready: dict[K, float] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._running: dict[K, float] = {}
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._sequence = 0

    def add(self, key: K, now: float) -> None:
        """It is to be looked at now, or as soon as the pass that runs has ended."""
        if key in self._running:
            self._again.setdefault(key, now)
        elif key not in self._ready:
            self._due.pop(key, None)
            self._ready[key] = now

    def add_later(self, key: K, now: float, seconds: float) -> None:
        """It is to be looked at then; the earliest such wish counts."""
        due = now + seconds
        if key in self._ready or key in self._again or self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))

    def pop(self, now: float) -> K | None:
        """The key to work on now; the caller says `done` or `failed` later."""
        self._move_due(now)
        first = self._urgent if self._urgent in self._ready else next(iter(self._ready), None)
        if first is not None:
            del self._ready[first]
            self._running[first] = now
        return first

    def done(self, key: K, now: float, requeue_after_seconds: float | None = None) -> None:
        """The pass succeeded."""
        self._failures.pop(key, None)
        self._end(key)
        if requeue_after_seconds is not None:
            self.add_later(key, now, requeue_after_seconds)

    def failed(self, key: K, now: float, chance: float, at_least_seconds: float = 0.0) -> float:
        """The pass failed: it comes again after a pause that doubles each time. Returns the pause."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        pause_seconds = max(
            at_least_seconds,
            backoff_seconds(
                failures,
                chance,
                first_seconds=self._first_retry_seconds,
                longest_seconds=self._longest_retry_seconds,
            ),
        )
        self._end(key)
        self.add_later(key, now, pause_seconds)
        return pause_seconds

    def forget(self, key: K) -> None:
        """The object is gone: a key that only waits for its time is dropped, with its failures."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def forget_ready(self) -> None:
        """Drop the keys that are ready, which the caller adds again in an order of its own."""
        self._ready.clear()

    def next_due_seconds(self, now: float) -> float | None:
        """How long until a key is ready: 0 when one is, None when none waits."""
        if self._ready:
            return 0.0
        self._drop_stale()
        return max(0.0, self._heap[0][0] - now) if self._heap else None

    def oldest_seconds(self, now: float) -> float:
        """How long the key has waited that is ready or being worked on for longest; 0 when there is none."""
        since = min((*self._ready.values(), *self._running.values()), default=now)
        return max(0.0, now - since)

    @property
    def depth(self) -> int:
        """Keys that are ready."""
        return len(self._ready)

    def _end(self, key: K) -> None:
        self._running.pop(key, None)
        since = self._again.pop(key, None)
        if since is not None:
            self._due.pop(key, None)
            self._ready[key] = since

    def _move_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) != due:
                continue
            del self._due[key]
            if key in self._running:
                self._again.setdefault(key, due)
            else:
                self._ready.setdefault(key, due)

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)


class RetryLater(Exception):  # noqa: N818 - no error: a pass asks to come again
    """A pass asks to come again after a growing pause, at least so long."""

    def __init__(self, why: str, at_least_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.at_least_seconds = at_least_seconds


class WorkQueue(Generic[K]):
    """Runs a handler for each key that was added.

    Args:
        handle: one pass; returns when to look again, or None. `RetryLater` is a failure that was already told
        of;
            any other error is a defect, logged with its trace.
        workers: passes at the same time, of different keys.
        pass_seconds: after which a pass is cancelled.
        on_pass: told of every pass: key, seconds, `ok`, `retry` or `error`.
    """

    def __init__(
        self,
        core: QueueCore[K],
        handle: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
        pass_seconds: float,
        on_pass: Callable[[K, float, str], None],
    ) -> None:
        self.core = core
        self._handle = handle
        self._workers = workers
        self._pass_seconds = pass_seconds
        self._on_pass = on_pass
        self._wakers: set[asyncio.Event] = set()

    def add(self, key: K) -> None:
        self.core.add(key, asyncio.get_running_loop().time())
        self._wake()

    def add_later(self, key: K, seconds: float) -> None:
        self.core.add_later(key, asyncio.get_running_loop().time(), seconds)
        self._wake()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"queue worker {number}")

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while True:
                waker.clear()
                key = self.core.pop(loop.time())
                if key is not None:
                    await self._pass(key)
                    continue
                wait_seconds = self.core.next_due_seconds(loop.time())
                try:
                    async with asyncio.timeout(wait_seconds):
                        await waker.wait()
                except TimeoutError:
                    continue
        finally:
            self._wakers.discard(waker)

    async def _pass(self, key: K) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = "ok"
        chance = random.random()  # noqa: S311 - spreads retries, guards nothing
        try:
            async with asyncio.timeout(self._pass_seconds):
                requeue_after_seconds = await self._handle(key)
        except RetryLater as error:
            result = "retry"
            pause_seconds = self.core.failed(key, loop.time(), chance, error.at_least_seconds)
            logger.info("%s: %s; again in %.1f s", key, error, pause_seconds)
        except TimeoutError:
            result = "error"
            self.core.failed(key, loop.time(), chance)
            logger.error("%s: the pass was given up after %.0f s", key, self._pass_seconds)  # noqa: TRY400
        except Exception:
            # A defect in one object's handling must not stop the work on all others.
            result = "error"
            self.core.failed(key, loop.time(), chance)
            logger.exception("%s: the pass failed by a defect of the operator", key)
        else:
            self.core.done(key, loop.time(), requeue_after_seconds)
        finally:
            self._on_pass(key, loop.time() - began, result)
            self._wake()
