"""The prefix index against a model of it."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas_gateway.prefix_index import PrefixIndex, Scope, block_hashes

BLOCK = 2
SCOPE = Scope("m")
PROMPTS = st.lists(st.integers(0, 2), max_size=16)


def hashes(ids: list[int], scope: Scope = SCOPE, block: int = BLOCK) -> tuple[int, ...]:
    """Block hashes of a prompt."""
    return block_hashes(array("I", ids), block, scope)


@given(ids=st.lists(st.integers(0, 2**32 - 1), max_size=60), block=st.integers(1, 9))
def test_one_hash_per_whole_block(ids: list[int], block: int) -> None:
    assert len(hashes(ids, block=block)) == len(ids) // block


@given(left=PROMPTS, right=PROMPTS)
def test_hashes_agree_exactly_as_far_as_whole_blocks_do(left: list[int], right: list[int]) -> None:
    same = 0
    while len(left) >= (same + 1) * BLOCK and left[: (same + 1) * BLOCK] == right[: (same + 1) * BLOCK]:
        same += 1
    pairs = zip(hashes(left), hashes(right), strict=False)
    common = [one == other for one, other in pairs]
    assert common == [True] * same + [False] * (len(common) - same)


@given(
    one=st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3), st.text(max_size=3)),
    other=st.tuples(st.text(max_size=3), st.text(max_size=3), st.text(max_size=3), st.text(max_size=3)),
)
def test_scopes_share_nothing(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    same = hashes([1, 2], Scope(*one)) == hashes([1, 2], Scope(*other))
    assert same == (one == other)


class Index(RuleBasedStateMachine):
    """Remembers prompts in order of use; the index must know what the newest of them cover."""

    capacity = 12

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(self.capacity)
        self.used: list[list[int]] = []

    @rule(prompt=PROMPTS)
    def add(self, prompt: list[int]) -> None:
        """A prompt was sent to the engine."""
        self.index.add(hashes(prompt))
        self.used.append(prompt)

    @rule()
    def forget(self) -> None:
        """The engine was started anew."""
        self.index.forget()
        self.used.clear()

    @rule(prompt=PROMPTS)
    def match(self, prompt: list[int]) -> None:
        """Never claims a block that no remembered prompt had, whatever was evicted."""
        found = self.index.matched_blocks(hashes(prompt))
        known = {block for used in self.used for block in hashes(used)}
        assert set(hashes(prompt)[:found]) <= known

    @invariant()
    def bounded(self) -> None:
        """The capacity holds."""
        assert len(self.index) <= self.capacity

    @invariant()
    def newest_is_known_whole(self) -> None:
        """What was just used is found, up to the capacity."""
        if self.used:
            newest = hashes(self.used[-1])
            assert self.index.matched_blocks(newest) == min(len(newest), self.capacity)

    @invariant()
    def no_block_without_its_beginning(self) -> None:
        """Evicting starts at the ends of prompts: every block kept can be reached from a first block."""
        kept = set(self.index.blocks())
        reachable: set[int] = set()
        for used in self.used:
            chain = hashes(used)
            reachable |= set(chain[: self.index.matched_blocks(chain)])
        assert kept <= reachable


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=25)
