"""A server that all jobs inside share equally: a link among transfers, a decode pool among its batch slots.

One event per completion whatever the number of jobs: a virtual clock runs at the pace that every job has, and
a job ends when the clock reaches the value that was fixed when it came.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

import simpy

Job = TypeVar("Job", bound=Hashable)

_RELATIVE_SLACK = 1e-12
_SLACK_SECONDS = 1e-9
"""What is left of a job that would take less time than this is rounding."""


class SharedServer(Generic[Job]):
    """Processor sharing with a pace that may depend on how many jobs are inside.

    Args:
        pace: work per second and job for a number of jobs of at least one; 0 while the server stands still.
        done: is called with each job that ends, when it is out already.
    """

    __slots__ = (
        "_done",
        "_env",
        "_finishes",
        "_heap",
        "_numbers",
        "_occupied",
        "_pace",
        "_pace_now",
        "_since",
        "_virtual",
        "_wake",
        "_wake_at",
        "work_done",
    )

    def __init__(
        self, env: simpy.Environment, pace: Callable[[int], float], done: Callable[[Job], None]
    ) -> None:
        self._env = env
        self._pace = pace
        self._done = done
        self._finishes: dict[Job, float] = {}
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self._virtual = 0.0
        self._since = env.now
        self._pace_now = 0.0
        self._wake: simpy.Event | None = None
        self._wake_at = float("inf")
        self.work_done = 0.0
        self._occupied = 0.0

    def __len__(self) -> int:
        return len(self._finishes)

    def __contains__(self, job: Job) -> bool:
        return job in self._finishes

    @property
    def pace_now(self) -> float:
        """Work per second and job at this moment; 0 when nobody is inside."""
        return self._pace_now

    def add(self, job: Job, work: float) -> None:
        """Let a job in with its amount of work, which is done at the common pace."""
        self._advance()
        finish = self._virtual + work
        self._finishes[job] = finish
        heappush(self._heap, (finish, next(self._numbers), job))
        self._changed()

    def remove(self, job: Job) -> float:
        """Take a job out before its end, and return the work that is left. KeyError if it is not inside."""
        self._advance()
        finish = self._finishes.pop(job)
        left = max(0.0, finish - self._virtual)
        self._changed()
        return left

    def left(self, job: Job) -> float:
        """The work that a job inside has left."""
        self._advance()
        return max(0.0, self._finishes[job] - self._virtual)

    def jobs(self) -> list[Job]:
        """Everyone inside, in the order in which they came."""
        return list(self._finishes)

    def pace_changed(self) -> None:
        """To be called after whatever the pace depends on has changed."""
        self._advance()
        self._changed()

    def settle(self) -> float:
        """All work done up to now, of all jobs."""
        self._advance()
        return self.work_done

    def occupied_seconds(self) -> float:
        """Job-seconds spent inside up to now."""
        self._advance()
        return self._occupied

    def _advance(self) -> None:
        now = self._env.now
        passed = now - self._since
        if passed > 0:
            step = passed * self._pace_now
            self._virtual += step
            inside = len(self._finishes)
            self.work_done += step * inside
            self._occupied += passed * inside
            self._since = now

    def _changed(self) -> None:
        inside = len(self._finishes)
        if not inside:
            self._heap.clear()
            self._virtual = 0.0
            self._pace_now = 0.0
            self._wake = None
            self._wake_at = float("inf")
            return
        self._pace_now = pace = self._pace(inside)
        heap, finishes = self._heap, self._finishes
        while finishes.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        if pace <= 0:
            self._wake = None
            self._wake_at = float("inf")
            return
        at = self._since + max(0.0, heap[0][0] - self._virtual) / pace
        # An earlier call finds nothing due and asks again: cheaper than a new event for every arrival.
        if at < self._wake_at:
            self._wake_at = at
            self._wake = event = self._env.timeout(max(0.0, at - self._env.now))
            event.callbacks.append(self._woken)

    def _woken(self, event: simpy.Event) -> None:
        if event is not self._wake:
            return
        self._wake = None
        self._wake_at = float("inf")
        self._advance()
        heap, finishes, ended = self._heap, self._finishes, []
        slack = _SLACK_SECONDS * self._pace_now
        while heap:
            finish, _, job = heap[0]
            if finishes.get(job) != finish:
                heappop(heap)
                continue
            if finish - self._virtual > slack + _RELATIVE_SLACK * finish:
                break
            heappop(heap)
            del finishes[job]
            ended.append(job)
        self._changed()
        for job in ended:
            self._done(job)
