"""Which pulls of a channel were opened, and which were given up before their OPEN arrived."""

from __future__ import annotations

from collections import OrderedDict

from prfaas_sidecar.protocol.frames import WireError

REMEMBERED_PULLS = 1024


class PullNumbers:
    """Frames of different streams overtake one another, so OPENs come in any order and a CANCEL may come
    before its OPEN. Remembers the latest `REMEMBERED_PULLS` of either kind."""

    def __init__(self) -> None:
        self._opened: OrderedDict[int, str] = OrderedDict()
        self._given_up: OrderedDict[int, str] = OrderedDict()

    def open(self, pull: int) -> str | None:
        """An OPEN arrived. Returns the code with which the pull was given up already, or None.

        Raises:
            WireError: the number was used before.
        """
        if pull in self._opened:
            raise WireError(f"pull {pull} was opened before")
        _remember(self._opened, pull, "")
        return self._given_up.pop(pull, None)

    def give_up(self, pull: int, code: str) -> None:
        """The consumer wants no more of a pull, whose OPEN may yet come."""
        if pull not in self._opened:
            _remember(self._given_up, pull, code)


def _remember(known: OrderedDict[int, str], pull: int, code: str) -> None:
    known[pull] = code
    if len(known) > REMEMBERED_PULLS:
        known.popitem(last=False)
