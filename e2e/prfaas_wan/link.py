"""One direction of a link, in virtual time: what is lost, what waits, and when what remains arrives.

Pure: the time is a parameter, randomness is injected, and packets are whatever can be counted and cut. A
*train* is a row of equal segments that the sender handed over in one piece (a GSO super-packet; a train
of one is an ordinary packet). Loss and the queue's end hit segments; what survives goes on as shorter
trains.

A segment's way: cut link -> random loss -> queue (tail drop) -> serialisation at the rate -> delay and
jitter.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from random import Random
from typing import Generic, Protocol, Self, TypeVar

from prfaas_wan.settings import LinkSettings

# A longer train would make a slow link deliver in lumps that no real link shows.
BURST_SECONDS = 0.002
# What a direction may hold in all, so that a fast link with a long delay cannot eat the machine's memory.
HELD_LIMIT_BYTES = 256 * 1024**2

# Far above the resolution of a clock, far below what anybody calls jitter.
_SHORTEST_WANDER_SECONDS = 1e-4


class Train(Protocol):
    @property
    def segments(self) -> int: ...

    def bytes_of(self, start: int, stop: int) -> int:
        """Bytes on the wire, headers of each segment included, of segments start to stop."""
        ...

    def cut(self, start: int, stop: int) -> Self:
        """The train of segments start to stop."""
        ...


T = TypeVar("T", bound=Train)


@dataclass(slots=True)
class LinkStats:
    """Counted since the link was made. Offered = delivered + lost + all dropped + held, in segments."""

    offered_segments: int = 0
    offered_bytes: int = 0
    delivered_segments: int = 0
    delivered_bytes: int = 0
    lost_segments: int = 0
    dropped_queue_segments: int = 0
    dropped_cut_segments: int = 0
    dropped_memory_segments: int = 0

    def as_data(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class _Wander:
    """A delay that drifts between random points instead of jumping.

    Independent jitter per packet would have to be held back to keep order, and then sits near its maximum
    whenever packets are close together. A drift slower than time itself keeps order by construction and
    has the right mean.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._start = self._end = -math.inf
        self._from = self._to = 0.0

    def offset(self, at: float, jitter_seconds: float) -> float:
        """From -jitter to +jitter. `at` never goes back."""
        period = max(4 * jitter_seconds, _SHORTEST_WANDER_SECONDS)
        if at >= self._end:
            recent = at < self._end + period
            self._from = self._to if recent else self._draw()
            self._start = self._end if recent else at
            self._to = self._draw()
            self._end = self._start + period
        return jitter_seconds * (
            self._from + (self._to - self._from) * (at - self._start) / (self._end - self._start)
        )

    def _draw(self) -> float:
        return self._random.uniform(-1.0, 1.0)


