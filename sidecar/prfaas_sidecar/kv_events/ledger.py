"""What an engine holds, as far as its events say, in the names that gateways use (`prfaas.block_chain`).

Whoever asks gets all of it once, and then what has changed. What is not certain is left out, and `complete`
says so: a block of unknown origin (media, adapters, a block before it that nobody told of) is never named.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from itertools import islice

from prfaas.block_chain import chain_seed, chained
from prfaas.held_blocks import Cursor, HeldBlocks
from prfaas_sidecar.kv_events.events import BlockRemoved, BlockStored, EngineHash, Event

_IN_THE_ENGINE = frozenset({None, "GPU"})
"""Media from which an engine computes on; vLLM for CPUs calls its own memory that too."""
_WHOLE_PREFIXES = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds of KV cache groups in which a block stands for the whole prompt before it."""
_FORGOTTEN_AT_ONCE = 8
_CHANGES_MAX = 1 << 16
_64_BITS = (1 << 64) - 1


class Ledger:
    """Blocks of one engine, and the last changes.

    Args:
        max_blocks: the oldest are forgotten beyond it.
        new_epoch: 16 hexadecimal digits that were never used before.
    """

    def __init__(self, max_blocks: int, new_epoch: Callable[[], str]) -> None:
        self._max_blocks = max_blocks
        self._new_epoch = new_epoch
        self._begin(complete=False)

    def __len__(self) -> int:
        return len(self._chains)

    @property
    def cursor(self) -> Cursor:
        """Of the last change."""
        return Cursor(self._epoch, self._before + len(self._changes))

    def begin(self) -> None:
        """The engine's cache is empty, and all that happens from now on will be told."""
        self._begin(complete=True)

    def lose(self) -> None:
        """Nothing is known any more, and something may be held."""
        self._begin(complete=False)

    def apply(self, events: Iterable[Event]) -> None:
        """What happened in one step of the engine."""
        for event in events:
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                self._removed(event)
            else:
                self._begin(complete=True)

    def since(self, cursor: Cursor | None) -> HeldBlocks:
        """What has changed after the cursor, in sum; all that is held where that cannot be told."""
        here = self.cursor
        if cursor is None or cursor.epoch != here.epoch or not self._before <= cursor.version <= here.version:
            stored, removed, whole = array("Q", self._chains.values()), array("Q"), True
        else:
            last = dict(self._changes[cursor.version - self._before :])
            stored = array("Q", (chain for chain, is_held in last.items() if is_held))
            removed = array("Q", (chain for chain, is_held in last.items() if not is_held))
            whole = False
        return HeldBlocks(here, whole, self.complete, self.block_tokens, stored, removed)

    def _begin(self, *, complete: bool) -> None:
        self._epoch = self._new_epoch()
        self._chains: dict[int, int] = {}
        self._copies: dict[int, int] = {}
        self._changes: list[tuple[int, bool]] = []
        self._before = 0
        self._group: int | None = None
        self.block_tokens = 0
        self.complete = complete

    def _stored(self, event: BlockStored) -> None:
        if event.medium not in _IN_THE_ENGINE or event.locality == "REMOTE":
            return
        group = event.group_idx or 0
        if self._group is None and event.kv_cache_spec_kind in _WHOLE_PREFIXES:
            self._group = group
        if group != self._group:
            # Of another group of a hybrid model. Where none tells of whole prefixes, nothing can be said.
            self.complete = self.complete and self._group is not None
            return
        if event.lora_name is not None or event.lora_id is not None:
            return
        self.block_tokens = self.block_tokens or event.block_size
        whole = len(event.block_hashes) * event.block_size == len(event.token_ids)
        if event.block_size < 1 or event.block_size != self.block_tokens or not whole:
            return
        before, blocks = self._place(event)
        if before is None or not blocks:
            return
        try:
            ids = array("I", event.token_ids[: blocks * event.block_size])
        except OverflowError:
            return
        for engine_hash, chain in zip(
            event.block_hashes, chained(ids, event.block_size, before), strict=False
        ):
            self._hold(_key(engine_hash), chain)

    def _place(self, event: BlockStored) -> tuple[int | None, int]:
        """The hash before the event's first block, None where that is unknown, and how many of its blocks are
        made of nothing but tokens and a salt."""
        parent, extra = event.parent_block_hash, event.extra_keys
        if parent is None and not extra:
            # An engine that does not tell of salts: this could be anybody's.
            return None, 0
        salt, blocks = "", len(event.block_hashes)
        for number, keys in enumerate(extra or ()):
            if not keys:
                continue
            if parent is None and number == 0 and _is_salt(keys):
                salt = keys[0]
                continue
            blocks = min(blocks, number)
            break
        before = chain_seed(salt) if parent is None else self._chains.get(_key(parent))
        return before, blocks

    def _removed(self, event: BlockRemoved) -> None:
        if event.medium not in _IN_THE_ENGINE or event.locality == "REMOTE":
            return
        if (event.group_idx or 0) != self._group:
            return
        for engine_hash in event.block_hashes:
            key = _key(engine_hash)
            more = self._copies.pop(key, 0)
            if more > 1:
                self._copies[key] = more - 1
            elif not more and (chain := self._chains.pop(key, None)) is not None:
                self._note(chain, is_held=False)

    def _hold(self, key: int, chain: int) -> None:
        if key in self._chains:
            # Two requests computed it at the same time: it is gone only when both copies are.
            self._copies[key] = self._copies.get(key, 0) + 1
            return
        if len(self._chains) >= self._max_blocks:
            self._forget_oldest()
        self._chains[key] = chain
        self._note(chain, is_held=True)

    def _forget_oldest(self) -> None:
        """Many at once: looking for a dictionary's first key costs more the more were removed before it."""
        self.complete = False
        for key in list(islice(self._chains, max(1, self._max_blocks // _FORGOTTEN_AT_ONCE))):
            self._copies.pop(key, None)
            self._note(self._chains.pop(key), is_held=False)

    def _note(self, chain: int, *, is_held: bool) -> None:
        self._changes.append((chain, is_held))
        if len(self._changes) >= 2 * _CHANGES_MAX:
            del self._changes[:_CHANGES_MAX]
            self._before += _CHANGES_MAX


def _key(engine_hash: EngineHash) -> int:
    """64 bits of the engine's own name of a block, whichever way it writes them."""
    if isinstance(engine_hash, bytes):
        return int.from_bytes(engine_hash[-8:], "big")
    return engine_hash & _64_BITS


def _is_salt(keys: object) -> bool:
    return isinstance(keys, list | tuple) and len(keys) == 1 and isinstance(keys[0], str)
