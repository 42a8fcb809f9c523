"""The producing half of the scheduler side: which units are complete after a step, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prfaas_connector.local_api.messages import (
    Abort,
    Accepted,
    Message,
    MessageError,
    Produce,
    Refused,
    Wanted,
)
from prfaas_connector.local_api.units import Range, Ranges, intersect, normalise, subtract
from prfaas_connector.manifest import Kind, Manifest
from prfaas_connector.request import PrefillLeg
from prfaas_connector.steps import GroupCopy, Memory, Save

NULL_BLOCK = 0
"""vLLM's placeholder block: its content means nothing."""

ANSWER_PATIENCE_SECONDS = 0.5
"""How long a request may wait for the sidecar's memory before it is computed without a transfer. The sidecar
answers in under a millisecond; this only bounds a sidecar that hangs."""


@dataclass(slots=True)
class ProducerTransfer:
    """One prompt's KV on its way out. ``memory`` is None until the sidecar has answered."""

    leg: PrefillLeg
    manifest: Manifest
    opened_at: float
    memory: Memory | None = None
    refused: Refused | None = None
    want: tuple[Ranges, ...] | None = None
    sent: list[Ranges] = field(default_factory=list)
    cached_tokens: int | None = None
    """Tokens that were in this engine's own prefix cache when the request was first scheduled."""
    finished: bool = False
    tail_cleared: list[bool] = field(default_factory=list)
    """Per group: the block in which the prompt ends was zeroed before it was filled, so it may be shipped."""

    def __post_init__(self) -> None:
        self.sent = [() for _ in self.manifest.blocks]
        self.tail_cleared = [False for _ in self.manifest.blocks]

    def announcement(self) -> Produce:
        """What the sidecar is told first."""
        return Produce(
            transfer_id=self.leg.transfer_id,
            prompt_digest=self.leg.prompt_digest,
            consumer=self.leg.consumer,
            lanes=self.manifest.lanes(),
            deadline_seconds=self.leg.deadline_seconds,
        )

    def receive(self, message: Message, arena_key: str, arena_bytes: int) -> None:
        """Takes the sidecar's answers.

        Raises:
            MessageError: the answer does not fit the transfer.
        """
        match message:
            case Accepted(offsets=offsets):
                lane_bytes = [lane.units * lane.unit_bytes for lane in self.manifest.lanes()]
                self.memory = Memory.granted(arena_key, arena_bytes, offsets, lane_bytes)
            case Refused():
                self.refused = message
            case Wanted(want=want):
                if len(want) != len(self.manifest.blocks):
                    raise MessageError(f"wanted: {len(want)} groups instead of {len(self.manifest.blocks)}")
                self.want = want

    def waiting(self, now: float) -> bool:
        """Whether the request should wait a moment longer for memory."""
        return self.memory is None and self.refused is None and now - self.opened_at < ANSWER_PATIENCE_SECONDS

    def step(
        self, computed_before: int, computed_after: int, block_ids: Sequence[Sequence[int]]
    ) -> Save | None:
        """What to copy in the step that computes tokens ``computed_before..computed_after``.

        Args:
            computed_before, computed_after: prompt positions; the latter may lie beyond the target.
            block_ids: per group, the request's block table as it is in this step.

        Returns:
            None when there is nothing to copy, or no memory to copy to.
        """
        if self.cached_tokens is None:
            self.cached_tokens = computed_before
        if self.memory is None or self.refused is not None or self.finished:
            return None
        reached = min(computed_after, self.manifest.target_tokens)
        last = reached == self.manifest.target_tokens
        clears = self._clears(computed_before, reached, block_ids)
        copies = [
            copy
            for index, group in enumerate(self.manifest.layout.groups)
            if (
                copy := self._state(index, reached, last, block_ids[index])
                if group.kind is Kind.STATE
                else self._blocks(index, reached, last, block_ids[index])
            )
            is not None
        ]
        self.finished = last
        if not copies and not clears and not last:
            return None
        return Save(self.leg.transfer_id, self.memory, tuple(copies), clears, last)

    def _tail_block(self, index: int) -> int | None:
        """The block in which the prompt ends, if it ends inside one."""
        group = self.manifest.layout.groups[index]
        if group.kind is Kind.STATE or self.manifest.target_tokens % group.block_tokens == 0:
            return None
        return self.manifest.target_tokens // group.block_tokens

    def _clears(
        self, computed_before: int, reached: int, block_ids: Sequence[Sequence[int]]
    ) -> tuple[tuple[int, int], ...]:
        clears: list[tuple[int, int]] = []
        for index, group in enumerate(self.manifest.layout.groups):
            tail = self._tail_block(index)
            if tail is None:
                continue
            first_token = tail * group.block_tokens
            if computed_before <= first_token < reached and tail < len(block_ids[index]):
                clears.append((index, block_ids[index][tail]))
                self.tail_cleared[index] = True
        return tuple(clears)

    def _blocks(self, index: int, reached: int, last: bool, block_ids: Sequence[int]) -> GroupCopy | None:
        group = self.manifest.layout.groups[index]
        end = -(-reached // group.block_tokens) if last else reached // group.block_tokens
        first = 0
        if self.want is None and not last:
            # The part from the prefix cache may be what the consumer has too: it waits until the consumer has
            # said.
            first = (self.cached_tokens or 0) // group.block_tokens
        hidden = None if self.tail_cleared[index] else self._tail_block(index)
        pairs = {
            unit: block_ids[block]
            for unit, block in self.manifest.units_between(index, first, end)
            if block < len(block_ids) and block_ids[block] != NULL_BLOCK and block != hidden
        }
        units = subtract(normalise((unit, unit + 1) for unit in pairs), self.sent[index])
        if self.want is not None:
            units = intersect(units, self.want[index])
        if not units:
            return None
        self.sent[index] = normalise((*self.sent[index], *units))
        chosen = tuple(unit for start, stop in units for unit in range(start, stop))
        return GroupCopy(
            group=index,
            units=chosen,
            places=chosen,
            block_ids=tuple(pairs[unit] for unit in chosen),
        )

    def _state(self, index: int, reached: int, last: bool, block_ids: Sequence[int]) -> GroupCopy | None:
        targets = self.manifest.resume_targets
        snapshot = len(targets) - 1 if last else sum(target <= reached for target in targets) - 1
        taken: Range | None = self.sent[index][-1] if self.sent[index] else None
        if snapshot < 0 or (taken is not None and snapshot < taken[1]) or not block_ids:
            return None
        block = block_ids[-1]
        if block == NULL_BLOCK:
            return None
        # Snapshots are taken in order and some may be skipped: everything up to this one counts as dealt
        # with.
        self.sent[index] = ((0, snapshot + 1),)
        return GroupCopy(index, (snapshot,), (snapshot,), (block,), tokens=reached)

    def abandon(self, code: str) -> Abort | None:
        """The request ended. Returns what the sidecar must be told, if it still waits for KV."""
        if self.finished or self.refused is not None:
            return None
        self.finished = True
        return Abort(self.leg.transfer_id, code)
