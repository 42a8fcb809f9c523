"""The prefix cache of a cluster: which blocks it holds, the least recently used leaving first."""

from __future__ import annotations

from collections import OrderedDict

from prfaas.simulator.request import BLOCK_TOKENS


class PrefixCache:
    """Blocks of a bounded number. A prompt's later blocks leave before its earlier ones.

    Args:
        tokens_max: what fits; 0 holds nothing.
    """

    __slots__ = ("_blocks", "_blocks_max")

    def __init__(self, tokens_max: int) -> None:
        self._blocks_max = tokens_max // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def held_tokens(self, blocks: tuple[int, ...]) -> int:
        """How many tokens of a prompt with these blocks are held, from its beginning."""
        held = self._blocks
        if not blocks or not held or blocks[0] not in held:
            return 0
        # Later blocks leave first, so that what is held of a prompt is a beginning of it.
        low, high = 1, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            if blocks[middle - 1] in held:
                low = middle
            else:
                high = middle - 1
        return low * BLOCK_TOKENS

    def hold(self, blocks: tuple[int, ...]) -> None:
        """These were just used, the first one last."""
        if not self._blocks_max:
            return
        held = self._blocks
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
        while len(held) > self._blocks_max:
            held.popitem(last=False)

    def clear(self) -> None:
        """Everything is lost, as when a cluster is."""
        self._blocks.clear()
