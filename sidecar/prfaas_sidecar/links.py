"""What this sidecar receives from other regions, and how well: for KVLink status, budgets and routing."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.sockets import TcpInfo

SMOOTHING_SECONDS = 10.0
"""Of busy time: after so much of it a new rate makes up two thirds of what is told."""
_QUIET_BYTES = 4096
"""A window with less is signs of life and greetings, not KV."""
_MAX_REGIONS = 256


@dataclass(slots=True)
class LinkMeasure:
    """One region as a source of KV.

    Attributes:
        received_bytes: since the process began, all that its streams brought, without TLS and TCP.
        busy_seconds: of that time, how long bytes were coming in.
        goodput_bits_per_second: received in busy time, lately; None until there was some.
        rtt_seconds: median over its streams, None without one.
        retransmits_percent: of the segments that its streams brought lately, how many came out of their
            order: what a loss looks like to who receives, and more than was sent again. None without any.
        told_bytes, told_seconds: what the metrics have of the counters already.
    """

    received_bytes: int = 0
    busy_seconds: float = 0.0
    goodput_bits_per_second: float | None = None
    rtt_seconds: float | None = None
    retransmits_percent: float | None = None
    streams: int = 0
    failed_transfers: int = 0
    complete_transfers: int = 0
    _window_bytes: int = 0
    told_bytes: int = 0
    told_seconds: float = 0.0

    def received(self, size_bytes: int) -> None:
        """Bytes have come in."""
        self.received_bytes += size_bytes
        self._window_bytes += size_bytes

    def close_window(self, seconds: float) -> None:
        """So much time has passed since the last call."""
        size, self._window_bytes = self._window_bytes, 0
        if size < _QUIET_BYTES or seconds <= 0:
            return
        self.busy_seconds += seconds
        rate = size * 8 / seconds
        before = self.goodput_bits_per_second
        share = 1.0 if before is None else 1 - math.exp(-seconds / SMOOTHING_SECONDS)
        self.goodput_bits_per_second = rate if before is None else before + share * (rate - before)


@dataclass(slots=True)
class _Counted:
    segments: int = 0
    out_of_order: int = 0


@dataclass(slots=True)
class Links:
    """By region, as far as anything was pulled from there."""

    epoch: str = field(default_factory=lambda: secrets.token_hex(8))
    """Names this run of the process: counters begin anew with another one."""
    _measures: dict[str, LinkMeasure] = field(default_factory=dict)
    _counted: dict[object, _Counted] = field(default_factory=dict)
    _closed_at: float | None = None

    def of(self, region: str) -> LinkMeasure:
        """The measure of a region. Regions come from verified identities and configuration: they are few."""
        if region not in self._measures and len(self._measures) >= _MAX_REGIONS:
            return LinkMeasure()
        return self._measures.setdefault(region, LinkMeasure())

    def tally(self, region: str) -> Callable[[int], None]:
        """For streams of a region: to be told of bytes."""
        return self.of(region).received

    def ended(self, region: str, *, complete: bool) -> None:
        """A transfer from a region is over."""
        measure = self.of(region)
        if complete:
            measure.complete_transfers += 1
        else:
            measure.failed_transfers += 1

    def tick(self, now: float) -> None:
        """Ends a window of measurement."""
        seconds = 0.0 if self._closed_at is None else now - self._closed_at
        self._closed_at = now
        for measure in self._measures.values():
            measure.close_window(seconds)

    def measured(self, streams: Iterable[tuple[object, str, TcpInfo]]) -> None:
        """What the kernel says: stream, region, measurements of the connection."""
        rtts: dict[str, list[float]] = {region: [] for region in self._measures}
        segments: dict[str, _Counted] = {}
        counted: dict[object, _Counted] = {}
        for stream, region, info in streams:
            rtts.setdefault(region, []).append(info.rtt_seconds)
            before = self._counted.get(stream, _Counted())
            counted[stream] = _Counted(info.segments_received, info.segments_out_of_order)
            grown = segments.setdefault(region, _Counted())
            grown.segments += max(0, info.segments_received - before.segments)
            grown.out_of_order += max(0, info.segments_out_of_order - before.out_of_order)
        self._counted = counted
        for region, times in rtts.items():
            measure = self.of(region)
            measure.streams = len(times)
            measure.rtt_seconds = sorted(times)[len(times) // 2] if times else None
            grown = segments.get(region, _Counted())
            if grown.segments:
                measure.retransmits_percent = min(100.0, 100.0 * grown.out_of_order / grown.segments)

    def as_json(self) -> list[dict[str, Any]]:
        """For `/status`."""
        return [
            {
                "region": region,
                "received_bytes": each.received_bytes,
                "busy_seconds": round(each.busy_seconds, 3),
                "goodput_bits_per_second": _rounded(each.goodput_bits_per_second, 0),
                "rtt_seconds": _rounded(each.rtt_seconds, 6),
                "retransmits_percent": _rounded(each.retransmits_percent, 3),
                "streams": each.streams,
                "complete_transfers": each.complete_transfers,
                "failed_transfers": each.failed_transfers,
            }
            for region, each in sorted(self._measures.items())
        ]

    def collect(self, metrics: Metrics) -> None:
        """Bring the metrics up to date."""
        for region, each in self._measures.items():
            metrics.link_received.labels(region).inc(each.received_bytes - each.told_bytes)
            metrics.link_busy.labels(region).inc(each.busy_seconds - each.told_seconds)
            each.told_bytes, each.told_seconds = each.received_bytes, each.busy_seconds
            for gauge, measured in (
                (metrics.link_goodput, each.goodput_bits_per_second),
                (metrics.link_rtt, each.rtt_seconds),
                (metrics.link_retransmits, each.retransmits_percent),
            ):
                if measured is not None:
                    gauge.labels(region).set(measured)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
