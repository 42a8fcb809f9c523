"""How trust in an engine is lost and comes back: a failure score that decays with time.

No engine is banned for good and none is asked in vain for long: with the score capped at twice the limit, an
engine that stopped failing is asked again after at most one half-life, and one failure then puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailureScore:
    """Failures, each counting one when it happens and half as much after every half-life. Immutable.

    Attributes:
        score: value at ``at_seconds``.
        at_seconds: time of the last change, on any monotonic clock.
    """

    score: float = 0.0
    at_seconds: float = 0.0

    def value(self, now_seconds: float, half_life_seconds: float) -> float:
        """The score now."""
        elapsed = max(0.0, now_seconds - self.at_seconds)
        return float(self.score * 0.5 ** (elapsed / half_life_seconds))

    def failed(self, now_seconds: float, half_life_seconds: float, limit: float) -> FailureScore:
        """After one more failure."""
        score = min(self.value(now_seconds, half_life_seconds) + 1, 2 * limit)
        return FailureScore(score, now_seconds)

    def succeeded(self, now_seconds: float, half_life_seconds: float) -> FailureScore:
        """After a success: half of the score is forgiven."""
        return FailureScore(self.value(now_seconds, half_life_seconds) / 2, now_seconds)
