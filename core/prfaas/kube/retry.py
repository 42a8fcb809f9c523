"""When to try a call again, as a function of values."""

from __future__ import annotations

from prfaas.kube.errors import KubeError

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 30.0


def backoff_seconds(
    failures: int,
    chance: float,
    *,
    first_seconds: float = FIRST_SECONDS,
    longest_seconds: float = LONGEST_SECONDS,
) -> float:
    """Wait after so many failures in a row (1 or more): doubling, of which half is by chance (0 to 1)."""
    # The exponent is bounded: 2.0**1024 overflows.
    whole = min(longest_seconds, first_seconds * 2.0 ** min(failures - 1, 32))
    return whole * (0.5 + 0.5 * chance)


def retry_in_seconds(
    error: KubeError, failures: int, chance: float, left_seconds: float, *, is_write: bool
) -> float | None:
    """How long to wait before the next attempt, None to give up.

    A server's Retry-After is kept to, up to a bound, and never undercut. A write is tried again only after an
    answer which says that nothing was done.
    """
    if not error.retryable or (is_write and error.status != 429):
        return None
    wait_seconds = backoff_seconds(failures, chance)
    if error.retry_after_seconds is not None:
        if error.retry_after_seconds > LONGEST_RETRY_AFTER_SECONDS:
            return None
        wait_seconds = max(wait_seconds, error.retry_after_seconds)
    return wait_seconds if wait_seconds < left_seconds else None
