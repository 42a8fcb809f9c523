"""What is told of a transfer after and while it runs; ended ones are kept for a while, up to a bound."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Record:
    """State of one transfer as `GET /v1/transfers/{id}` shows it. Times are seconds since the epoch."""

    transfer_id: str
    side: str
    state: str = "running"
    code: str | None = None
    units_wanted: int = 0
    units_landed: int = 0
    bytes_wire: int = 0
    bytes_kv: int = 0
    taken_tokens: int | None = None
    opened_at: float | None = None
    first_byte_at: float | None = None
    last_byte_at: float | None = None
    producer_done_at: float | None = None
    ended_at: float | None = None
    streams: int = 0
    resumes: int = 0

    def as_json(self) -> dict[str, Any]:
        """Fields for the control API."""
        return dataclasses.asdict(self)

    def moved(self, wire: int, kv: int, at: float) -> None:
        """A DATA frame was sent or landed."""
        self.bytes_wire += wire
        self.bytes_kv += kv
        self.first_byte_at = self.first_byte_at or at
        self.last_byte_at = at

    def end(self, code: str, at: float) -> None:
        """Nothing more happens, save that the engine may yet say what it took."""
        self.state, self.code, self.ended_at = "ended", code, at


class Records:
    """Running and recently ended transfers by id, and calls of the gateway for ids that are not known yet."""

    def __init__(self, keep: int, remember_seconds: float, wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self._keep = keep
        self._remember_seconds = remember_seconds
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._early: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __contains__(self, transfer_id: str) -> bool:
        return transfer_id in self._records

    def get(self, transfer_id: str) -> Record | None:
        """What is known of a transfer."""
        return self._records.get(transfer_id)

    def all(self) -> list[Record]:
        """All that are kept, oldest first."""
        return list(self._records.values())

    def start(self, transfer_id: str, side: str) -> Record:
        """A new transfer; the oldest ended one is forgotten when there are too many."""
        record = self._records[transfer_id] = Record(transfer_id, side)
        ended = (key for key, known in self._records.items() if known.state == "ended")
        if len(self._records) > self._keep and (oldest := next(ended, None)) is not None:
            del self._records[oldest]
        return record

    def remember_call(self, transfer_id: str, code: str, now: float) -> None:
        """A fail or cancel call came before its transfer. The first one counts."""
        self._forget_old_calls(now)
        if transfer_id not in self._early and len(self._early) < self._keep:
            self._early[transfer_id] = (code, now)

    def early_call(self, transfer_id: str, now: float) -> str | None:
        """Code of a fail or cancel call that came before the transfer."""
        self._forget_old_calls(now)
        found = self._early.get(transfer_id)
        return found[0] if found else None

    def _forget_old_calls(self, now: float) -> None:
        while self._early:
            key, (_, at) = next(iter(self._early.items()))
            if now - at <= self._remember_seconds:
                return
            del self._early[key]
