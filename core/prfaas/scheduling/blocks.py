"""Who holds which prompt prefixes: one table for all engines, so that one look says it of all of them.

Open addressing over plain arrays, 18 bytes a place, in up to a thousand shards that grow and are cleaned one
at a time. A place has a block's hash, who holds it, and when it was used last; 0 marks an empty one. Most
blocks are held by few engines: up to four are in the place itself, more (the beginning of a prompt that
everybody has) in a side table.

It is an approximation on purpose. What is held is believed from what was sent or told; a wrong guess costs
time, never correctness. Hashes are chained: equal hashes mean equal prompts up to the end of that block, so
whoever holds a block is taken to hold all before it, and the longest prefix is found by bisection.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from prfaas.capacity.errors import require_positive

_MOST_SHARD_BITS = 10
_BLOCKS_OF_SHARD = 4096
_FEWEST_PLACES = 8
_LOWEST_LOAD = 0.5
_HIGHEST_LOAD = 0.8
_LOAD_AFTER_CLEANING = 0.75
"""Of a shard's limit: with more than that it grows, or it would be cleaned again at once."""
_ID_BITS = 15
_ID_MASK = (1 << _ID_BITS) - 1
_INLINE = 4
_WIDE = 1 << 63
_MOST_DEAD_IDS = 512
_NEVER = 1 << 30
_LAST_AGE = (1 << 16) - 1
_AGES = 64
"""In how many steps what is held grows old: a step is the unit in which it is forgotten."""
_AGES_OF_HOLDER = 16
LOOKUPS_MAX = 256
"""Of one search. Where as many engines hold as many different prefixes, the rest is rounded down."""


class _Shard:
    __slots__ = ("ages", "holders", "keys", "load", "mask", "most", "used")

    def __init__(self, places: int, load: float) -> None:
        self.load = load
        self.most = int(places * load)
        self.keys = array("Q", bytes(8 * places))
        self.holders = array("Q", bytes(8 * places))
        self.ages = array("H", bytes(2 * places))
        self.mask = places - 1
        self.used = 0

    def find(self, key: int) -> int:
        """The key's place, or where it would be put."""
        keys, mask = self.keys, self.mask
        place = key & mask
        while (found := keys[place]) and found != key:
            place = (place + 1) & mask
        return place


class _Holder:
    """What is remembered of one engine. Its id changes when it loses everything."""

    __slots__ = ("blocks", "by_age", "capacity_blocks", "id")

    def __init__(self, id_: int, capacity_blocks: int) -> None:
        self.id = id_
        self.capacity_blocks = capacity_blocks
        self.by_age: dict[int, int] = {}
        self.blocks = 0


