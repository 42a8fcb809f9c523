"""Anytime KV: when to stop waiting for a remote prefill and compute the rest here. Pure: now is a value.

The rule is the one of renting or buying skis. While nothing has landed, waiting as long as computing the
prompt would take costs at most twice the better choice. Once KV lands, its pace decides, and a stop is
waited out for half of the rest. The worst transfer, one that lands at half the local pace and then stops,
so costs three times the local prefill (tests/connector/test_anytime.py). These bounds hold between
`MIN_PATIENCE_SECONDS` and the longest patience; beyond that, the wait itself is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why the engine waits, or why it takes what has landed; a metric label."""

    COMING = "coming"
    COMPLETE = "complete"
    ENDED = "ended"
    DEADLINE = "deadline"
    SILENT = "silent"
    SLOWER_THAN_LOCAL = "slower_than_local"


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a transfer at a moment; times are monotonic seconds.

    ``resumable_tokens`` counts from the prompt's start; ``local_tokens`` of them were there before.
    ``first_kv_seconds`` is how long the queue at the other end may take, as the gateway expects it.
    ``local_tokens_per_second`` is this engine's own prefill rate, None while it has not been seen.
    """

    opened_at: float
    deadline_at: float
    first_progress_at: float | None
    last_progress_at: float | None
    landed_bytes: int
    wanted_bytes: int
    resumable_tokens: int
    local_tokens: int
    target_tokens: int
    ended: bool
    local_tokens_per_second: float | None
    max_patience_seconds: float
    first_kv_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``take`` is the token count to resume from, or None to wait."""

    take: int | None
    reason: Reason


MIN_PATIENCE_SECONDS = 0.5
"""Below this, ordinary jitter of a busy prefill engine would look like silence."""

MAX_PATIENCE_SECONDS = 10.0
"""Default of the setting ``max_patience_seconds``: however long the rest would take, a user watches."""

PACE_MARGIN = 2.0
"""How much slower than computing here the remote pace must be before the rest is computed here: the local
rate is an estimate for an idle engine, and computing takes time from other requests while waiting takes
nothing."""

PACE_WINDOW_SECONDS = 2.0
"""A pace is judged only after this long: over a long or lossy link TCP needs many round trips to reach its
own."""


def decide(view: View, now: float) -> Decision:
    """Wait for more KV, or take what has landed."""
    if view.landed_bytes >= view.wanted_bytes:
        return Decision(view.resumable_tokens, Reason.COMPLETE)
    if view.ended:
        return Decision(view.resumable_tokens, Reason.ENDED)
    if now >= view.deadline_at:
        return Decision(view.resumable_tokens, Reason.DEADLINE)
    rest_seconds = _local_seconds(view, view.target_tokens - view.resumable_tokens)
    last_sign = view.last_progress_at if view.last_progress_at is not None else view.opened_at
    if now - last_sign >= _patience(view, rest_seconds):
        return Decision(view.resumable_tokens, Reason.SILENT)
    if rest_seconds is not None and view.first_progress_at is not None:
        running = now - view.first_progress_at
        if running >= PACE_WINDOW_SECONDS:
            remaining = view.wanted_bytes - view.landed_bytes
            remote_seconds = remaining * running / max(1, view.landed_bytes)
            if remote_seconds > PACE_MARGIN * rest_seconds:
                return Decision(view.resumable_tokens, Reason.SLOWER_THAN_LOCAL)
    return Decision(None, Reason.COMING)


def _patience(view: View, rest_seconds: float | None) -> float:
    if rest_seconds is None:
        return view.max_patience_seconds
    # Nothing has landed: the prompt may be queued or in its first chunk, so the whole local prefill is the
    # stake. Something has landed and then stopped: half of the rest, since a stopped link seldom comes back
    # at once.
    stake = rest_seconds if view.first_progress_at is None else rest_seconds / 2
    if view.first_progress_at is None and view.first_kv_seconds is not None:
        # A queue that was known when the prompt was sent is no silence.
        stake = max(stake, view.first_kv_seconds)
    return min(view.max_patience_seconds, max(MIN_PATIENCE_SECONDS, stake))


def _local_seconds(view: View, tokens: int) -> float | None:
    if not view.local_tokens_per_second:
        return None
    return max(0, tokens) / view.local_tokens_per_second
