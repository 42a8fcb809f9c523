"""How fast engines prefill, and what links carry: what the scheduler predicts with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prfaas.scheduling import CompiledCurve, LearnedPrefill, Link, LinkSample, Regime, advance

_MID_TOKENS = 8192
"""Queues are turned into seconds at the pace of prompts of this length."""
_FRESHEST_LIMIT = 1e3


class PaceBook:
    """T_prefill by kind of engine: as it was given (a ModelKVProfile), else as it was learned."""

    def __init__(self) -> None:
        self._given: dict[str, CompiledCurve] = {}
        self._learned: dict[str, LearnedPrefill] = {}

    def give(self, curves: dict[str, CompiledCurve]) -> None:
        """Profiles by kind; they replace those given before."""
        self._given = dict(curves)

    def observe(self, kind: str, uncached_tokens: int, seconds: float) -> None:
        """A prefill that had its engine to itself."""
        self._learned.setdefault(kind, LearnedPrefill()).observe(uncached_tokens, seconds)

    def curve(self, kind: str) -> CompiledCurve | None:
        """None while nothing is known."""
        given = self._given.get(kind)
        if given is not None:
            return given
        learned = self._learned.get(kind)
        return learned.curve() if learned is not None else None

    def points_of(self, kind: str) -> list[tuple[float, float]]:
        """A curve's points, as they were given or learned; none while nothing is known."""
        given = self._given.get(kind)
        if given is not None:
            return given.points()
        learned = self._learned.get(kind)
        return learned.points() if learned is not None else []

    def points(self) -> dict[str, list[tuple[float, float]]]:
        """What has been learned, by kind, in tokens and seconds."""
        return {kind: learned.points() for kind, learned in self._learned.items()}


def queue_seconds(curve: CompiledCurve | None, queued_tokens: int) -> float:
    """How long a queue of so many tokens takes."""
    if curve is None or queued_tokens <= 0:
        return 0.0
    length = min(queued_tokens, _MID_TOKENS)
    return curve.at(length) * queued_tokens / length


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What was measured of the way from another region to this one.

    Attributes:
        capacity_bits_per_second: what it can carry, measured while it was busy or declared.
        used_bits_per_second: what it carries now, of everybody's.
        queued_bytes: that wait to be sent over it.
        measured_at: by the caller's clock.
    """

    capacity_bits_per_second: float
    used_bits_per_second: float = 0.0
    queued_bytes: float = 0.0
    rtt_seconds: float = 0.0
    loss_share: float = 0.0
    measured_at: float = 0.0
    planned_bits_per_second: float | None = None


class LinkBook:
    """Links by the region that KV comes from, each with its regime."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._reports: dict[str, LinkReport] = {}
        self._regimes: dict[str, Regime] = {}
        self.links: dict[str, Link] = {}
        self.closed: frozenset[str] = frozenset()
        """Regions from which no new KV may come: a budget is spent."""
        self._declared: dict[str, float] = {}

    def report(self, source_region: str, report: LinkReport) -> None:
        """A new measurement. Whatever carries nothing is left to health checks."""
        if report.capacity_bits_per_second > 0:
            self._reports[source_region] = report

    def declare(self, capacities: dict[str, float], closed: frozenset[str]) -> None:
        """What the operator says of links, all of them: what KV may use (bits per second) where that is
        declared, and the regions whose link is closed."""
        for source in self._declared.keys() - capacities.keys():
            self._reports.pop(source, None)
        self._declared, self.closed = dict(capacities), closed

    def forget(self, source_region: str) -> None:
        """The region is no longer one."""
        for book in (self._reports, self._regimes, self.links):
            book.pop(source_region, None)

    def tick(self, now: float) -> None:
        """Bring links and their regimes up to date; about once a second."""
        for source in self._reports.keys() | self._declared.keys():
            declared = self._declared.get(source)
            # While nothing was measured over it, a declared link is free, and no older than this moment.
            report = self._reports.get(source) or LinkReport(declared or 1.0, measured_at=now)
            capacity, used = declared or report.capacity_bits_per_second, report.used_bits_per_second
            backlog = min(_FRESHEST_LIMIT, report.queued_bytes * 8 / capacity)
            regime = advance(
                self._regimes.get(source, Regime()),
                LinkSample(used / capacity, backlog, report.loss_share, max(0.0, now - report.measured_at)),
                now,
            )
            self._regimes[source] = regime
            link = self.links.get(source)
            if link is None:
                link = self.links[source] = Link(source, self._region, capacity)
            # One more transfer gets what is free, and never less than a tenth: others make room.
            link.free_bits_per_second = max(capacity - used, capacity / 10)
            link.backlog_seconds, link.rtt_seconds = backlog, report.rtt_seconds
            link.planned_bits_per_second = report.planned_bits_per_second or capacity
            link.scarce, link.threshold_factor = regime.scarce, regime.threshold_factor

    def regimes(self) -> dict[str, Regime]:
        """By source region."""
        return dict(self._regimes)

    def planned(self, source_region: str, bits_per_second: float) -> None:
        """What the plan in force counts on."""
        known = self._reports.get(source_region)
        if known is not None:
            self._reports[source_region] = replace(known, planned_bits_per_second=bits_per_second)
