"""Keeps the last minute of each path out of the own region, from one round of the autoscaler to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prfaas_operator.planning.autoscale.loads import Interval
from prfaas_operator.planning.autoscale.paths import PathRound, PathUse, round_of, use_of, within_window
from prfaas_operator.runtime.sidecar_loads import Told

_REGIONS_MAX = 256


class PathUses:
    """By destination region."""

    def __init__(self) -> None:
        self._rounds: dict[str, tuple[PathRound, ...]] = {}

    def take(self, told: Iterable[Told], now: float) -> Mapping[str, PathUse]:
        """Add what pods have told in this round, and say how each path is used.

        Args:
            now: seconds, never less than before.
        """
        parts: list[Interval] = [part for _, part in told if part is not None]
        regions = {region for part in parts for region in part.after.sent} | self._rounds.keys()
        for region in sorted(regions)[:_REGIONS_MAX]:
            this = round_of([part for part in parts if region in part.after.sent], region, now)
            known = within_window(self._rounds.get(region, ()), now)
            self._rounds[region] = (*known, this) if this is not None else known
        self._rounds = {region: rounds for region, rounds in self._rounds.items() if rounds}
        uses = {region: use_of(rounds) for region, rounds in self._rounds.items()}
        return {region: use for region, use in uses.items() if use is not None}
