"""One byte of state per unit, with runs found at memory speed."""

from __future__ import annotations

from prfaas_connector.local_api.units import Ranges


def runs(states: bytearray, state: int, base: int = 0) -> Ranges:
    """Maximal half-open runs of ``state``, shifted by ``base``."""
    wanted, found, cursor = bytes([state]), [], states.find(state)
    while cursor >= 0:
        # lstrip-like search for the end of a run: the first byte that differs.
        end = cursor
        step = 1
        while states.startswith(wanted * step, end):
            end += step
            step *= 2
        while step:
            if states.startswith(wanted * step, end):
                end += step
            step //= 2
        found.append((base + cursor, base + end))
        cursor = states.find(state, end)
    return tuple(found)


class Packed:
    """Unit numbers of wanted ranges, packed: where a run of units lies among the wanted ones."""

    def __init__(self, want: Ranges) -> None:
        self.want = want
        before, starts = 0, []
        for start, end in want:
            starts.append(before)
            before += end - start
        self._before = starts
        self.total = before

    def position(self, first: int, count: int) -> int | None:
        """Packed position of ``first`` if all ``count`` units lie in one wanted range, else None."""
        for (start, end), before in zip(self.want, self._before, strict=True):
            if start <= first and first + count <= end:
                return before + first - start
        return None

    def ranges(self, states: bytearray, state: int) -> Ranges:
        """Unit ranges whose packed ``states`` are ``state``."""
        found: list[tuple[int, int]] = []
        for (start, end), before in zip(self.want, self._before, strict=True):
            found += runs(states[before : before + end - start], state, start)
        return tuple(found)
