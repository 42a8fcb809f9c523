"""The consuming half of the scheduler side: wait, take what has landed, load it, release it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from prfaas_connector.anytime import MAX_PATIENCE_SECONDS, Decision, Reason, View, decide
from prfaas_connector.local_api.messages import (
    Accepted,
    Consume,
    Ended,
    Message,
    MessageError,
    Progress,
    Refused,
)
from prfaas_connector.local_api.units import Ranges, count, intersect, position
from prfaas_connector.manifest import Kind, Manifest
from prfaas_connector.producer import NULL_BLOCK
from prfaas_connector.request import DecodeLeg
from prfaas_connector.steps import GroupCopy, Load, Memory


class MissingUnitsError(RuntimeError):
    """The engine allocated a block that would be hashed as loaded, but its KV is not there. The load must be
    reported failed: an unloaded block would poison the prefix cache."""


class Phase(Enum):
    """WAITING for KV, LOADING it into the engine's cache, or DONE: the rest is the engine's."""

    WAITING = "waiting"
    LOADING = "loading"
    DONE = "done"


@dataclass(slots=True)
class ConsumerTransfer:
    """One prompt's KV on its way in. Times are monotonic seconds."""

    leg: DecodeLeg
    manifest: Manifest
    want: tuple[Ranges, ...]
    opened_at: float
    max_patience_seconds: float = MAX_PATIENCE_SECONDS
    phase: Phase = Phase.WAITING
    memory: Memory | None = None
    landed: tuple[Ranges, ...] = ()
    positions: tuple[dict[int, int], ...] = ()
    landed_bytes: int = 0
    first_progress_at: float | None = None
    last_progress_at: float | None = None
    ended: str | None = None
    reason: Reason | None = None
    local_tokens: int = 0
    taken_tokens: int = 0
    decided: bool = False
    wanted_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.landed = tuple(() for _ in self.manifest.blocks)
        self.positions = tuple({} for _ in self.manifest.blocks)
        self.wanted_bytes = sum(
            count(self.want[lane.group]) * lane.unit_bytes for lane in self.manifest.lanes()
        )

    def announcement(self) -> Consume:
        """What the sidecar is asked for."""
        return Consume(
            transfer_id=self.leg.transfer_id,
            prompt_digest=self.leg.prompt_digest,
            producer_address=self.leg.producer_address,
            producer=self.leg.producer,
            server_name=self.leg.server_name,
            lanes=self.manifest.lanes(),
            want=self.want,
            deadline_seconds=self.leg.deadline_seconds,
        )

    def receive(self, message: Message, arena_key: str, arena_bytes: int, now: float) -> None:
        """Takes the sidecar's answers.

        Raises:
            MessageError: the answer does not fit the transfer.
        """
        match message:
            case Accepted(offsets=offsets):
                lane_bytes = [
                    count(self.want[lane.group]) * lane.unit_bytes for lane in self.manifest.lanes()
                ]
                self.memory = Memory.granted(arena_key, arena_bytes, offsets, lane_bytes)
            case Refused(code=code):
                self.ended = code
            case Progress():
                if not len(message.landed) == len(message.positions) == len(self.want):
                    raise MessageError(f"progress: not one entry for each of {len(self.want)} groups")
                # Units that were not asked for have no place in the extent.
                self.landed = tuple(map(intersect, message.landed, self.want))
                self.positions = message.positions
                if message.landed_bytes > self.landed_bytes:
                    self.landed_bytes = message.landed_bytes
                    if self.first_progress_at is None:
                        self.first_progress_at = now
                    self.last_progress_at = now
            case Ended(code=code):
                self.ended = code

    def matched(self, local_tokens: int, local_tokens_per_second: float | None, now: float) -> int | None:
        """Tokens beyond ``local_tokens`` that the engine should load; None: not yet; 0: compute the rest
        here.

        May be asked again until the engine has allocated the blocks; once it has decided to take, it never
        waits again.
        """
        if self.phase is not Phase.WAITING:
            return 0
        resumable = self.manifest.resume_point(local_tokens, self.landed, self.positions)
        if not self.decided:
            decision = self._decide(resumable, local_tokens, local_tokens_per_second, now)
            if decision.take is None:
                return None
            self.decided = True
            self.reason = decision.reason
        self.local_tokens = local_tokens
        return max(0, resumable - local_tokens) if self.memory is not None else 0

    def _decide(
        self, resumable: int, local_tokens: int, local_tokens_per_second: float | None, now: float
    ) -> Decision:
        return decide(
            View(
                opened_at=self.opened_at,
                deadline_at=self.opened_at + self.leg.deadline_seconds,
                first_progress_at=self.first_progress_at,
                last_progress_at=self.last_progress_at,
                landed_bytes=self.landed_bytes,
                wanted_bytes=self.wanted_bytes,
                resumable_tokens=resumable,
                local_tokens=local_tokens,
                target_tokens=self.manifest.target_tokens,
                ended=self.ended is not None,
                local_tokens_per_second=local_tokens_per_second,
                max_patience_seconds=self.max_patience_seconds,
                first_kv_seconds=self.leg.first_kv_seconds,
            ),
            now,
        )

    def load(self, request_id: str, external_tokens: int, block_ids: Sequence[Sequence[int]]) -> Load:
        """The copies that bring ``external_tokens`` beyond the local ones into the engine's blocks.

        Args:
            request_id: the engine's id of the request.
            external_tokens: what `matched` answered and the engine allocated for.
            block_ids: per group, the request's block table.

        Raises:
            MissingUnitsError: a block that the engine allocated for the load has not landed, or the memory is
            gone.
        """
        if self.memory is None:
            raise MissingUnitsError("the sidecar went away while the engine allocated")
        resume = self.local_tokens + external_tokens
        self.phase = Phase.LOADING
        self.taken_tokens = external_tokens
        copies = tuple(
            self._state(index, resume, block_ids[index])
            if group.kind is Kind.STATE
            else self._blocks(index, resume, block_ids[index])
            for index, group in enumerate(self.manifest.layout.groups)
        )
        return Load(request_id, self.leg.transfer_id, self.memory, copies)

    def _blocks(self, index: int, resume: int, block_ids: Sequence[int]) -> GroupCopy:
        block_tokens = self.manifest.layout.groups[index].block_tokens
        pairs: list[tuple[int, int]] = []
        end = -(-resume // block_tokens)
        if end > len(block_ids):
            raise MissingUnitsError(f"group {index}: the engine allocated {len(block_ids)} of {end} blocks")
        for block in range(self.local_tokens // block_tokens, end):
            if block_ids[block] == NULL_BLOCK:
                continue
            try:
                unit = self.manifest.unit_of_block(index, block)
            except KeyError as error:
                raise MissingUnitsError(f"group {index}: block {block} is never shipped") from error
            if not _contains(self.landed[index], unit):
                raise MissingUnitsError(f"group {index}: block {block} has not landed")
            pairs.append((unit, block_ids[block]))
        return GroupCopy(
            group=index,
            units=tuple(unit for unit, _ in pairs),
            places=tuple(position(self.want[index], unit) for unit, _ in pairs),
            block_ids=tuple(block for _, block in pairs),
        )

    def _state(self, index: int, resume: int, block_ids: Sequence[int]) -> GroupCopy:
        at_resume = [unit for unit, tokens in self.positions[index].items() if tokens == resume]
        if not at_resume or not block_ids:
            raise MissingUnitsError(f"group {index}: no snapshot at {resume} tokens")
        snapshot = at_resume[0]
        return GroupCopy(
            index, (snapshot,), (position(self.want[index], snapshot),), (block_ids[-1],), tokens=resume
        )


def _contains(ranges: Ranges, unit: int) -> bool:
    return any(start <= unit < end for start, end in ranges)