class Link(Generic[T]):
    def __init__(self, settings: LinkSettings, random: Random) -> None:
        self.settings = settings
        self.stats = LinkStats()
        self._random = random
        self._wander = _Wander(random)
        self._waiting: deque[tuple[T, int]] = deque()
        self._waiting_bytes = 0
        self._head_done_at = 0.0  # when the first of _waiting has been sent; meaningless when none waits
        self._line: list[tuple[float, int, T, int]] = []  # heap of (due, order, train, bytes)
        self._line_bytes = 0
        self._order = 0
        self._last_due = -math.inf
        self._until_loss = self._segments_until_loss()

    # ---- what the relay asks ----

    def offer(self, now: float, train: T) -> None:
        """A train arrives at the link's near end."""
        self._advance(now)
        count = train.segments
        stats = self.stats
        stats.offered_segments += count
        stats.offered_bytes += train.bytes_of(0, count)
        if self.settings.cut:
            stats.dropped_cut_segments += count
            return
        for start, stop in self._survivors(count):
            self._enqueue(now, train, start, stop)

    def deliver(self, now: float) -> list[T]:
        """The trains that have reached the far end by now, in order of arrival."""
        self._advance(now)
        arrived: list[T] = []
        line = self._line
        while line and line[0][0] <= now:
            _, _, train, size_bytes = heapq.heappop(line)
            self._line_bytes -= size_bytes
            self.stats.delivered_segments += train.segments
            self.stats.delivered_bytes += size_bytes
            arrived.append(train)
        return arrived

    def next_arrival(self) -> float | None:
        """No train arrives before this time; None while the link is empty."""
        soonest = self._line[0][0] if self._line else math.inf
        if self._waiting:
            leaves_least = self.settings.delay_seconds - self.settings.jitter_seconds
            earliest = self._head_done_at + leaves_least
            soonest = min(soonest, earliest if self.settings.reorder else max(earliest, self._last_due))
        return None if soonest == math.inf else soonest

    def configure(self, now: float, settings: LinkSettings) -> None:
        """Change the link under traffic: what waits goes on at the new rate, what is on the line keeps
        its time, and a cut loses both."""
        self._advance(now)
        old = self.settings
        self.settings = settings
        if self._waiting and settings.rate_bits_per_second != old.rate_bits_per_second:
            self._change_rate(now, old.rate_bits_per_second, settings.rate_bits_per_second)
        if settings.loss_fraction != old.loss_fraction:
            self._until_loss = self._segments_until_loss()
        if settings.cut and not old.cut:
            self._lose_everything()

    @property
    def queued_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def held_bytes(self) -> int:
        return self._waiting_bytes + self._line_bytes

    @property
    def held_segments(self) -> int:
        return sum(train.segments for train, _ in self._waiting) + sum(
            entry[2].segments for entry in self._line
        )

    # ---- loss ----

    def _segments_until_loss(self) -> float:
        """How many segments pass before the next loss: the geometric distribution, so one draw per loss."""
        loss = self.settings.loss_fraction
        if loss <= 0:
            return math.inf
        if loss >= 1:
            return 0
        return math.floor(math.log(1.0 - self._random.random()) / math.log1p(-loss))

    def _survivors(self, count: int) -> Iterator[tuple[int, int]]:
        """The runs of segments that are not lost."""
        start = 0
        while self._until_loss < count - start:
            lost = start + int(self._until_loss)
            if lost > start:
                yield start, lost
            self.stats.lost_segments += 1
            start = lost + 1
            self._until_loss = self._segments_until_loss()
        self._until_loss -= count - start
        if start < count:
            yield start, count

    # ---- queue and serialisation ----

    def _enqueue(self, now: float, train: T, start: int, stop: int) -> None:
        fitting = self._fitting(now, train, start, stop)
        self.stats.dropped_queue_segments += stop - start - fitting
        stop = start + fitting
        if start == stop:
            return
        size_bytes = train.bytes_of(start, stop)
        if self.held_bytes + size_bytes > HELD_LIMIT_BYTES:
            self.stats.dropped_memory_segments += stop - start
            return
        rate = self.settings.rate_bits_per_second
        if rate is None:
            self._launch(now, train.cut(start, stop), size_bytes)
            return
        per_burst = self._segments_per_burst(rate, size_bytes, stop - start)
        for first in range(start, stop, per_burst):
            last = min(first + per_burst, stop)
            burst_bytes = train.bytes_of(first, last)
            if not self._waiting:
                self._head_done_at = now + burst_bytes * 8 / rate
            self._waiting.append((train.cut(first, last), burst_bytes))
            self._waiting_bytes += burst_bytes

    def _fitting(self, now: float, train: T, start: int, stop: int) -> int:
        """How many of the segments the queue has room for. An idle link always takes one."""
        settings = self.settings
        if settings.rate_bits_per_second is None:
            return stop - start
        room = settings.queue_limit_bytes
        if self._waiting:
            unsent_of_head = (self._head_done_at - now) * settings.rate_bits_per_second / 8
            room -= self._waiting_bytes - self._waiting[0][1] + unsent_of_head
        if train.bytes_of(start, stop) <= room:
            return stop - start
        each = train.bytes_of(start, start + 1)
        least = 0 if self._waiting else 1
        return min(stop - start, max(least, int(room // each)))

    @staticmethod
    def _segments_per_burst(rate: float, size_bytes: int, segments: int) -> int:
        burst_bytes = rate / 8 * BURST_SECONDS
        if size_bytes <= burst_bytes:
            return segments
        return max(1, int(burst_bytes * segments / size_bytes))

    def _advance(self, now: float) -> None:
        """Put on the line whatever has been sent by now."""
        waiting = self._waiting
        rate = self.settings.rate_bits_per_second
        while waiting and self._head_done_at <= now:
            train, size_bytes = waiting.popleft()
            self._waiting_bytes -= size_bytes
            self._launch(self._head_done_at, train, size_bytes)
            if waiting and rate is not None:
                self._head_done_at += waiting[0][1] * 8 / rate

    def _change_rate(self, now: float, old: float | None, new: float | None) -> None:
        if new is None or old is None:
            self._head_done_at = now
            self._advance(now)
            return
        self._head_done_at = now + (self._head_done_at - now) * old / new

    # ---- the line ----

    def _launch(self, at: float, train: T, size_bytes: int) -> None:
        settings = self.settings
        due = at + settings.delay_seconds
        jitter = settings.jitter_seconds
        if settings.reorder:
            due += self._random.uniform(-jitter, jitter)
        else:
            if jitter > 0:
                due += self._wander.offset(at, jitter)
            # After a change of delay, what left later would otherwise overtake.
            due = max(due, self._last_due)
        self._last_due = max(due, self._last_due)
        heapq.heappush(self._line, (due, self._order, train, size_bytes))
        self._order += 1
        self._line_bytes += size_bytes

    def _lose_everything(self) -> None:
        self.stats.dropped_cut_segments += self.held_segments
        self._waiting.clear()
        self._line.clear()
        self._waiting_bytes = self._line_bytes = 0
        self._last_due = -math.inf
