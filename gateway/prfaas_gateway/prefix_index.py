"""Which prompt prefixes an engine holds: as it tells itself, or as is believed from what was sent to it.

A wrong guess costs time, never correctness.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from prfaas.block_chain import chain_seed, chained
from prfaas.held_blocks import Cursor, HeldBlocks
from prfaas.scheduling import BlockIndex

_SEPARATOR = b"\0"
_AT_ONCE = 2048
"""Blocks taken from what an engine tells before others have their turn: about two milliseconds."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What must be equal for two prompts to share KV at all."""

    model: str
    adapter: str = ""
    cache_salt: str = ""
    tenant: str = ""

    def mask(self) -> int:
        """What sets this scope's hashes apart from others', as far as the chain's seed does not."""
        parts = (self.model, self.adapter, self.tenant)
        # Lengths keep ("a", "bc") apart from ("ab", "c") whatever the parts hold.
        text = _SEPARATOR.join(
            str(len(part)).encode() + _SEPARATOR + part.encode(errors="surrogatepass") for part in parts
        )
        return xxhash.xxh3_64_intdigest(text)


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """Names of a prompt's whole blocks.

    Attributes:
        sent: in its scope: what was sent for a model and a tenant.
        told: as engines tell of what they hold, which know of salts but of no tenants.
    """

    sent: tuple[int, ...] = ()
    told: tuple[int, ...] = ()


NO_BLOCKS = PromptBlocks()


def prompt_blocks(ids: array[int], block_tokens: int, scope: Scope) -> PromptBlocks:
    """One chained hash per whole block: equal hashes mean equal prompts up to the end of that block."""
    told = chained(ids, block_tokens, chain_seed(scope.cache_salt))
    mask = scope.mask()
    return PromptBlocks(tuple(chain ^ mask for chain in told), tuple(told))


class PrefixTable(BlockIndex):
    """The block hashes of all engines of a gateway.

    Args:
        has_tenants: prompts have tenants, of which engines know nothing: what an engine holds is believed
            for a tenant only where this gateway has sent it for that tenant.
    """

    def __init__(self, capacity_blocks: int, *, has_tenants: bool = False) -> None:
        super().__init__(capacity_blocks)
        self.has_tenants = has_tenants
        self.owners: dict[int, int] = {}
        """By the slot of what an engine tells: the engine's own."""
        self.complete: set[int] = set()
        """Own slots of engines that tell all."""
        self.engines = 0

    def longest(self, blocks: PromptBlocks) -> dict[int, int]:
        """The longest prefix of each engine that holds any of it, by its own slot, in blocks."""
        if not self.owners:
            return self.matches(blocks.sent)
        told = {self.owners[slot]: count for slot, count in self.matches(blocks.told).items()}
        if self.has_tenants:
            return {
                slot: kept
                for slot, count in self.matches(blocks.sent).items()
                if (kept := min(count, told.get(slot, 0)) if slot in self.complete else count)
            }
        if len(self.complete) == self.engines:
            return told
        for slot, count in self.matches(blocks.sent).items():
            if slot not in self.complete and count > told.get(slot, 0):
                told[slot] = count
        return told


