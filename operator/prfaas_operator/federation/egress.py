"""What has come over each link this month. It survives restarts, and what is not known counts as spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

VERSION = 1
# Readings are seconds apart. After a longer gap, sidecars may have come and gone unseen.
GAP_SECONDS = 60.0
SOURCES_MAX = 256


@dataclass(frozen=True, slots=True)
class LinkLedger:
    """One link as its destination counts it.

    Attributes:
        since: from when on `spent_bytes` is counted: the beginning of a month (UTC), or of the ledger.
        spent_bytes: since then, with `unknown_bytes`.
        unknown_bytes: of those, what may have come while nobody counted.
        highest_bits_per_second: that was measured, for what nobody counted.
        counters: what each run of a sidecar had received when it was last read.
        read_at: when that was.
    """

    since: datetime
    read_at: datetime
    spent_bytes: int = 0
    unknown_bytes: int = 0
    highest_bits_per_second: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkReading:
    """What was read of one link in a round.

    Attributes:
        counters: bytes received by each run of a sidecar that answered.
        unread: runs that may still be there and did not answer: their counters are kept.
        bits_per_second: goodput of the link now, None when nothing came.
    """

    counters: Mapping[str, int]
    unread: frozenset[str] = frozenset()
    bits_per_second: float | None = None


def month_of(now: datetime) -> datetime:
    """The beginning of the month, when budgets begin anew."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def advance(before: LinkLedger | None, reading: LinkReading, now: datetime) -> LinkLedger:
    """The ledger after a round.

    Growth of counters is known, also over a restart of the operator. A sidecar that has ended took with it
    what it received since it was last read: that counts at the highest rate of the link, less what others are
    known to have received in that time.
    """
    if before is None:
        # Whatever its sidecars have received so far is taken for this month's.
        before = LinkLedger(since=month_of(now), read_at=now)
    grown = sum(max(0, size - before.counters.get(run, 0)) for run, size in reading.counters.items())
    kept = {run: size for run, size in before.counters.items() if run in reading.unread}
    ended = before.counters.keys() - reading.counters.keys() - kept.keys()
    came = reading.counters.keys() - before.counters.keys()
    elapsed = max(0.0, (now - before.read_at).total_seconds())
    unknown = 0
    if ended or (came and elapsed > GAP_SECONDS):
        unknown = max(0, int(before.highest_bits_per_second * elapsed / 8) - grown)
    month = month_of(now)
    if month > before.since and month > month_of(before.since):
        before = replace(before, since=month, spent_bytes=0, unknown_bytes=0)
    return replace(
        before,
        read_at=max(now, before.read_at),
        spent_bytes=before.spent_bytes + grown + unknown,
        unknown_bytes=before.unknown_bytes + unknown,
        highest_bits_per_second=max(before.highest_bits_per_second, reading.bits_per_second or 0.0),
        counters={**kept, **reading.counters},
    )


@dataclass(frozen=True, slots=True)
class BudgetFact:
    """Where a link's budget stands, for whoever decides on its use.

    Attributes:
        left_bytes: until it is spent; 0 when it is. None: there is no budget.
    """

    source: str
    destination: str
    spent_bytes: int
    left_bytes: int | None

    @property
    def is_spent(self) -> bool:
        """Prompts stay local until the month ends."""
        return self.left_bytes == 0


def budget(source: str, destination: str, ledger: LinkLedger, budget_bytes: int | None) -> BudgetFact:
    """Where the budget of a link stands."""
    left = None if budget_bytes is None else max(0, budget_bytes - ledger.spent_bytes)
    return BudgetFact(source, destination, ledger.spent_bytes, left)


def share_of(budget_bytes: int | None, clusters: int) -> int | None:
    """What one cluster of a region may take of the region's budget.

    Each cluster counts its own sidecars and none knows of the others' in time: equal shares cannot be
    overspent together.
    """
    return None if budget_bytes is None else budget_bytes // max(1, clusters)


def to_json(ledgers: Mapping[str, LinkLedger]) -> str:
    """For the ConfigMap; by source region."""
    links = {
        source: {
            "since": each.since.isoformat(),
            "read_at": each.read_at.isoformat(),
            "spent_bytes": each.spent_bytes,
            "unknown_bytes": each.unknown_bytes,
            "highest_bits_per_second": round(each.highest_bits_per_second),
            "counters": dict(sorted(each.counters.items())),
        }
        for source, each in sorted(ledgers.items())
    }
    return json.dumps({"version": VERSION, "links": links}, separators=(",", ":"))


def from_json(text: str) -> dict[str, LinkLedger]:
    """The inverse of `to_json`.

    Raises:
        ValueError: it is no ledger, or of a version that means something else.
    """
    try:
        document: Any = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(
                f"the egress ledger has version {document['version']}, this operator reads {VERSION}"
            )
        return {
            str(source): LinkLedger(
                since=_time(each["since"]),
                read_at=_time(each["read_at"]),
                spent_bytes=int(each["spent_bytes"]),
                unknown_bytes=int(each["unknown_bytes"]),
                highest_bits_per_second=float(each["highest_bits_per_second"]),
                counters={str(run): int(size) for run, size in each["counters"].items()},
            )
            for source, each in list(document["links"].items())[:SOURCES_MAX]
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"the egress ledger cannot be read: {type(error).__name__} {error}") from error


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return found
