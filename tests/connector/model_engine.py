"""A model of an engine's KV cache: what every slot of every block holds. Slow and plain.

Shared by the state machines of the producing and the consuming half.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prfaas_connector.manifest import Kind, Layout

NULL_BLOCK = 0
JUNK = "another request's KV"
ZERO = "zero"

Slot = int | str
"""The prompt position whose KV it holds, `JUNK` or `ZERO`."""


@dataclass
class ModelEngine:
    """One request in an engine with an endless supply of dirty blocks.

    ``tables`` holds the request's block ids per group; ``slots`` what each block holds, and for a state
    group, in its single slot, the position after which the state was taken.
    """

    layout: Layout
    tables: list[list[int]] = field(default_factory=list)
    slots: dict[tuple[int, int], list[Slot]] = field(default_factory=dict)
    computed: int = 0
    _next_block: int = 1

    def __post_init__(self) -> None:
        self.tables = [[] for _ in self.layout.groups]

    def fresh(self, group: int) -> int:
        """A block that was someone else's before."""
        block_id, self._next_block = self._next_block, self._next_block + 1
        state = self.layout.groups[group].kind is Kind.STATE
        self.slots[group, block_id] = [JUNK] * (1 if state else self.layout.groups[group].block_tokens)
        return block_id

    def admit(self, hit: int) -> None:
        """The request is scheduled for the first time, or again, with ``hit`` tokens in the prefix cache."""
        self.computed = hit
        self.tables = [[] for _ in self.layout.groups]
        for index, group in enumerate(self.layout.groups):
            if group.kind is Kind.STATE:
                if hit:
                    self.tables[index] = [self.fresh(index)]
                    self.slots[index, self.tables[index][0]] = [hit]
                continue
            for block in range(hit // group.block_tokens):
                block_id = self.fresh(index)
                first = block * group.block_tokens
                self.slots[index, block_id] = list(range(first, first + group.block_tokens))
                self.tables[index].append(block_id)
        self.free_behind_windows()

    def free_behind_windows(self) -> None:
        """Blocks that no token to come will see become the null block."""
        for index, group in enumerate(self.layout.groups):
            if group.kind is Kind.WINDOW:
                unseen = max(0, self.computed - group.window_tokens + 1) // group.block_tokens
                for block in range(min(unseen, len(self.tables[index]))):
                    self.tables[index][block] = NULL_BLOCK

    def allocate(self, end: int, new_state_block: bool = False) -> None:
        """Blocks for the tokens before ``end``."""
        for index, group in enumerate(self.layout.groups):
            table = self.tables[index]
            if group.kind is Kind.STATE:
                if new_state_block:
                    # As the engine does when it keeps states at block boundaries: the table is positional.
                    table[:] = [NULL_BLOCK] * max(1, len(table))
                if new_state_block or not table:
                    table.append(self.fresh(index))
                continue
            while len(table) < -(-end // group.block_tokens):
                table.append(self.fresh(index))

    def compute(self, end: int) -> None:
        """The forward pass over the tokens ``computed..end``."""
        for index, group in enumerate(self.layout.groups):
            if group.kind is Kind.STATE:
                self.slots[index, self.tables[index][-1]] = [end]
                continue
            for token in range(self.computed, end):
                block_id = self.tables[index][token // group.block_tokens]
                self.slots[index, block_id][token % group.block_tokens] = token
        self.computed = end
