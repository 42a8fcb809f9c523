"""When children were put back that somebody else had changed. A new leader begins anew."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import datetime

from prfaas_operator.planning.repairs import pause_seconds

CHILDREN_REMEMBERED = 4096
TIMES_REMEMBERED = 16


class Repairs:
    """By namespace, kind and name."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, str, str], deque[datetime]] = OrderedDict()

    def add(self, namespace: str, kind: str, name: str, now: datetime) -> None:
        place = (namespace, kind, name)
        self._times.setdefault(place, deque(maxlen=TIMES_REMEMBERED)).append(now)
        self._times.move_to_end(place)
        if len(self._times) > CHILDREN_REMEMBERED:
            self._times.popitem(last=False)

    def pauses(self, namespace: str, children: Iterable[tuple[str, str]], now: datetime) -> dict[str, float]:
        """For how many seconds each of these (kind, name) is left alone, those that are."""
        if not self._times:
            return {}
        found = {}
        for kind, name in children:
            times = self._times.get((namespace, kind, name))
            seconds = pause_seconds(tuple(times), now) if times is not None else 0.0
            if seconds > 0:
                found[f"{kind} {name}"] = seconds
        return found
