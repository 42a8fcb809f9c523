"""The failure ladder of one request, as functions of values: what to do when a leg fails.

Every step is bounded: attempts by count, all of them together by the age of the request. Nothing here applies
once a byte of the answer has gone to the client; then there is only going on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """What happens next. The values are metric labels."""

    RETRY_REMOTE = "retry_remote"
    """Both legs again: another prefill engine, a new transfer id."""
    LOCAL_PREFILL = "local_prefill"
    """The decode leg that runs already computes what has not landed."""
    RETRY_DECODE = "retry_decode"
    """Another decode engine, its own prefill or a new transfer."""
    GIVE_UP = "give_up"
    """503 with Retry-After."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the ladder."""

    remote_attempts: int
    decode_attempts: int
    retry_within_seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come.

    Attributes:
        remote_attempts: transfers started so far, the failed one included.
        decode_attempts: decode engines asked so far, the failed one included; a new transfer to the same
            decode engine does not count.
        age_seconds: since the request was accepted.
    """

    remote_attempts: int
    decode_attempts: int
    age_seconds: float


def after_prefill_failure(
    bounds: Bounds,
    progress: Progress,
    *,
    landed_units: int | None,
    another_prefill_engine: bool,
    retryable: bool,
) -> Step:
    """The prefill leg failed while the decode leg waits for its KV.

    Args:
        landed_units: what has reached the decode side; None when its sidecar did not say. Unknown counts as
            something: throwing landed KV away costs more than computing the rest here.
        another_prefill_engine: a healthy one that this request has not tried.
        retryable: whether another engine could do better with the same prompt.
    """
    if (
        retryable
        and landed_units == 0
        and another_prefill_engine
        and progress.remote_attempts < bounds.remote_attempts
        and progress.age_seconds < bounds.retry_within_seconds
    ):
        return Step.RETRY_REMOTE
    return Step.LOCAL_PREFILL


def after_decode_failure(bounds: Bounds, progress: Progress, *, another_decode_engine: bool) -> Step:
    """The decode leg failed before the first byte of its answer."""
    if (
        another_decode_engine
        and progress.decode_attempts < bounds.decode_attempts
        and progress.age_seconds < bounds.retry_within_seconds
    ):
        return Step.RETRY_DECODE
    return Step.GIVE_UP
