"""Which units a prompt's KV has, and from where a consumer can resume.

Everything follows from the layout and the prompt's length, so the producer and the consumer agree without
asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from prfaas_connector.local_api.units import Lane, Range, Ranges, count, intersect, normalise, position

MAX_RESUME_TARGETS = 4
"""Planned resume points of a prompt with sliding-window or state groups. Each costs a full copy of the state
on the wire (174 MiB for the paper's 1T model), so few: a cut link then costs at most about a quarter of the
prompt more."""

TOKENS_PER_RESUME_TARGET = 2048
"""A prompt gets one planned resume point per this many tokens, up to the maximum."""


class Kind(Enum):
    """How a KV cache group grows with the prompt."""

    ATTENTION = "attention"  # every block is needed
    WINDOW = "window"  # only the last window_tokens before the resume point are needed
    STATE = "state"  # one snapshot, valid at exactly one token position


@dataclass(frozen=True, slots=True)
class Group:
    """One KV cache group. ``layers`` holds the bytes of one unit per layer and shard, by layer name, in
    order."""

    kind: Kind
    block_tokens: int
    window_tokens: int
    layers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All groups of a model on one engine. ``shards`` is the number of distinct KV shards (TP ranks /
    replicas)."""

    groups: tuple[Group, ...]
    shards: int

    @property
    def has_state(self) -> bool:
        """Whether any group is recurrent state."""
        return any(group.kind is Kind.STATE for group in self.groups)

    @property
    def least_prompt_tokens(self) -> int:
        """A shorter prompt has no KV worth shipping."""
        return 2 if self.leaves_last_token else 1

    @property
    def leaves_last_token(self) -> bool:
        """Whether KV is shipped for all but the last token. The decode engine computes that one itself in any
        case. It can do so behind a whole prompt's attention KV, but not behind a window or a state: those
        must be the ones before that token."""
        return any(group.kind is not Kind.ATTENTION for group in self.groups)


class Manifest:
    """The units of one prompt.

    ``target_tokens`` is how far KV is shipped: the whole prompt, or one token less
    (`Layout.leaves_last_token`).
    """

    def __init__(self, layout: Layout, prompt_tokens: int) -> None:
        self.layout = layout
        self.target_tokens = prompt_tokens - 1 if layout.leaves_last_token else prompt_tokens
        if prompt_tokens < layout.least_prompt_tokens:
            raise ValueError(f"a prompt of {prompt_tokens} tokens has no KV worth shipping")
        self.resume_targets = _resume_targets(layout, self.target_tokens)
        self.blocks: tuple[Ranges, ...] = tuple(self._shipped_blocks(group) for group in layout.groups)
        """Per group: the block numbers (or snapshot numbers) that exist; their order gives the unit
        numbers."""

    def _shipped_blocks(self, group: Group) -> Ranges:
        if group.kind is Kind.STATE:
            return ((0, len(self.resume_targets)),)
        if group.kind is Kind.ATTENTION:
            return ((0, -(-self.target_tokens // group.block_tokens)),)
        return normalise(window_blocks(group, target) for target in self.resume_targets)

    def lanes(self) -> tuple[Lane, ...]:
        """Every lane, ordered by group, layer, shard."""
        return tuple(
            Lane(index, layer, shard, count(self.blocks[index]), unit_bytes)
            for index, group in enumerate(self.layout.groups)
            for layer, (_, unit_bytes) in enumerate(group.layers)
            for shard in range(self.layout.shards)
        )

    def unit_of_block(self, group: int, block: int) -> int:
        """Unit number of a block that is shipped; KeyError otherwise."""
        return position(self.blocks[group], block)

    def units_between(self, group: int, first_block: int, end_block: int) -> list[tuple[int, int]]:
        """(unit, block) of the shipped blocks in ``first_block..end_block``, in order."""
        pairs: list[tuple[int, int]] = []
        before = 0
        for start, end in self.blocks[group]:
            pairs.extend(
                (before + block - start, block)
                for block in range(max(start, first_block), min(end, end_block))
            )
            before += end - start
        return pairs

    def want(self, local_tokens: int) -> tuple[Ranges, ...]:
        """Units that a consumer lacks whose own cache holds the first ``local_tokens``; state is always
        wanted whole."""
        wanted: list[Ranges] = []
        for index, group in enumerate(self.layout.groups):
            total = count(self.blocks[index])
            if group.kind is Kind.STATE:
                wanted.append(((0, total),))
                continue
            missing = self.units_between(index, local_tokens // group.block_tokens, 1 << 40)
            wanted.append(((missing[0][0], total),) if missing else ())
        return tuple(wanted)

    def resume_point(
        self, local_tokens: int, landed: Sequence[Ranges], positions: Sequence[Mapping[int, int]]
    ) -> int:
        """The largest token count from which the engine can go on, at least ``local_tokens``.

        Args:
            local_tokens: length of the prefix in the consumer's own cache, a multiple of every block size.
            landed: per group, the units that landed in all of its lanes.
            positions: per state group, snapshot number -> prompt position.
        """
        limit = min(
            (
                self._attention_limit(index, local_tokens, landed[index])
                for index, group in enumerate(self.layout.groups)
                if group.kind is Kind.ATTENTION
            ),
            default=self.target_tokens,
        )
        states = [
            {positions[index][unit] for unit in _members(landed[index]) if unit in positions[index]}
            for index, group in enumerate(self.layout.groups)
            if group.kind is Kind.STATE
        ]
        windows = [
            (group, self._landed_blocks(index, landed[index]))
            for index, group in enumerate(self.layout.groups)
            if group.kind is Kind.WINDOW
        ]
        # A window allows stretches of points, each up to where consecutive landed blocks end.
        ends = {
            min(end * group.block_tokens, self.target_tokens)
            for group, blocks in windows
            for _, end in blocks
        }
        candidates = set.intersection(*states) if states else {limit, *ends}
        for candidate in sorted(candidates, reverse=True):
            if local_tokens < candidate <= limit and all(
                _window_landed(group, blocks, candidate, local_tokens) for group, blocks in windows
            ):
                return candidate
        return local_tokens

    def _attention_limit(self, index: int, local_tokens: int, landed: Ranges) -> int:
        block_tokens = self.layout.groups[index].block_tokens
        first = local_tokens // block_tokens
        for start, end in landed:
            if start <= first < end:
                return min(end * block_tokens, self.target_tokens)
        return min(local_tokens, self.target_tokens)

    def _landed_blocks(self, index: int, landed: Ranges) -> Ranges:
        found: list[Range] = []
        before = 0
        for start, end in self.blocks[index]:
            for first, stop in intersect(landed, ((before, before + end - start),)):
                found.append((start + first - before, start + stop - before))
            before += end - start
        return normalise(found)


def window_blocks(group: Group, tokens: int) -> Range:
    """Blocks that hold the window before position ``tokens``: what computing the next token needs to see."""
    first_token = max(0, tokens - group.window_tokens + 1)
    return (first_token // group.block_tokens, -(-tokens // group.block_tokens))


def _resume_targets(layout: Layout, target_tokens: int) -> tuple[int, ...]:
    grains = [group.block_tokens for group in layout.groups if group.kind is not Kind.STATE]
    if all(group.kind is Kind.ATTENTION for group in layout.groups):
        return (target_tokens,)
    wanted = min(MAX_RESUME_TARGETS, max(1, -(-target_tokens // TOKENS_PER_RESUME_TARGET)))
    grain = max(grains, default=1)
    planned = {target_tokens * step // wanted // grain * grain for step in range(1, wanted)}
    return (*sorted(point for point in planned if 0 < point < target_tokens), target_tokens)


def _window_landed(group: Group, landed_blocks: Ranges, tokens: int, local_tokens: int) -> bool:
    start, end = window_blocks(group, tokens)
    start = max(start, local_tokens // group.block_tokens)
    return start >= end or any(first <= start and end <= stop for first, stop in landed_blocks)


def _members(ranges: Ranges) -> list[int]:
    return [unit for start, end in ranges for unit in range(start, end)]
