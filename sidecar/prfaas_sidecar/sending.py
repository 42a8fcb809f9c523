"""What this sidecar sends to other regions, and how long the path made it wait.

The sender alone can tell a link that is full from KV that is not computed yet: who receives sees in both
cases that it comes slowly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prfaas_sidecar.net.stream import PeerStream

_MAX_REGIONS = 256


@dataclass(slots=True)
class SendMeasure:
    """One region as a destination. All of it is since the process began, and only grows.

    Attributes:
        sent_bytes: of payloads.
        waiting_seconds: how long KV was there that the path did not take. Where some of the busy streams wait
            and others do not, the time counts by their share.
        waiting_bytes: sent in that time: by it, what the path carries when it carries all that it can.
    """

    sent_bytes: int = 0
    waiting_seconds: float = 0.0
    waiting_bytes: float = 0.0


@dataclass(slots=True)
class Sending:
    """By region, as far as anything was sent there."""

    _measures: dict[str, SendMeasure] = field(default_factory=dict)
    _sent: dict[PeerStream, int] = field(default_factory=dict)
    _looked_at: float | None = None

    def tick(self, now: float, streams: Iterable[PeerStream]) -> None:
        """Look at the streams of all consumers: what went since the last look, and who waits now."""
        seconds = 0.0 if self._looked_at is None else max(0.0, now - self._looked_at)
        self._looked_at = now
        sent: dict[PeerStream, int] = {}
        busy: dict[str, list[tuple[int, bool]]] = {}
        for stream in streams:
            if stream.identity is None:
                continue
            sent[stream] = stream.sent_bytes
            grown = stream.sent_bytes - self._sent.get(stream, 0)
            if grown or stream.waits_for_path:
                busy.setdefault(stream.identity.region, []).append((grown, stream.waits_for_path))
        self._sent = sent
        for region, each in busy.items():
            measure = self._of(region)
            grown = sum(size for size, _ in each)
            share = sum(waits for _, waits in each) / len(each)
            measure.sent_bytes += grown
            measure.waiting_seconds += share * seconds
            measure.waiting_bytes += share * grown

    def as_json(self) -> list[dict[str, Any]]:
        """For `/load`."""
        return [
            {
                "region": region,
                "sent_bytes": each.sent_bytes,
                "waiting_seconds": round(each.waiting_seconds, 3),
                "waiting_bytes": round(each.waiting_bytes),
            }
            for region, each in sorted(self._measures.items())
        ]

    def _of(self, region: str) -> SendMeasure:
        # Regions come from verified identities: they are few.
        if region not in self._measures and len(self._measures) >= _MAX_REGIONS:
            return SendMeasure()
        return self._measures.setdefault(region, SendMeasure())
