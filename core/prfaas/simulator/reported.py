"""What one region's gateways know of queues and links where they learn of them by reports alone."""

from __future__ import annotations

from prfaas.planner import Problem
from prfaas.scheduling import BelievedQueue
from prfaas.simulator.request import Request
from prfaas.simulator.routers import Candidate, Report, View


class Reported:
    """A `View` of the last report, brought up to date by what the region has sent itself and by the time.

    Args:
        believes: False: the last report is taken as if it were of this moment.
    """

    def __init__(self, problem: Problem, *, believes: bool) -> None:
        self._believes = believes
        self._queues = [BelievedQueue() for _ in problem.prefill_pools]
        # What the region has asked for over each link; it is as wide as the plan says.
        self._links = [BelievedQueue() for _ in problem.links]
        self._bits_per_second = [link.bits_per_second for link in problem.links]
        self._world: View | None = None
        self._now = 0.0
        self.report: Report | None = None

    def at(self, world: View, now: float) -> View:
        """The view at this moment; it holds until the next call."""
        self._world, self._now = world, now
        report = world.report
        if report is not None and report is not self.report:
            self.report = report
            for queue, busy, submitted in zip(
                self._queues, report.busy_seconds, report.submitted_seconds, strict=True
            ):
                queue.told(report.measured_at, busy, submitted)
            for link in self._links:
                link.told(report.measured_at, (0.0,))
        return self

    def sent(self, to: Candidate, service_seconds: float, bits: float, now: float) -> None:
        """The region has sent a request there."""
        self._queues[to.prefill].sent(now, service_seconds)
        if to.link >= 0:
            self._links[to.link].sent(now, bits / self._bits_per_second[to.link])

    def backlog_seconds(self, link: int) -> float:
        """Of what the region has asked for since the report."""
        return self._links[link].wait_seconds(self._now) if self._believes else 0.0

    def usable(self, candidate: Candidate) -> bool:
        """See `View`."""
        return self._view.usable(candidate)

    def wait_seconds(self, prefill: int) -> float:
        """See `View`."""
        if self._believes:
            return self._queues[prefill].wait_seconds(self._now)
        return min(self._last.busy_seconds[prefill], default=float("inf"))

    def cached_tokens(self, request: Request, cluster: str) -> int:
        """See `View`."""
        return self._view.cached_tokens(request, cluster)

    def free_bits_per_second(self, link: int) -> float:
        """See `View`."""
        return self._last.free_bits_per_second[link]

    @property
    def _view(self) -> View:
        assert self._world is not None  # noqa: S101 (`at` comes first)
        return self._world

    @property
    def _last(self) -> Report:
        assert self.report is not None  # noqa: S101 (the world makes one before the first request)
        return self.report
