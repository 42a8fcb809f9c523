"""Where requests are computed: prefill pools and decode pools. No decisions are made here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import cast

import simpy

from prfaas.planner import DecodePool, PrefillPool
from prfaas.simulator.fluid import SharedServer
from prfaas.simulator.request import Request
from prfaas.simulator.settings import HOURS_PER_DAY, PoolDetails

SECONDS_PER_HOUR = 3600.0

Told = Callable[[Request], None]


class Fleet:
    """The instances of one pool: ready, starting, on their way out, and what they cost.

    Attributes:
        ready: instances that take work.
        starting: instances that are paid for and take no work yet.
        wanted: what was asked for last.
        up: False while the pool is down.
        billed_seconds: instance-seconds up to the last `settle`.
        ready_seconds: of them, of instances that were ready or on their way out.
        busy_seconds: of them, with work in progress; a decode instance counts by the part of its batch.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: PrefillPool | DecodePool,
        details: PoolDetails,
        instances: int,
        start_hour: float,
    ) -> None:
        self.env = env
        self.name = spec.name
        self.cluster = spec.cluster
        self.spec_instances = spec.instances
        self.ready = self.wanted = instances
        self.starting = 0
        self.up = True
        self.billed_seconds = 0.0
        self.ready_seconds = 0.0
        self.busy_seconds = 0.0
        self.cost = 0.0
        self._prices = details.price_by_hour
        self._price = spec.instances.price_per_hour or 0.0
        self._start_hour = start_hour
        self._settled = env.now
        self._cancelled = 0

    def price_per_hour(self, now: float) -> float:
        """Of one instance at a time in seconds since the start."""
        if self._prices is None:
            return self._price
        return self._prices[int(self._start_hour + now / SECONDS_PER_HOUR) % HOURS_PER_DAY]

    @property
    def in_use(self) -> float:
        """Instances' worth of work in progress."""
        raise NotImplementedError

    def settle(self) -> None:
        """Count time and money up to now: before a size changes, and often enough for prices by the hour."""
        now = self.env.now
        passed = now - self._settled
        if passed <= 0:
            return
        in_use = self.in_use
        billed = max(self.ready, math.ceil(in_use - 1e-9)) + self.starting
        self.billed_seconds += billed * passed
        self.ready_seconds += max(self.ready, in_use) * passed
        self.cost += billed * passed * self.price_per_hour((self._settled + now) / 2) / SECONDS_PER_HOUR
        self._settled = now

    def resize(self, instances: int, start_seconds: Callable[[int], float]) -> None:
        """Ask for a size. Fewer: instances that start are let go first, then ready ones when they are done.

        Args:
            start_seconds: how long the n-th new instance (from 0) takes to be ready.
        """
        self.settle()
        self.wanted = instances
        change = instances - self.ready - self.starting
        if change > 0:
            self.starting += change
            for number in range(change):
                event = self.env.timeout(start_seconds(number))
                event.callbacks.append(self._started)
        elif change < 0:
            let_go = min(self.starting, -change)
            self.starting -= let_go
            self._cancelled += let_go
            self.ready += change + let_go
            self.sizes_changed()

    def _started(self, _event: simpy.Event) -> None:
        if self._cancelled:
            self._cancelled -= 1
            return
        self.settle()
        self.starting -= 1
        self.ready += 1
        self.sizes_changed()

    def sizes_changed(self) -> None:
        """Work may begin, or has to slow down."""
        raise NotImplementedError


