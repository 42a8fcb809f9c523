"""Which prompt prefixes an engine probably still holds: a bounded, least-recently-used set of block hashes.

An approximation on purpose: it is filled from what the gateway sent, not from what the engine kept. A wrong
guess costs time, never correctness.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from prfaas.prompt_digest import little_endian

_SEED_SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True)
class Scope:
    """What must be equal for two prompts to share KV at all."""

    model: str
    adapter: str = ""
    cache_salt: str = ""
    tenant: str = ""

    def seed(self) -> int:
        """Hash that every block hash of this scope starts from."""
        parts = (self.model, self.adapter, self.cache_salt, self.tenant)
        # Lengths keep ("a", "bc") apart from ("ab", "c") whatever the parts hold.
        text = _SEED_SEPARATOR.join(
            str(len(part)).encode() + _SEED_SEPARATOR + part.encode(errors="surrogatepass") for part in parts
        )
        return xxhash.xxh3_64_intdigest(text)


def block_hashes(ids: array[int], block_tokens: int, scope: Scope) -> tuple[int, ...]:
    """One chained hash per whole block: equal hashes mean equal prompts up to the end of that block."""
    view = memoryview(little_endian(ids))
    step = block_tokens * 4
    chain = scope.seed()
    hashes = []
    for end in range(step, len(view) + 1, step):
        chain = xxhash.xxh3_64_intdigest(view[end - step : end], seed=chain)
        hashes.append(chain)
    return tuple(hashes)


class PrefixIndex:
    """Block hashes of one engine. Holds at most ``capacity_blocks``."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity_blocks = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def matched_blocks(self, hashes: Sequence[int]) -> int:
        """Length of the longest known prefix, in blocks. Does not count as a use."""
        for count, block in enumerate(hashes):
            if block not in self._blocks:
                return count
        return len(hashes)

    def add(self, hashes: Sequence[int]) -> None:
        """Remember a prompt that the engine has just computed or reused.

        The start of a prompt counts as more recently used than its end: a prefix without its beginning is
        worth nothing, so the end is forgotten first.
        """
        kept = hashes[: self._capacity_blocks]
        for block in reversed(kept):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity_blocks:
            self._blocks.popitem(last=False)

    def forget(self) -> None:
        """The engine's cache is gone."""
        self._blocks.clear()

    def blocks(self) -> Iterable[int]:
        """What is remembered, least recently used first."""
        return tuple(self._blocks)
