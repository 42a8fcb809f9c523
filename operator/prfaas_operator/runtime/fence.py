"""Between the operator and every write: only a leader writes, and only until its renew deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum

from prfaas.kube.api import Call

# A write that would have less time than this is not begun: its answer would come too late to count on.
LEAST_SECONDS = 0.2


class Moment(StrEnum):
    """Around a write."""

    BEFORE = "before"
    AFTER = "after"


WriteHook = Callable[[Moment, Call], Awaitable[None]]


class WritingStopped(Exception):  # noqa: N818 - says what happened
    """This process does not lead, or not for long enough; nothing was sent."""


class Fence:
    """A `WriteGuard`.

    Args:
        seconds_left: how long this process may write.
        count: told of every attempt that ended: the call and how (`ok`, or an error's reason).
        hook: called around every write; tests end the operator there.
    """

    def __init__(
        self,
        seconds_left: Callable[[], float],
        count: Callable[[Call, str], None],
        hook: WriteHook | None = None,
    ) -> None:
        self._seconds_left = seconds_left
        self._count = count
        self._hook = hook

    async def before(self, call: Call) -> float:
        if self._hook is not None:
            await self._hook(Moment.BEFORE, call)
        left_seconds = self._seconds_left()
        if left_seconds < LEAST_SECONDS:
            raise WritingStopped(f"{call.verb} {call.resource}: this operator does not hold the lease")
        return left_seconds

    async def after(self, call: Call, error: BaseException | None) -> None:
        self._count(call, "ok" if error is None else str(getattr(error, "reason", type(error).__name__)))
        if self._hook is not None and error is None:
            await self._hook(Moment.AFTER, call)