class PrefillStation(Fleet):
    """First come, first served by instances that prefill one batch at a time.

    Attributes:
        submitted_seconds: work of all requests that were ever put in line, by the profile.

    Args:
        begun: is told of a request when its prefill begins.
        done: is told when it ends.
        gave_up: is told of one that waited too long.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: PrefillPool,
        details: PoolDetails,
        instances: int,
        start_hour: float,
        *,
        queue_seconds_max: float,
        begun: Told,
        done: Told,
        gave_up: Told,
    ) -> None:
        super().__init__(env, spec, details, instances, start_hour)
        self.spec = spec
        self.curve = spec.prefill
        self._true_factor = details.prefill_true_factor
        self._batch_tokens = details.batch_tokens
        self._fixed_seconds = spec.prefill.at(spec.prefill.from_tokens) * self._true_factor
        self._queue_seconds_max = queue_seconds_max
        self._begun, self._done, self._gave_up = begun, done, gave_up
        self.queue: deque[Request] = deque()
        self.queued_seconds = 0.0
        self.submitted_seconds = 0.0
        self._running: dict[Request, None] = {}
        self._running_seconds = 0.0
        self._losses = 0
        self._busy = 0
        self._busy_since = env.now

    @property
    def in_use(self) -> float:
        return self._busy

    def settle(self) -> None:
        self._count_busy()
        super().settle()

    def _count_busy(self) -> None:
        now = self.env.now
        self.busy_seconds += self._busy * (now - self._busy_since)
        self._busy_since = now

    @property
    def running(self) -> int:
        """Requests whose prefill has begun."""
        return len(self._running)

    def running_requests(self) -> list[Request]:
        """Those whose prefill has begun."""
        return list(self._running)

    def wait_seconds(self) -> float:
        """What a request that comes now will about wait: queued work over instances."""
        if self._busy < self.ready:
            return 0.0
        if self.ready < 1:
            return math.inf
        # Whoever runs is half done on average.
        half = 0.5 * self._running_seconds / max(1, len(self._running))
        return self.queued_seconds / self.ready + half / self.ready

    def submit(self, request: Request) -> None:
        """Put a request in line; its `service_seconds` is what the profile says."""
        request.since = self.env.now
        self.queue.append(request)
        self.queued_seconds += request.service_seconds
        self.submitted_seconds += request.service_seconds
        self.sizes_changed()

    def busy_seconds_each(self) -> tuple[float, ...]:
        """For how long each ready instance will about have work, what waits spread evenly over them."""
        # What is left of those that run is spread evenly between nothing and all of it.
        running = self._running_seconds / max(1, len(self._running))
        each = self.queued_seconds / self.ready if self.ready else 0.0
        left = [running * (number + 0.5) / self._busy for number in range(min(self._busy, self.ready))]
        left.extend([0.0] * (self.ready - len(left)))
        return tuple(each + seconds for seconds in left)

    def sizes_changed(self) -> None:
        while self.queue and self._busy < self.ready and self.up:
            batch = self._batch()
            if batch:
                self._start(batch)

    def lose_all(self) -> list[Request]:
        """Everything that waits or runs is lost; the caller decides what becomes of it."""
        self.settle()
        lost = [*self._running, *self.queue]
        self._running.clear()
        self._running_seconds = 0.0
        self.queue.clear()
        self.queued_seconds = 0.0
        self._busy = 0
        self._losses += 1
        return lost

    def abandon(self, request: Request) -> None:
        """Nobody waits for a running prefill any more; the instance finishes what it began."""
        if request in self._running:
            del self._running[request]
            self._running_seconds -= request.service_seconds

    def withdraw(self, request: Request) -> bool:
        """Take a request that still waits out of the line; False when it does not wait here."""
        try:
            self.queue.remove(request)
        except ValueError:
            return False
        self.queued_seconds = max(0.0, self.queued_seconds - request.service_seconds)
        return True

    def _take(self) -> Request:
        request = self.queue.popleft()
        self.queued_seconds = max(0.0, self.queued_seconds - request.service_seconds) if self.queue else 0.0
        return request

    def _batch(self) -> list[Request]:
        batch: list[Request] = []
        tokens = 0.0
        deadline = self.env.now - self._queue_seconds_max
        while self.queue:
            head = self.queue[0]
            if head.since < deadline:
                self._gave_up(self._take())
                continue
            if batch and (self._batch_tokens is None or tokens + head.compute_tokens > self._batch_tokens):
                break
            tokens += head.compute_tokens
            batch.append(self._take())
            if self._batch_tokens is None:
                break
        return batch

    def _start(self, batch: list[Request]) -> None:
        self._count_busy()
        self._busy += 1
        seconds = sum(each.service_seconds for each in batch) * self._true_factor
        seconds -= (len(batch) - 1) * self._fixed_seconds
        event = self.env.timeout(max(seconds, 0.0), (self._losses, batch))
        event.callbacks.append(self._finished)
        for request in batch:
            self._running[request] = None
            self._running_seconds += request.service_seconds
            request.attempts += 1
            self._begun(request)

    def _finished(self, event: simpy.Event) -> None:
        losses, batch = cast(tuple[int, list[Request]], event.value)
        if losses != self._losses:
            return
        self._count_busy()
        self._busy -= 1
        for request in batch:
            if request in self._running:
                del self._running[request]
                self._running_seconds -= request.service_seconds
                self._done(request)
        self.sizes_changed()


class DecodeStation(Fleet):
    """Batch slots; those inside progress at the pace of a decode step, which may grow with the batch."""

    def __init__(
        self,
        env: simpy.Environment,
        spec: DecodePool,
        details: PoolDetails,
        instances: int,
        start_hour: float,
        *,
        queue_seconds_max: float,
        begun: Told,
        done: Told,
        gave_up: Told,
    ) -> None:
        super().__init__(env, spec, details, instances, start_hour)
        self.spec = spec
        self._batch_max = spec.decode.batch_max
        self._slowest = spec.decode.step_seconds
        self._alone = self._slowest if details.step_seconds_alone is None else details.step_seconds_alone
        self._queue_seconds_max = queue_seconds_max
        self._begun, self._gave_up = begun, gave_up
        self._told_done = done
        self.queue: deque[Request] = deque()
        self.batch: SharedServer[Request] = SharedServer(env, self._pace, self._done)

    @property
    def in_use(self) -> float:
        return len(self.batch) / self._batch_max

    @property
    def slots(self) -> int:
        """Of all ready instances."""
        return int(self.ready * self._batch_max)

    def step_seconds(self, inside: int) -> float:
        """Of a decode step with that many requests in the pool."""
        if self._alone == self._slowest:
            return self._slowest
        largest = max(1.0, self.ready * self._batch_max)
        spread = max(0.0, min(1.0, (inside - self.ready) / max(1.0, largest - self.ready)))
        return self._alone + (self._slowest - self._alone) * spread

    def _pace(self, inside: int) -> float:
        return 1.0 / self.step_seconds(inside)

    def submit(self, request: Request) -> None:
        """Put a request whose KV is there in line for a slot."""
        request.since = self.env.now
        self.queue.append(request)
        self.sizes_changed()

    def settle(self) -> None:
        super().settle()
        self.busy_seconds = self.batch.occupied_seconds() / self._batch_max

    def sizes_changed(self) -> None:
        slots = self.slots
        deadline = self.env.now - self._queue_seconds_max
        while self.queue and self.up and len(self.batch) < slots:
            request = self.queue.popleft()
            if request.since < deadline:
                self._gave_up(request)
                continue
            self._begun(request)
            self.batch.add(request, request.output_tokens)
        if self._alone != self._slowest:
            self.batch.pace_changed()

    def lose_all(self) -> list[Request]:
        """Everything that waits or decodes is lost."""
        self.settle()
        lost = [*self.batch.jobs(), *self.queue]
        for request in self.batch.jobs():
            self.batch.remove(request)
        self.queue.clear()
        return lost

    def _done(self, request: Request) -> None:
        self._told_done(request)
        if self.queue:
            self.sizes_changed()
