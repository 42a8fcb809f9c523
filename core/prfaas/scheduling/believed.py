"""What a queue is believed to be between two reports of it.

A report is old as soon as it is read, and whoever decides by it alone sends everyone to where nobody was
when it was made, until the next one says otherwise. But two things are known without any report: what one has
sent oneself since, and that time has passed, in which the instances went on working. A belief keeps until
when each instance will be busy: a report sets it, an own request moves the instance that is free first, and
time does the rest. What others send meanwhile is expected to go on as between the last two reports.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heapreplace

from prfaas.capacity.errors import require_not_negative

SENDS_KEPT = 10_000
"""Own requests that are remembered for a report that was made before them; the oldest are forgotten first."""
FOREIGN_PIECE_SECONDS = 1.0
"""What others are expected to send is added in pieces of this size."""


class BelievedQueue:
    """The line of a pool of instances, as one sender believes it to be, by the caller's clock.

    Before the first report nothing waits, on one instance.
    """

    __slots__ = ("_at", "_foreign", "_foreign_due", "_free_at", "_measured_at", "_sends", "_work_before")

    def __init__(self) -> None:
        self._free_at: list[float] = [-math.inf]
        self._sends: deque[tuple[float, float]] = deque(maxlen=SENDS_KEPT)
        self._measured_at = -math.inf
        self._work_before: float | None = None
        self._foreign = 0.0
        self._foreign_due = 0.0
        self._at = -math.inf

    def told(
        self, measured_at: float, busy_seconds: Sequence[float], submitted_seconds: float | None = None
    ) -> None:
        """A report. Own requests that were sent after it was made are added to it; an older one is ignored.

        Args:
            busy_seconds: for how long each ready instance had work then, what waits spread over them; empty
                when none is ready.
            submitted_seconds: work that the pool has ever been given, by everybody; None where nobody counts.
        """
        if measured_at < self._measured_at:
            return
        passed = measured_at - self._measured_at
        if submitted_seconds is not None and self._work_before is not None and passed > 0:
            own = sum(seconds for at, seconds in self._sends if self._measured_at < at <= measured_at)
            self._foreign = max(0.0, submitted_seconds - self._work_before - own) / passed
        self._work_before = submitted_seconds
        self._measured_at = self._at = measured_at
        self._foreign_due = 0.0
        self._free_at = [measured_at + each for each in busy_seconds]
        heapify(self._free_at)
        while self._sends and self._sends[0][0] <= measured_at:
            self._sends.popleft()
        for at, seconds in self._sends:
            self._others_until(at)
            self._add(at, seconds)

    def sent(self, now: float, service_seconds: float) -> None:
        """One has sent a request that keeps an instance busy for so long."""
        require_not_negative("service_seconds", service_seconds)
        self._others_until(now)
        self._sends.append((now, service_seconds))
        self._add(now, service_seconds)

    def wait_seconds(self, now: float) -> float:
        """How long a request that is sent now would wait; infinite when no instance is ready."""
        self._others_until(now)
        return max(0.0, self._free_at[0] - now) if self._free_at else math.inf

    def _others_until(self, now: float) -> None:
        if self._foreign <= 0 or now <= self._at:
            return
        self._foreign_due += self._foreign * (now - self._at)
        self._at = now
        while self._foreign_due >= FOREIGN_PIECE_SECONDS:
            self._foreign_due -= FOREIGN_PIECE_SECONDS
            self._add(now, FOREIGN_PIECE_SECONDS)

    def _add(self, now: float, seconds: float) -> None:
        if self._free_at:
            heapreplace(self._free_at, max(self._free_at[0], now) + seconds)
