"""The arena: no byte has two owners, nothing is lost, and memory returns with its last hold and not
before."""

from __future__ import annotations

import fcntl
import mmap
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas_sidecar.arena import ALIGNMENT_BYTES, Arena, Extents, Reservation

PAGE = ALIGNMENT_BYTES
sizes = st.lists(st.integers(0, 6 * PAGE), max_size=6)


class ExtentsMachine(RuleBasedStateMachine):
    """Takes and gives back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(32 * PAGE)
        self.taken: list[tuple[tuple[int, ...], list[int]]] = []

    @rule(wanted=sizes)
    def take(self, wanted: list[int]) -> None:
        before, used = self.extents.free_ranges(), self.extents.used
        offsets = self.extents.take(wanted)
        if offsets is None:
            assert (self.extents.free_ranges(), self.extents.used) == (before, used)
            assert sum(-(-size // PAGE) * PAGE for size in wanted) > 0
            return
        assert all(offset % PAGE == 0 for offset in offsets)
        self.taken.append((offsets, wanted))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.taken:
            offsets, wanted = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            self.extents.give_back(offsets, wanted)

    @invariant()
    def every_byte_has_exactly_one_owner(self) -> None:
        spans = [(start, end) for start, end in self.extents.free_ranges()]
        # Free neighbours are merged.
        assert all(left[1] < right[0] for left, right in pairwise(spans))
        for offsets, wanted in self.taken:
            spans += [
                (offset, offset + -(-size // PAGE) * PAGE)
                for offset, size in zip(offsets, wanted, strict=True)
                if size
            ]
        spans.sort()
        assert sum(end - start for start, end in spans) == self.extents.size
        assert all(left[1] == right[0] for left, right in pairwise(spans))
        assert self.extents.used == self.extents.size - sum(
            end - start for start, end in self.extents.free_ranges()
        )


TestExtents = ExtentsMachine.TestCase


def test_what_fits_in_pieces_is_given_although_no_hole_is_large_enough() -> None:
    extents = Extents(8 * PAGE)
    holes = [extents.take([PAGE]) for _ in range(8)]
    for index in (0, 2, 4, 6):
        taken = holes[index]
        assert taken is not None
        extents.give_back(taken, [PAGE])
    assert extents.take([PAGE] * 5) is None
    assert extents.take([2 * PAGE]) is None
    assert extents.take([PAGE] * 4) == (0, 2 * PAGE, 4 * PAGE, 6 * PAGE)


def test_giving_back_twice_is_an_error() -> None:
    extents = Extents(4 * PAGE)
    offsets = extents.take([PAGE, PAGE])
    assert offsets is not None
    extents.give_back(offsets, [PAGE, PAGE])
    with pytest.raises(ValueError, match="free already"):
        extents.give_back(offsets, [PAGE, PAGE])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_memory_returns_with_the_last_hold(steps: list[tuple[str, bool]]) -> None:
    freed: list[Reservation] = []
    reservation = Reservation("t", (0,), (PAGE,), freed.append)
    reservation.hold("transfer")
    held = {"a": 0, "b": 0, "c": 0}
    for name, more in steps:
        if more:
            reservation.hold(name)
            held[name] += 1
        else:
            reservation.let_go(name)
            held[name] = max(0, held[name] - 1)
        assert freed == []
    reservation.let_go("transfer")
    for name, times in held.items():
        for _ in range(times):
            assert freed == []
            reservation.let_go(name)
    assert freed == [reservation]
    assert reservation.freed
    reservation.let_go("transfer")
    assert freed == [reservation]
    with pytest.raises(ValueError, match="freed already"):
        reservation.hold("late")


def test_the_memory_file_cannot_be_resized_and_is_shared() -> None:
    arena = Arena(10 * PAGE - 1)
    assert arena.size_bytes == 10 * PAGE
    descriptor = os.dup(arena.descriptor)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 20 * PAGE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with mmap.mmap(descriptor, arena.size_bytes) as other:
        other[PAGE : PAGE + 2] = b"ok"
        assert bytes(arena.view(PAGE, 2)) == b"ok"
    os.close(descriptor)
    arena.close()


def test_a_reservation_that_does_not_fit_leaves_no_trace() -> None:
    arena = Arena(4 * PAGE, preallocate=True)
    first = arena.reserve("first", [PAGE, 2 * PAGE], ["transfer"])
    assert first is not None
    assert arena.used_bytes == 3 * PAGE
    assert arena.reserve("second", [PAGE, PAGE], ["transfer"]) is None
    assert arena.reservations() == [first]
    first.let_go("transfer")
    assert (arena.used_bytes, arena.reservations()) == (0, [])
    arena.close()
