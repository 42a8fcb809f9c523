"""The prefix index of all engines against a model of it: who holds what, what is forgotten, and its size."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.capacity import InvalidInputError
from prfaas.scheduling.blocks import BlockIndex

HOLDERS = 7
PROMPTS = st.lists(st.integers(0, 2), max_size=16)


def chain(ids: list[int]) -> list[int]:
    """Chained hashes over the whole range of 64 bits, as a prompt has them."""
    return [hash((17, *ids[: end + 1])) % 2**64 for end in range(len(ids))]


class Index(RuleBasedStateMachine):
    """Some engines with room enough: the index has to know exactly what each has been given."""

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex(10_000)
        self.slots = [self.index.register(10_000) for _ in range(HOLDERS)]
        self.held: dict[int, set[int]] = {slot: set() for slot in self.slots}

    @rule(number=st.integers(0, HOLDERS - 1), prompt=PROMPTS)
    def add(self, number: int, prompt: list[int]) -> None:
        self.index.add(self.slots[number], chain(prompt))
        self.held[self.slots[number]] |= set(chain(prompt))

    @rule(number=st.integers(0, HOLDERS - 1))
    def forget(self, number: int) -> None:
        self.index.forget(self.slots[number])
        self.held[self.slots[number]] = set()

    @rule(number=st.integers(0, HOLDERS - 1))
    def replace(self, number: int) -> None:
        self.index.unregister(self.slots[number])
        del self.held[self.slots[number]]
        self.slots[number] = self.index.register(10_000)
        self.held[self.slots[number]] = set()

    @rule(number=st.integers(0, HOLDERS - 1), prompt=PROMPTS, keep=st.integers(0, 16))
    def drop_the_end(self, number: int, prompt: list[int], keep: int) -> None:
        """Engines drop the ends of prompts first, and with one all that begin with it."""
        slot = self.slots[number]
        kept = set(chain(prompt)[:keep])
        gone = [key for key in self.held[slot] if key not in kept]
        self.index.discard(slot, gone)
        self.held[slot] -= set(gone)

    @rule(prompt=PROMPTS)
    def match(self, prompt: list[int]) -> None:
        hashes = chain(prompt)
        expected = {}
        for slot in self.slots:
            length = next((end for end, key in enumerate(hashes) if key not in self.held[slot]), len(hashes))
            if length:
                expected[slot] = length * 3
        assert self.index.matches(hashes, block_tokens=3) == expected

    @invariant()
    def counted(self) -> None:
        for slot in self.slots:
            assert self.index.held_blocks(slot) == len(self.held[slot])


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30)


class Bounded(RuleBasedStateMachine):
    """One engine with little room: bounded, the newest known whole, and no end without its beginning."""

    capacity = 12

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex(1000)
        self.slot = self.index.register(self.capacity)
        self.used: list[list[int]] = []

    @rule(prompt=PROMPTS)
    def add(self, prompt: list[int]) -> None:
        self.index.add(self.slot, chain(prompt))
        self.used.append(prompt)

    @rule(prompt=PROMPTS)
    def match(self, prompt: list[int]) -> None:
        found = self.index.matched_blocks(self.slot, chain(prompt))
        known = {key for used in self.used for key in chain(used)}
        assert set(chain(prompt)[:found]) <= known

    @invariant()
    def bounded(self) -> None:
        assert 0 <= self.index.held_blocks(self.slot) <= self.capacity

    @invariant()
    def newest_is_known_whole(self) -> None:
        if self.used:
            newest = chain(self.used[-1])
            assert self.index.matched_blocks(self.slot, newest) == min(len(newest), self.capacity)

    @invariant()
    def no_block_without_its_beginning(self) -> None:
        for used in self.used:
            hashes = chain(used)
            found = self.index.matched_blocks(self.slot, hashes)
            for key in hashes[found:]:
                assert self.slot not in self.index.matches([key])


TestBounded = Bounded.TestCase
TestBounded.settings = settings(max_examples=60, stateful_step_count=25)


def test_many_holders_of_one_beginning_are_all_known() -> None:
    index = BlockIndex(100_000)
    slots = [index.register(10_000) for _ in range(120)]
    common = chain([1] * 40)
    for number, slot in enumerate(slots):
        index.add(slot, common + [hash((number, end)) % 2**64 for end in range(60)])
    matches = index.matches(common)
    assert matches == dict.fromkeys(slots, 40)
    own = common + [hash((77, end)) % 2**64 for end in range(60)]
    assert index.matches(own) == {**dict.fromkeys(slots, 40), slots[77]: 100}
    index.forget(slots[3])
    assert slots[3] not in index.matches(common)


def test_beyond_its_capacity_the_least_recently_used_are_forgotten() -> None:
    index = BlockIndex(10_000)
    slot = index.register(1_000_000)
    chance = random.Random(1)
    prompts = [[chance.getrandbits(64) for _ in range(100)] for _ in range(300)]
    for prompt in prompts:
        index.add(slot, prompt)
        index.add(slot, prompts[0])
    assert len(index) <= 10_000
    assert index.matched_blocks(slot, prompts[0]) == 100
    assert index.matched_blocks(slot, prompts[1]) == 0
    assert all(index.matched_blocks(slot, prompt) == 100 for prompt in prompts[-80:])


def test_its_memory_does_not_grow_once_it_is_full() -> None:
    index = BlockIndex(20_000)
    slots = [index.register(10_000) for _ in range(4)]
    chance = random.Random(1)
    sizes = []
    for round_ in range(600):
        index.add(slots[round_ % 4], [chance.getrandbits(64) for _ in range(200)])
        if round_ % 50 == 0:
            index.forget(slots[chance.randrange(4)])
        sizes.append(index.size_bytes)
    assert max(sizes) < 20_000 * 60 + 20_000
    assert max(sizes[300:]) <= max(sizes[:300]) * 1.3


def test_restarts_without_end_do_not_use_up_the_ids() -> None:
    index = BlockIndex(1000)
    slot = index.register(1000)
    for number in range(3000):
        index.add(slot, [number * 2**40 + 1, number * 2**40 + 2])
        index.forget(slot)
    assert index.matches([2999 * 2**40 + 1]) == {}
    index.add(slot, [5, 6, 7])
    assert index.matches([5, 6, 7, 8]) == {slot: 3}


def test_ages_are_numbered_anew_before_they_run_out() -> None:
    index = BlockIndex(100)
    slot = index.register(100)
    for number in range(70_000):
        index.add(slot, [2**63 + number * 2 + 1, 2**62 + number * 2])
    assert index.held_blocks(slot) <= 100
    last = [2**63 + 69_999 * 2 + 1, 2**62 + 69_999 * 2]
    assert index.matches(last) == {slot: 2}
    assert index.matches([2**63 + 1]) == {}


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40, unique=True))
def test_any_hash_can_be_stored(hashes: list[int]) -> None:
    index = BlockIndex(1000)
    slot = index.register(100)
    index.add(slot, hashes)
    expected = {slot: len(hashes)} if hashes else {}
    assert index.matches(hashes) == expected


def test_searches_are_bounded_and_then_say_too_little() -> None:
    index = BlockIndex(2_000_000)
    hashes = chain(list(range(2000)))
    slots = [index.register(10_000) for _ in range(200)]
    for number, slot in enumerate(slots):
        index.add(slot, hashes[: 7 + number * 9])
    for slot, found in index.matches(hashes).items():
        assert 0 < found <= 7 + slots.index(slot) * 9


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_is_positive(capacity: int) -> None:
    with pytest.raises(InvalidInputError):
        BlockIndex(capacity)
    with pytest.raises(InvalidInputError):
        BlockIndex(10).register(capacity)
