"""A transfer at the producer: what is published, and what one pull still has to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from prfaas_connector.local_api.units import Lane, Ranges, intersect, subtract
from prfaas_sidecar.protocol.bodies import Open
from prfaas_sidecar.transfers.unitmap import runs


class LayoutError(ValueError):
    """The engine or the consumer named lanes or units that this transfer does not have."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Units of one lane that go into one DATA frame."""

    lane: int
    first: int
    count: int
    position: int | None


class ProducerTransfer:
    """What the engine has published so far, in order."""

    def __init__(self, lanes: tuple[Lane, ...], ranks: Iterable[int]) -> None:
        self.lanes = lanes
        self.log: list[Chunk] = []
        self._published = [bytearray(lane.units) for lane in lanes]
        self._positions: dict[int, dict[int, int]] = {}
        self._ranks_left = set(ranks)
        self._all_complete = True

    def sizes(self) -> tuple[int, ...]:
        """Bytes of each lane, all units."""
        return tuple(lane.units * lane.unit_bytes for lane in self.lanes)

    def publish(self, lane: int, first: int, count: int, position: int | None) -> None:
        """Units are complete and will not change. Those that were published before are left out.

        Raises:
            LayoutError: no such units, or a snapshot position for several units at once.
        """
        if lane >= len(self.lanes) or first + count > self.lanes[lane].units:
            raise LayoutError(
                f"publish of units {first}..{first + count} of lane {lane}, which has no such units"
            )
        if position is not None and count != 1:
            raise LayoutError("a snapshot position belongs to exactly one unit")
        published = self._published[lane]
        for start, end in runs(published[first : first + count], 0, first):
            published[start:end] = b"\x01" * (end - start)
            self.log.append(Chunk(lane, start, end - start, position))

    def rank_done(self, rank: int, *, complete: bool) -> None:
        """A rank will publish nothing more; ``complete`` is False after an abort."""
        self._ranks_left.discard(rank)
        self._all_complete = self._all_complete and complete

    @property
    def done(self) -> bool:
        """Whether every rank has said so."""
        return not self._ranks_left

    @property
    def done_complete(self) -> bool:
        """Whether every rank is done and published everything that was wanted of it."""
        return self.done and self._all_complete

    def never_published(self, want: tuple[Ranges, ...]) -> tuple[Ranges, ...]:
        """Per group, wanted units that at least one lane does not have."""
        have = list(want)
        for lane, published in zip(self.lanes, self._published, strict=True):
            if have[lane.group]:
                have[lane.group] = intersect(have[lane.group], runs(published, 1))
        return tuple(subtract(wanted, had) for wanted, had in zip(want, have, strict=True))


class Pull:
    """What one OPEN still has to be sent, in the order of publishing."""

    def __init__(self, transfer: ProducerTransfer, request: Open) -> None:
        """Raises LayoutError when the consumer's lanes are not the producer's."""
        theirs = request.shapes()
        if theirs != transfer.lanes:
            raise LayoutError(_difference(transfer.lanes, theirs))
        self.number = request.pull
        self.want = request.want
        self._transfer = transfer
        self._lacking = [request.missing_of(lane) for lane in range(len(theirs))]
        self._cursor = 0
        self._queue: deque[Chunk] = deque()

    def again(self, lane: int, first: int, count: int) -> None:
        """Send units a second time, before anything else.

        Raises:
            LayoutError: they were not asked for, or not published yet.
        """
        asked = lane < len(self._transfer.lanes) and intersect(((first, first + count),), self._lacking[lane])
        positions = [
            chunk.position
            for chunk in self._transfer.log
            if chunk.lane == lane and chunk.first <= first < chunk.first + chunk.count
        ]
        if asked != ((first, first + count),) or not positions:
            raise LayoutError(f"units {first}..{first + count} of lane {lane} cannot be sent again")
        self._queue.appendleft(Chunk(lane, first, count, positions[0]))

    def next_chunk(self, payload_bytes: int) -> Chunk | None:
        """Units for the next DATA frame of about ``payload_bytes`` (at least one unit), or None when all is
        sent."""
        head = self._peek()
        if head is None:
            return None
        self._queue.popleft()
        most = max(1, payload_bytes // self._transfer.lanes[head.lane].unit_bytes)
        # Engines publish step by step; adjacent steps of a lane share a frame when both wait already.
        while head.count < most and head.position is None:
            following = self._peek()
            if (
                following is None
                or following.position is not None
                or (following.lane, following.first) != (head.lane, head.first + head.count)
            ):
                break
            self._queue.popleft()
            head = Chunk(head.lane, head.first, head.count + following.count, None)
        if head.count > most:
            self._queue.appendleft(Chunk(head.lane, head.first + most, head.count - most, None))
            head = Chunk(head.lane, head.first, most, None)
        return head

    @property
    def waiting(self) -> bool:
        """Whether a chunk could be sent now."""
        return self._peek() is not None

    def _peek(self) -> Chunk | None:
        log = self._transfer.log
        while not self._queue and self._cursor < len(log):
            entry = log[self._cursor]
            self._cursor += 1
            span = ((entry.first, entry.first + entry.count),)
            for start, end in intersect(span, self._lacking[entry.lane]):
                self._queue.append(Chunk(entry.lane, start, end - start, entry.position))
        return self._queue[0] if self._queue else None


def _difference(ours: tuple[Lane, ...], theirs: tuple[Lane, ...]) -> str:
    if len(ours) != len(theirs):
        return f"the producer has {len(ours)} lanes, the consumer {len(theirs)}"
    index = next(i for i, (left, right) in enumerate(zip(ours, theirs, strict=True)) if left != right)
    return f"lane {index}: the producer has {ours[index]}, the consumer {theirs[index]}"
