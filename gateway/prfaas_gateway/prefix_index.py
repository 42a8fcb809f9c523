"""Which prompt prefixes an engine probably still holds.

An approximation on purpose: it is filled from what the gateway sent, or from what the engine tells of its
cache where it does. A wrong guess costs time, never correctness.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from prfaas.prompt_digest import little_endian
from prfaas.scheduling import BlockIndex

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
    """Block hashes of one engine, in a table that it may share with others.

    Args:
        capacity_blocks: that the engine is believed to keep.
        shared: the table; None for one of its own.
    """

    def __init__(self, capacity_blocks: int, shared: BlockIndex | None = None) -> None:
        self.shared = shared if shared is not None else BlockIndex(capacity_blocks)
        self.slot = self.shared.register(capacity_blocks)
        self._closed = False

    def __len__(self) -> int:
        return 0 if self._closed else self.shared.held_blocks(self.slot)

    def matched_blocks(self, hashes: Sequence[int]) -> int:
        """Length of the longest known prefix, in blocks. Does not count as a use."""
        return self.shared.matched_blocks(self.slot, hashes)

    def add(self, hashes: Sequence[int]) -> None:
        """Remember a prompt that the engine has just computed or reused."""
        if not self._closed:
            self.shared.add(self.slot, hashes)

    def discard(self, hashes: Iterable[int]) -> None:
        """The engine has dropped these blocks."""
        if not self._closed:
            self.shared.discard(self.slot, hashes)

    def forget(self) -> None:
        """The engine's cache is gone."""
        if not self._closed:
            self.shared.forget(self.slot)

    def close(self) -> None:
        """The engine is gone; a request that still holds it may add what nobody will look for."""
        self._closed = True
        self.shared.unregister(self.slot)


class Matches:
    """What each engine is believed to hold of one prompt: one look at each table, when first asked."""

    __slots__ = ("_hashes", "_of")

    def __init__(self, hashes: Sequence[int]) -> None:
        self._hashes = hashes
        self._of: dict[int, dict[int, int]] = {}

    def of(self, index: PrefixIndex) -> int:
        """Blocks of the longest known prefix."""
        return self.by_slot(index.shared).get(index.slot, 0)

    def by_slot(self, shared: BlockIndex) -> dict[int, int]:
        """Blocks of all who hold anything, by slot."""
        if not self._hashes:
            return {}
        found = self._of.get(id(shared))
        if found is None:
            found = self._of[id(shared)] = shared.matches(self._hashes)
        return found
