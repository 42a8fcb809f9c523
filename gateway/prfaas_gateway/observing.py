"""The ledger of each route: what was decided, what came of it, and the guard of its objective.

Kept by the hour for a day. `/observations` on the health port shows sums alone: lengths and times, nothing of
a request. The operator adds up what its gateways show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prfaas.scheduling import Guard, Outcome, Tally, merged, watched

_HOUR_SECONDS = 3600.0
_HOURS = 24
OBSERVATIONS_VERSION = 1


@dataclass(slots=True, eq=False)
class RouteLedger:
    """Tallies by hour of the caller's clock, the guard, and when counting began."""

    started_at: float
    hours: dict[int, Tally] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)

    def count(self, outcome: Outcome, now: float) -> None:
        """Add a request, and forget what is older than a day."""
        hour = int(now // _HOUR_SECONDS)
        tally = self.hours.get(hour)
        if tally is None:
            tally = self.hours[hour] = Tally()
            for old in [each for each in self.hours if each <= hour - _HOURS]:
                del self.hours[old]
        tally.count(outcome)
        if outcome.late is not None:
            self.guard = watched(self.guard, remote=outcome.remote, late=outcome.late, now=now)

    def whole(self, now: float) -> Tally:
        """All of the last day, with the seconds that it covers."""
        first = int(now // _HOUR_SECONDS) - _HOURS + 1
        tally = merged(each for hour, each in self.hours.items() if hour >= first)
        tally.seconds = max(0.0, now - max(self.started_at, first * _HOUR_SECONDS))
        return tally


class Observations:
    """The ledgers of all routes, by `namespace/name`; a static configuration's by model."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteLedger] = {}

    def of(self, route: str, now: float) -> RouteLedger:
        """A route's ledger."""
        ledger = self._routes.get(route)
        if ledger is None:
            ledger = self._routes[route] = RouteLedger(now)
        return ledger

    def items(self) -> list[tuple[str, RouteLedger]]:
        """Routes and their ledgers."""
        return list(self._routes.items())

    def fallen(self, route: str, now: float) -> bool:
        """Whether a route has broken its objective and everything stays local now."""
        ledger = self._routes.get(route)
        return ledger is not None and ledger.guard.fallen(now)

    def keep(self, routes: set[str]) -> None:
        """Forget the others: they are gone, and their names may come again for something else."""
        for name in [name for name in self._routes if name not in routes]:
            del self._routes[name]

    def to_document(self, now: float) -> dict[str, Any]:
        """What the operator reads."""
        return {
            "version": OBSERVATIONS_VERSION,
            "routes": {
                name: {
                    "tally": ledger.whole(now).to_document(),
                    "fallen_seconds": max(0.0, (ledger.guard.fallen_until or now) - now),
                    "falls": ledger.guard.falls,
                }
                for name, ledger in self._routes.items()
            },
        }
