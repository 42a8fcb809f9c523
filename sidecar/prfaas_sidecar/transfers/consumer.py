"""A transfer at the consumer: which units are wanted, under way, landed, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas_connector.local_api.units import Lane, Ranges, subtract
from prfaas_sidecar.protocol.bodies import check_lanes, units_wanted
from prfaas_sidecar.protocol.frames import DataHeader, FrameType, WireError
from prfaas_sidecar.protocol.states import PullState, next_pull_state
from prfaas_sidecar.transfers.unitmap import Packed, runs

MISSING, UNDER_WAY, LANDED = 0, 1, 2
COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Again:
    """Units that failed their check and are to be asked for once more."""

    lane: int
    first: int
    count: int


class ConsumerTransfer:
    """Accounting of one transfer's wanted units. A unit is landed only after its checksum agreed."""

    def __init__(
        self, lanes: tuple[Lane, ...], want: tuple[Ranges, ...], *, checksum_retries: int = 3
    ) -> None:
        """Raises ValueError when lanes and wanted ranges do not fit together."""
        check_lanes(lanes, want)
        self.lanes = lanes
        self.want = want
        self.pull_state = PullState.ASKED
        self.units_wanted = units_wanted(lanes, want)
        self.units_landed = 0
        self.bytes_landed = 0
        self.checksum_failures = 0
        self._retries_left = checksum_retries
        self._packed = tuple(Packed(ranges) for ranges in want)
        self._states = [bytearray(self._packed[lane.group].total) for lane in lanes]
        lanes_of_group = [0] * len(want)
        for lane in lanes:
            lanes_of_group[lane.group] += 1
        # How many lanes of the group still lack a wanted unit.
        self._lacking = [[lanes_of_group[group]] * packed.total for group, packed in enumerate(self._packed)]
        self._whole = [bytearray(packed.total) for packed in self._packed]
        self._positions: list[dict[int, int]] = [{} for _ in want]
        self._withheld: tuple[Ranges, ...] | None = None

    def sizes(self) -> tuple[int, ...]:
        """Bytes that each lane's wanted units take, packed."""
        return tuple(self._packed[lane.group].total * lane.unit_bytes for lane in self.lanes)

    def reopened(self) -> None:
        """A new pull replaces the last one: what was under way will not arrive any more."""
        for states in self._states:
            if UNDER_WAY in states:
                states[:] = states.translate(_FORGET_UNDER_WAY)
        self.pull_state = PullState.ASKED
        self._withheld = None

    def answered(self, kind: FrameType) -> None:
        """A frame of the current pull arrived.

        Raises:
            WireError: it is not allowed in this state.
        """
        self.pull_state = next_pull_state(self.pull_state, kind)

    def claim(self, header: DataHeader) -> int:
        """Byte offset within the lane's extent where a payload belongs; its units are under way then.

        Raises:
            WireError: units that were not asked for, a second time, or of another size.
        """
        self.answered(FrameType.DATA)
        lane, start = self._locate(header)
        if header.payload_bytes != header.count * lane.unit_bytes:
            raise WireError(
                f"{header.count} units of lane {header.lane} have {header.count * lane.unit_bytes} bytes, "
                f"not {header.payload_bytes}"
            )
        states = self._states[header.lane]
        if states[start : start + header.count].strip(b"\x00"):
            raise WireError(f"units of lane {header.lane} arrive a second time")
        known = self._positions[lane.group].get(header.first)
        if header.position is not None and known not in (None, header.position):
            raise WireError(f"lanes of group {lane.group} place snapshot {header.first} differently")
        states[start : start + header.count] = bytes([UNDER_WAY]) * header.count
        return start * lane.unit_bytes

    def landed(self, header: DataHeader) -> None:
        """A claimed payload passed its check."""
        lane, start = self._locate(header)
        self._states[header.lane][start : start + header.count] = bytes([LANDED]) * header.count
        if header.position is not None:
            self._positions[lane.group][header.first] = header.position
        self.units_landed += header.count
        self.bytes_landed += header.payload_bytes
        lacking, whole = self._lacking[lane.group], self._whole[lane.group]
        for unit in range(start, start + header.count):
            lacking[unit] -= 1
            if lacking[unit] == 0:
                whole[unit] = 1

    def corrupt(self, header: DataHeader) -> Again | None:
        """A claimed payload failed its check: what to ask for again, or None when that was tried often
        enough."""
        _, start = self._locate(header)
        self._states[header.lane][start : start + header.count] = bytes(header.count)
        self.checksum_failures += 1
        self._retries_left -= 1
        return Again(header.lane, header.first, header.count) if self._retries_left >= 0 else None

    def ended(self, missing: tuple[Ranges, ...]) -> None:
        """The producer has sent all it will; ``missing`` says per group what never existed.

        Raises:
            WireError: an END that is not allowed here or speaks of other groups.
        """
        self.answered(FrameType.END)
        if missing and len(missing) != len(self.want):
            raise WireError("END counts other groups than the OPEN")
        self._withheld = missing or tuple(() for _ in self.want)

    def complete(self) -> bool:
        """Whether nothing more is to come: all wanted units landed, save those that END named."""
        if self.units_landed == self.units_wanted:
            return self.pull_state not in (PullState.ASKED, PullState.WAITING)
        if self._withheld is None:
            return False
        return all(
            not subtract(packed.ranges(whole, 0), withheld)
            for packed, whole, withheld in zip(self._packed, self._whole, self._withheld, strict=True)
        )

    def landed_ranges(self) -> tuple[Ranges, ...]:
        """Units that have landed in all lanes of a group, per group."""
        return tuple(packed.ranges(whole, 1) for packed, whole in zip(self._packed, self._whole, strict=True))

    def positions(self) -> tuple[dict[int, int], ...]:
        """Prompt positions of the snapshots that have landed in all lanes of their group."""
        return tuple(
            {unit: tokens for unit, tokens in positions.items() if self._is_whole(group, unit)}
            for group, positions in enumerate(self._positions)
        )

    def missing(self) -> dict[int, Ranges]:
        """What each lane still lacks, for lanes that do not lack everything."""
        lacking: dict[int, Ranges] = {}
        for index, (lane, states) in enumerate(zip(self.lanes, self._states, strict=True)):
            if states.strip(b"\x00"):
                lacking[index] = self._packed[lane.group].ranges(states, MISSING)
        return lacking

    def _is_whole(self, group: int, unit: int) -> bool:
        position = self._packed[group].position(unit, 1)
        return position is not None and self._whole[group][position] == 1

    def _locate(self, header: DataHeader) -> tuple[Lane, int]:
        if header.lane >= len(self.lanes):
            raise WireError(f"lane {header.lane} of {len(self.lanes)}")
        lane = self.lanes[header.lane]
        start = self._packed[lane.group].position(header.first, header.count)
        if start is None:
            raise WireError(
                f"nobody asked for units {header.first}..{header.first + header.count} of lane {header.lane}"
            )
        return lane, start


_FORGET_UNDER_WAY = bytes([MISSING, MISSING, LANDED]) + bytes(253)

__all__ = ["COMPLETE", "Again", "ConsumerTransfer", "runs"]