class PrefixIndex:
    """Block hashes of one engine, in a table that it may share with others.

    What was sent is remembered always, but counts only while the engine does not tell all that it holds.

    Args:
        capacity_blocks: that the engine is believed to keep; the same again for what it tells.
        shared: the table; None for one of its own.
    """

    def __init__(self, capacity_blocks: int, shared: PrefixTable | None = None) -> None:
        self.shared = shared if shared is not None else PrefixTable(capacity_blocks)
        self.slot = self.shared.register(capacity_blocks)
        self.shared.engines += 1
        self.cursor: Cursor | None = None
        """How far the engine has been heard; None: from the beginning, next time."""
        self._capacity_blocks = capacity_blocks
        self._told: int | None = None
        self._losses = 0
        self._closed = False

    def __len__(self) -> int:
        """Blocks that the engine holds as far as anybody here knows."""
        if self._closed:
            return 0
        sent = self.shared.held_blocks(self.slot)
        if self._told is None:
            return sent
        told = self.shared.held_blocks(self._told)
        return told if self.tells_all else max(sent, told)

    @property
    def tells(self) -> str:
        """For people: what is known of the engine's cache comes from ``Sent``, ``Told`` or both
        (``Partly``)."""
        if self._told is None:
            return "Sent"
        return "Told" if self.tells_all else "Partly"

    @property
    def tells_all(self) -> bool:
        """Whether the engine holds nothing that it has not told of."""
        return self.slot in self.shared.complete

    def matched_blocks(self, blocks: PromptBlocks) -> int:
        """Length of the longest known prefix, in blocks. Does not count as a use."""
        return self.shared.longest(blocks).get(self.slot, 0)

    def add(self, blocks: PromptBlocks) -> None:
        """Remember a prompt that the engine has just computed or reused."""
        if self._closed:
            return
        if self._told is not None and blocks.told:
            # What is used is not forgotten first; what is not told yet will be.
            held = self.shared.matched_blocks(self._told, blocks.told)
            self.shared.add(self._told, blocks.told[:held])
        if not self.tells_all or self.shared.has_tenants:
            self.shared.add(self.slot, blocks.sent)

    def take(self, news: HeldBlocks) -> Iterator[None]:
        """What the engine tells. Works as it is iterated, a few blocks at a time, so that others have their
        turn."""
        if self._closed:
            return
        if self._told is None:
            self._told = self.shared.register(self._capacity_blocks)
            self.shared.owners[self._told] = self.slot
        if news.whole:
            self._tells(all_=False)
            self.shared.forget(self._told)
        # Only after all of it is in does it count as heard.
        self.cursor, losses = None, self._losses
        yield from self._apply(news)
        if self._losses == losses:
            self.cursor = news.cursor
            self._tells(all_=news.complete)

    def unheard(self) -> None:
        """The engine does not tell any more what it holds: what it has told may be out of date."""
        self._tells(all_=False)

    def untold(self) -> None:
        """The engine has never told, or nobody believes what it has."""
        self.cursor, self._losses = None, self._losses + 1
        self._tells(all_=False)
        if self._told is not None:
            del self.shared.owners[self._told]
            self.shared.unregister(self._told)
            self._told = None

    def forget(self) -> None:
        """The engine's cache is gone."""
        if self._closed:
            return
        self.cursor, self._losses = None, self._losses + 1
        self.shared.forget(self.slot)
        self._tells(all_=False)
        if self._told is not None:
            self.shared.forget(self._told)

    def close(self) -> None:
        """The engine is gone; a request that still holds it may add what nobody will look for."""
        if self._closed:
            return
        self.untold()
        self._closed = True
        self.shared.engines -= 1
        self.shared.unregister(self.slot)

    def _apply(self, news: HeldBlocks) -> Iterator[None]:
        for hashes, put in ((news.stored, self.shared.add), (news.removed, self.shared.discard)):
            for start in range(0, len(hashes), _AT_ONCE):
                if self._closed or self._told is None:
                    return
                put(self._told, hashes[start : start + _AT_ONCE])
                yield

    def _tells(self, *, all_: bool) -> None:
        if all_:
            self.shared.complete.add(self.slot)
        else:
            self.shared.complete.discard(self.slot)


class Matches:
    """What each engine is believed to hold of one prompt: one look at each table, when first asked."""

    __slots__ = ("_blocks", "_of")

    def __init__(self, blocks: PromptBlocks = NO_BLOCKS) -> None:
        self._blocks = blocks
        self._of: dict[int, dict[int, int]] = {}

    def of(self, index: PrefixIndex) -> int:
        """Blocks of the longest known prefix."""
        return self.by_slot(index.shared).get(index.slot, 0)

    def by_slot(self, shared: PrefixTable) -> dict[int, int]:
        """Blocks of all who hold anything, by slot."""
        if not self._blocks.sent:
            return {}
        found = self._of.get(id(shared))
        if found is None:
            found = self._of[id(shared)] = shared.longest(self._blocks)
        return found