class BlockIndex:
    """Block hashes by holder. All of it in one thread.

    Args:
        capacity_blocks: of all holders together; the least recently used are forgotten beyond it.
    """

    def __init__(self, capacity_blocks: int) -> None:
        require_positive("capacity_blocks", capacity_blocks)
        self._capacity_blocks = capacity_blocks
        bits = max(0, min(_MOST_SHARD_BITS, (capacity_blocks // _BLOCKS_OF_SHARD).bit_length()))
        self._shift = 64 - bits
        count = 1 << bits
        # Their limits differ, so that they do not all grow within one prompt.
        spread = _HIGHEST_LOAD - _LOWEST_LOAD
        self._shards = [
            _Shard(_FEWEST_PLACES, _LOWEST_LOAD + spread * (number + 0.5) / count) for number in range(count)
        ]
        self._wide: dict[int, int] = {}
        self._holders: dict[int, _Holder] = {}
        self._slot_of: list[int] = [-1]
        self._oldest: list[int] = [_NEVER]
        self._bits: list[int] = [0]
        self._alive = 0
        self._free_ids: list[int] = []
        self._dead_ids: list[int] = []
        self._next_slot = 0
        self._age = 1
        self._oldest_age = 1
        self._by_age: dict[int, int] = {1: 0}
        self._blocks = 0

    def __len__(self) -> int:
        """Blocks that somebody was believed to hold, when last looked at."""
        return self._blocks

    @property
    def size_bytes(self) -> int:
        """Of the tables; the side table by estimate."""
        places = sum(shard.mask + 1 for shard in self._shards)
        return places * 18 + len(self._shards) * 400 + len(self._wide) * 200

    def register(self, capacity_blocks: int) -> int:
        """A new holder, which is believed to keep that many blocks. Returns its slot."""
        require_positive("capacity_blocks", capacity_blocks)
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._holders[slot] = _Holder(self._new_id(slot), capacity_blocks)
        return slot

    def unregister(self, slot: int) -> None:
        """The holder is gone."""
        holder = self._holders.pop(slot, None)
        if holder is not None:
            self._bury(holder.id)

    def forget(self, slot: int) -> None:
        """The holder has lost all that it held."""
        holder = self._holders[slot]
        self._bury(holder.id)
        holder.id, holder.by_age, holder.blocks = self._new_id(slot), {}, 0

    def held_blocks(self, slot: int) -> int:
        """How many blocks a holder is believed to hold."""
        return self._holders[slot].blocks

    def add(self, slot: int, hashes: Sequence[int]) -> None:
        """A holder has just computed or used this chain, from its first block on."""
        holder = self._holders[slot]
        hashes = hashes[: min(holder.capacity_blocks, self._capacity_blocks)]
        if not hashes:
            return
        self._maybe_age(holder, len(hashes))
        id_, age, oldest_age = holder.id, self._age, self._oldest_age
        by_age, ages, shards, shift = holder.by_age, self._by_age, self._shards, self._shift
        oldest = self._oldest[id_]
        new_here = new_to_holder = moved = 0
        for key in hashes:
            shard = shards[key >> shift]
            key = key or 1
            keys, mask = shard.keys, shard.mask
            place = key & mask
            while (found := keys[place]) != key and found:
                place = (place + 1) & mask
            if not found:
                if shard.used >= shard.most:
                    self._rebuild(shard)
                    place = shard.find(key)
                shard.keys[place], shard.holders[place], shard.ages[place] = key, id_, age
                shard.used += 1
                new_here += 1
                new_to_holder += 1
                continue
            before, value = shard.ages[place], shard.holders[place]
            if before < oldest_age:
                # Forgotten, and only not yet cleaned away.
                if value & _WIDE:
                    self._wide.pop(key, None)
                shard.holders[place], shard.ages[place] = id_, age
                new_here += 1
                new_to_holder += 1
                continue
            if before != age:
                ages[before] -= 1
                moved += 1
                shard.ages[place] = age
            if value & _ID_MASK == id_ and value < _WIDE and before >= oldest:
                known = True
            else:
                shard.holders[place], known = self._with(key, value, id_, before)
            if not known:
                new_to_holder += 1
            elif before != age and by_age.get(before):
                by_age[before] -= 1
                by_age[age] = by_age.get(age, 0) + 1
        by_age[age] = by_age.get(age, 0) + new_to_holder
        holder.blocks += new_to_holder
        ages[age] = ages.get(age, 0) + new_here + moved
        self._blocks += new_here
        self._bound(holder)

    def discard(self, slot: int, hashes: Iterable[int]) -> None:
        """A holder has dropped these blocks."""
        holder = self._holders[slot]
        for key in hashes:
            shard = self._shards[key >> self._shift]
            place = shard.find(key or 1)
            if not shard.keys[place]:
                continue
            value, age = shard.holders[place], shard.ages[place]
            without = self._without(key or 1, value, holder.id)
            if without != value or value & _WIDE:
                shard.holders[place] = without
                if holder.by_age.get(age):
                    holder.by_age[age] -= 1
                    holder.blocks -= 1

    def matches(self, hashes: Sequence[int], block_tokens: int = 1) -> dict[int, int]:
        """The longest prefix of each holder that has any, by slot, in blocks times `block_tokens`."""
        if not hashes:
            return {}
        holders_of = self._holders_of
        first = holders_of(hashes[0])
        found: dict[int, int] = {}
        if not first:
            return found
        slot_of = self._slot_of
        # Ranges (held, not held, by whom): whoever is named holds block `held`, and not block `not held`.
        ranges = [(0, len(hashes), first)]
        lookups = 1
        while ranges:
            low, high, members = ranges.pop()
            if high - low == 1 or lookups >= LOOKUPS_MAX:
                length = (low + 1) * block_tokens
                while members:
                    bit = members & -members
                    found[slot_of[bit.bit_length() - 1]] = length
                    members ^= bit
                continue
            middle = (low + high) >> 1
            there = holders_of(hashes[middle]) & members
            lookups += 1
            if there:
                ranges.append((middle, high, there))
            if there != members:
                ranges.append((low, middle, members ^ there))
        return found

    def matched_blocks(self, slot: int, hashes: Sequence[int]) -> int:
        """The longest prefix of one holder, in blocks."""
        return self.matches(hashes).get(slot, 0)

    def _holders_of(self, key: int) -> int:
        """Who holds a block, as a mask of ids."""
        shard = self._shards[key >> self._shift]
        keys, mask = shard.keys, shard.mask
        key = key or 1
        place = key & mask
        while (found := keys[place]) != key:
            if not found:
                return 0
            place = (place + 1) & mask
        age = shard.ages[place]
        if age < self._oldest_age:
            return 0
        value = shard.holders[place]
        if value & _WIDE:
            return self._wide.get(key, 0) & self._alive
        oldest, bits, members = self._oldest, self._bits, 0
        while value:
            id_ = value & _ID_MASK
            if age >= oldest[id_]:
                members |= bits[id_]
            value >>= _ID_BITS
        return members

    def _with(self, key: int, value: int, id_: int, age: int) -> tuple[int, bool]:
        """The holders with one more, the last one first, and whether it was among them."""
        if value & _WIDE:
            before = self._wide.get(key, 0)
            self._wide[key] = before | self._bits[id_]
            return value, bool(before & self._bits[id_])
        ids, rest = [], value
        while rest:
            ids.append(rest & _ID_MASK)
            rest >>= _ID_BITS
        known = id_ in ids and age >= self._oldest[id_]
        ids = [each for each in ids if each != id_ and age >= self._oldest[each]]
        if len(ids) < _INLINE:
            packed = id_
            for index, each in enumerate(ids, start=1):
                packed |= each << (_ID_BITS * index)
            return packed, known
        mask = self._bits[id_]
        for each in ids:
            mask |= self._bits[each]
        self._wide[key] = mask
        return _WIDE, known

    def _without(self, key: int, value: int, id_: int) -> int:
        if value & _WIDE:
            self._wide[key] = self._wide.get(key, 0) & ~self._bits[id_]
            return value
        packed, shift = 0, 0
        while value:
            each = value & _ID_MASK
            if each != id_:
                packed |= each << shift
                shift += _ID_BITS
            value >>= _ID_BITS
        return packed

    def _maybe_age(self, holder: _Holder, coming: int) -> None:
        """Begin a new age when this one has enough in it; all blocks of one chain get the same."""
        age = self._age
        if (
            self._by_age.get(age, 0) + coming > self._capacity_blocks // _AGES
            or holder.by_age.get(age, 0) + coming > holder.capacity_blocks // _AGES_OF_HOLDER
        ) and (self._by_age.get(age) or holder.by_age.get(age)):
            if age == _LAST_AGE:
                self._renumber()
            self._age += 1

    def _bound(self, holder: _Holder) -> None:
        while holder.blocks > holder.capacity_blocks:
            oldest = min(holder.by_age)
            holder.blocks -= holder.by_age.pop(oldest)
            self._oldest[holder.id] = oldest + 1
        while self._blocks > self._capacity_blocks:
            oldest = min(self._by_age)
            self._blocks -= self._by_age.pop(oldest)
            self._oldest_age = oldest + 1

    def _rebuild(self, shard: _Shard) -> None:
        """Drop what nobody holds, and grow if there is still no room."""
        kept = []
        for place, key in enumerate(shard.keys):
            if not key:
                continue
            age, value = shard.ages[place], shard.holders[place]
            if age >= self._oldest_age:
                if value & _WIDE:
                    if self._wide.get(key, 0) & self._alive:
                        kept.append((key, value, age))
                        continue
                elif value := self._living(value, age):
                    kept.append((key, value, age))
                    continue
                # Held by nobody any more, though not old.
                self._by_age[age] -= 1
                self._blocks -= 1
            self._wide.pop(key, None)
        places = _FEWEST_PLACES
        while len(kept) + 1 > places * shard.load * _LOAD_AFTER_CLEANING:
            places *= 2
        shard.__init__(places, shard.load)  # type: ignore[misc]
        for key, value, age in kept:
            place = shard.find(key)
            shard.keys[place], shard.holders[place], shard.ages[place] = key, value, age
        shard.used = len(kept)

    def _living(self, value: int, age: int) -> int:
        packed, shift = 0, 0
        while value:
            each = value & _ID_MASK
            if age >= self._oldest[each]:
                packed |= each << shift
                shift += _ID_BITS
            value >>= _ID_BITS
        return packed

    def _new_id(self, slot: int) -> int:
        if self._free_ids:
            id_ = self._free_ids.pop()
        else:
            id_ = len(self._slot_of)
            if id_ > _ID_MASK:
                raise OverflowError(f"more than {_ID_MASK} engines in one prefix index")
            self._slot_of.append(-1)
            self._oldest.append(0)
            self._bits.append(0)
        self._slot_of[id_], self._oldest[id_], self._bits[id_] = slot, 0, 1 << id_
        self._alive |= 1 << id_
        return id_

    def _bury(self, id_: int) -> None:
        """An id that means nobody any more. It is used again once no place has it."""
        self._oldest[id_], self._bits[id_], self._slot_of[id_] = _NEVER, 0, -1
        self._alive &= ~(1 << id_)
        self._dead_ids.append(id_)
        if len(self._dead_ids) >= _MOST_DEAD_IDS:
            for shard in self._shards:
                self._rebuild(shard)
            for key in self._wide:
                self._wide[key] &= self._alive
            self._free_ids += self._dead_ids
            self._dead_ids = []

    def _renumber(self) -> None:
        """Ages begin anew at 1; once in tens of thousands of them."""
        base = self._oldest_age - 1
        for shard in self._shards:
            shard.ages = array("H", [max(0, age - base) for age in shard.ages])
        self._by_age = {age - base: count for age, count in self._by_age.items()}
        for holder in self._holders.values():
            by_age: dict[int, int] = {}
            for age, count in holder.by_age.items():
                by_age[max(0, age - base)] = by_age.get(max(0, age - base), 0) + count
            holder.by_age = by_age
            self._oldest[holder.id] = max(0, self._oldest[holder.id] - base)
        self._age -= base
        self._oldest_age = 1
