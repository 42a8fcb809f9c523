"""What the scheduler side tells the workers to copy in one engine step. Picklable values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prfaas_connector.local_api.messages import MessageError


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a transfer's lanes lie. ``offsets`` is indexed like `manifest.Manifest.lanes`.

    ``arena_key`` names the arena that the offsets belong to: after a sidecar's restart another process of the
    engine may already map the next one.
    """

    arena_key: str
    offsets: tuple[int, ...]

    @classmethod
    def granted(
        cls, arena_key: str, arena_bytes: int, offsets: tuple[int, ...], lane_bytes: Sequence[int]
    ) -> Memory:
        """What the sidecar granted. A worker that copied beyond the arena would end the engine.

        Raises:
            MessageError: not one extent inside the arena per lane.
        """
        if len(offsets) != len(lane_bytes):
            raise MessageError(f"accepted: {len(offsets)} extents for {len(lane_bytes)} lanes")
        for offset, size_bytes in zip(offsets, lane_bytes, strict=True):
            if offset + size_bytes > arena_bytes:
                raise MessageError(f"accepted: an extent ends after the arena's {arena_bytes} bytes")
        return cls(arena_key, offsets)


@dataclass(frozen=True, slots=True)
class GroupCopy:
    """Blocks of one KV cache group. ``places[i]`` is the unit's place in its lane's extent.

    ``tokens`` is the prompt position of a state snapshot, else None.
    """

    group: int
    units: tuple[int, ...]
    places: tuple[int, ...]
    block_ids: tuple[int, ...]
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Engine cache to arena, for one transfer in one step. ``last``: the prompt is computed, nothing follows.

    ``clears`` are (group, block id) of blocks that this step begins to fill and the prompt will end inside:
    they are zeroed before the forward pass, because the rest of such a block is some other request's KV.
    """

    transfer_id: str
    memory: Memory
    copies: tuple[GroupCopy, ...]
    clears: tuple[tuple[int, int], ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Arena to engine cache, for one request; reported finished under ``request_id`` exactly once by every
    rank."""

    request_id: str
    transfer_id: str
    memory: Memory
    copies: tuple[GroupCopy, ...]


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A load that cannot be done; every rank reports it failed and finished, and the engine computes the
    prompt itself."""

    request_id: str


@dataclass(slots=True)
class StepPlan:
    """Everything the workers do in one step. ``dropped``: transfers that ended early; nothing of them is
    written after this."""

    saves: list[Save] = field(default_factory=list)
    loads: list[Load | FailedLoad] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.saves or self.loads or self.dropped)
