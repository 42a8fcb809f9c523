"""The arena: one sealed memory file that the engine maps too, and who owns which bytes of it.

`Extents` is the arithmetic, `Reservation` the ownership: memory returns when the last *hold* is let go, so
bytes that
an engine may still write, or that still wait in a socket's queue, are never handed to another transfer.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
from collections import Counter
from collections.abc import Callable, Sequence

ALIGNMENT_BYTES = 4096


class Extents:
    """Free and used bytes of ``0 .. size``. First fit, neighbours merge; a list of sizes is given whole or
    not at all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._starts = [0] if size else []
        self._ends = [size] if size else []

    def take(self, sizes: Sequence[int]) -> tuple[int, ...] | None:
        """One aligned extent per size, or None and nothing changed. An empty extent lies at 0 and takes
        nothing."""
        rounded = [_round_up(size) for size in sizes]
        # In one piece where that fits: a transfer's extents are freed together, so holes stay large.
        whole = self._take_one(sum(rounded))
        if whole is not None:
            offsets = []
            for size in rounded:
                offsets.append(whole if size else 0)
                whole += size
            return tuple(offsets)
        taken: list[tuple[int, int]] = []
        for size in rounded:
            offset = self._take_one(size)
            if offset is None:
                for start, length in taken:
                    self._give_back(start, length)
                return None
            taken.append((offset, size))
        return tuple(offset for offset, _ in taken)

    def give_back(self, offsets: Sequence[int], sizes: Sequence[int]) -> None:
        """Free what `take` returned for the same sizes."""
        for offset, size in zip(offsets, sizes, strict=True):
            self._give_back(offset, _round_up(size))

    def free_ranges(self) -> list[tuple[int, int]]:
        """Free ranges in order, as half-open pairs."""
        return list(zip(self._starts, self._ends, strict=True))

    def _take_one(self, size: int) -> int | None:
        if size == 0:
            return 0
        for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if end - start >= size:
                if end - start == size:
                    del self._starts[index], self._ends[index]
                else:
                    self._starts[index] = start + size
                self.used += size
                return start
        return None

    def _give_back(self, start: int, size: int) -> None:
        if size == 0:
            return
        end = start + size
        index = bisect.bisect_left(self._starts, start)
        if (index > 0 and self._ends[index - 1] > start) or (
            index < len(self._starts) and self._starts[index] < end
        ):
            raise ValueError(f"{start}..{end} is free already")
        joins_left = index > 0 and self._ends[index - 1] == start
        joins_right = index < len(self._starts) and self._starts[index] == end
        if joins_left and joins_right:
            self._ends[index - 1] = self._ends[index]
            del self._starts[index], self._ends[index]
        elif joins_left:
            self._ends[index - 1] = end
        elif joins_right:
            self._starts[index] = start
        else:
            self._starts.insert(index, start)
            self._ends.insert(index, end)
        self.used -= size


class Reservation:
    """Extents of one transfer and everything that still holds them. Frees itself with the last hold."""

    def __init__(
        self,
        owner: str,
        offsets: tuple[int, ...],
        sizes: tuple[int, ...],
        free: Callable[[Reservation], None],
    ) -> None:
        self.owner = owner
        self.offsets = offsets
        self.sizes = sizes
        self._free: Callable[[Reservation], None] | None = free
        self._holds: Counter[str] = Counter()

    def __repr__(self) -> str:
        return (
            f"<Reservation {self.owner} {sum(self.sizes)} bytes, held by {sorted(self._holds) or 'nobody'}>"
        )

    @property
    def freed(self) -> bool:
        """Whether the memory went back."""
        return self._free is None

    def holders(self) -> list[str]:
        """Names of what keeps the memory, for logs and tests."""
        return sorted(self._holds)

    def hold(self, name: str) -> None:
        """Keep the memory until ``name`` lets go, as often as it held."""
        if self._free is None:
            raise ValueError(f"{self.owner}: memory is freed already, {name} cannot hold it")
        self._holds[name] += 1

    def let_go(self, name: str) -> None:
        """Undo one `hold`; letting go what is not held changes nothing, so that every ending may say it."""
        if name not in self._holds:
            return
        self._holds[name] -= 1
        if self._holds[name] == 0:
            del self._holds[name]
        if not self._holds and self._free is not None:
            free, self._free = self._free, None
            free(self)


class Arena:
    """A memory file of fixed size, sealed against resizing, mapped here and by the engine."""

    def __init__(self, size_bytes: int, *, preallocate: bool = False) -> None:
        self.size_bytes = _round_up(size_bytes)
        self._extents = Extents(self.size_bytes)
        self._reservations: set[Reservation] = set()
        self.descriptor = os.memfd_create("prfaas-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.size_bytes)
        if preallocate:
            os.posix_fallocate(self.descriptor, 0, self.size_bytes)
        fcntl.fcntl(
            self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        self._map = mmap.mmap(self.descriptor, self.size_bytes)
        self._view = memoryview(self._map)

    @property
    def used_bytes(self) -> int:
        """Bytes in reservations."""
        return self._extents.used

    def reserve(self, owner: str, sizes: Sequence[int], holds: Sequence[str]) -> Reservation | None:
        """Extents for a transfer, held by ``holds`` (at least one), or None when they do not fit."""
        offsets = self._extents.take(sizes)
        if offsets is None:
            return None
        reservation = Reservation(owner, offsets, tuple(sizes), self._give_back)
        for name in holds:
            reservation.hold(name)
        self._reservations.add(reservation)
        return reservation

    def reservations(self) -> list[Reservation]:
        """All that are not freed, for metrics and tests."""
        return list(self._reservations)

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes of the arena."""
        return self._view[offset : offset + size]

    def close(self) -> None:
        """Unmap; only when no transfer is left."""
        self._view.release()
        self._map.close()
        os.close(self.descriptor)

    def _give_back(self, reservation: Reservation) -> None:
        self._reservations.discard(reservation)
        self._extents.give_back(reservation.offsets, reservation.sizes)


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
