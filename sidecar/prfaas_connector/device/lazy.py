"""A copier that puts every copy off as long as its contract allows, to show ordering bugs without a GPU.

A caller that publishes before the ticket is done ships bytes that are not there yet; one that forgets
`order_before_next_work` copies blocks that have been overwritten since. Used by tests and, with
``device: lazy`` in the connector's extra config, under a real engine.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from prfaas_connector.device.base import DeviceCopier, Ticket


class LazyTicket:
    """Done once the queue has been worked off up to it."""

    def __init__(self, work_off: Callable[[LazyTicket], None]) -> None:
        self._work_off = work_off
        self.carried_out = threading.Event()
        self._asked = 0

    def done(self) -> bool:
        """False the first times it is asked; carries the copy out at last."""
        self._asked += 1
        if self._asked > 2:
            self._work_off(self)
        return self.carried_out.is_set()

    def wait(self) -> None:
        """Carries the copy out."""
        self._work_off(self)
        self.carried_out.wait()


class LazyCopier:
    """Queues copies and carries them out in order, as late as the contract allows, at moments that a seed
    decides."""

    def __init__(self, inner: DeviceCopier, seed: int = 0) -> None:
        self._inner = inner
        self._random = random.Random(seed)  # noqa: S311 - timing of copies, not a secret
        self._queue: deque[tuple[LazyTicket, Callable[[], Ticket]]] = deque()
        self._lock = threading.RLock()

    def attach(self, arena: memoryview) -> None:
        """See `DeviceCopier.attach`."""
        self._inner.attach(arena)

    def detach(self, arena: memoryview) -> None:
        """See `DeviceCopier.detach`."""
        self._inner.detach(arena)

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.gather`."""
        blocks = tuple(block_ids)
        return self._later(lambda: self._inner.gather(cache, blocks, arena, offset))

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.scatter`."""
        blocks = tuple(block_ids)
        return self._later(lambda: self._inner.scatter(cache, blocks, arena, offset))

    def clear(self, cache: Any, block_ids: Sequence[int]) -> None:
        """Not put off: it belongs to the device's own order of work."""
        self._inner.clear(cache, block_ids)

    def order_before_next_work(self) -> None:
        """Carries out everything: the last moment that the contract leaves."""
        with self._lock:
            while self._queue:
                self._carry_out_first()

    def _later(self, copy: Callable[[], Ticket]) -> Ticket:
        ticket = LazyTicket(self._work_off)
        with self._lock:
            self._queue.append((ticket, copy))
            if self._random.random() < 0.1:
                self._carry_out_first()
        return ticket

    def _work_off(self, ticket: LazyTicket) -> None:
        with self._lock:
            while not ticket.carried_out.is_set():
                self._carry_out_first()

    def _carry_out_first(self) -> None:
        ticket, copy = self._queue.popleft()
        copy().wait()
        ticket.carried_out.set()
