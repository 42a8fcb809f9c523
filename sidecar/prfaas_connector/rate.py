"""How fast this engine prefills, estimated from how long its steps run."""

from __future__ import annotations

import math
from collections import deque

MIN_STEP_TOKENS = 64
"""Smaller steps measure the engine's fixed costs."""

SMOOTHING = 0.3
"""Weight of a new sample. The memory is about three steps: rates change with length and load."""

MAX_STEP_SECONDS = 120.0
"""A step that seems to take longer was stopped in between, with its engine."""

MAX_STEPS_IN_FLIGHT = 16
"""More than any engine schedules ahead."""


class PrefillRate:
    """Exponentially smoothed tokens per second of steps that hold one prompt's prefill and nothing else.

    An engine may schedule a step while the one before still runs. Steps run one after another in the order in
    which they were scheduled, so a step's time counts from when it was scheduled or when the one before it
    ended, whichever came later.

    Args:
        configured: a known rate, which is then used as it is.
    """

    def __init__(self, configured: float | None = None) -> None:
        self._configured = configured
        self._estimate: float | None = None
        self._in_flight: deque[tuple[float, int]] = deque(maxlen=MAX_STEPS_IN_FLIGHT)
        self._ended_at = -math.inf

    @property
    def tokens_per_second(self) -> float | None:
        """The rate, or None while nothing has been seen."""
        return self._configured if self._configured is not None else self._estimate

    def step_scheduled(self, now: float, prefill_tokens: int) -> None:
        """A step was scheduled. ``prefill_tokens`` is 0 when it is no pure prefill step."""
        self._in_flight.append((now, prefill_tokens))

    def step_ended(self, now: float) -> None:
        """The output of the oldest step in flight is there."""
        if not self._in_flight:
            return
        scheduled_at, tokens = self._in_flight.popleft()
        seconds = now - max(scheduled_at, self._ended_at)
        self._ended_at = now
        if tokens >= MIN_STEP_TOKENS and 0 < seconds <= MAX_STEP_SECONDS:
            sample = tokens / seconds
            self._estimate = (
                sample if self._estimate is None else self._estimate + SMOOTHING * (sample - self._estimate)
            )
