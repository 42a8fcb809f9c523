"""How fast this engine prefills, estimated from the times between its steps."""

from __future__ import annotations

MIN_STEP_TOKENS = 64
"""Smaller steps measure the engine's fixed costs."""

SMOOTHING = 0.3
"""Weight of a new sample. The memory is about three steps: rates change with length and load."""

MAX_STEP_SECONDS = 120.0
"""A longer gap between two steps means that the engine was idle or stopped in between."""


class PrefillRate:
    """Exponentially smoothed tokens per second of steps that hold one prompt's prefill and nothing else.

    Args:
        configured: a known rate, which is then used as it is.
    """

    def __init__(self, configured: float | None = None) -> None:
        self._configured = configured
        self._estimate: float | None = None
        self._step_began: tuple[float, int] | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The rate, or None while nothing has been seen."""
        return self._configured if self._configured is not None else self._estimate

    def step(self, now: float, prefill_tokens: int) -> None:
        """A step begins. ``prefill_tokens`` is 0 when it is no pure prefill step. The one before it has
        ended."""
        if self._step_began is not None:
            began, tokens = self._step_began
            seconds = now - began
            if tokens >= MIN_STEP_TOKENS and 0 < seconds <= MAX_STEP_SECONDS:
                sample = tokens / seconds
                self._estimate = (
                    sample
                    if self._estimate is None
                    else self._estimate + SMOOTHING * (sample - self._estimate)
                )
        self._step_began = (now, prefill_tokens)
