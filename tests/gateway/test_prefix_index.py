"""Hashes of prompts' blocks, and an engine's part in the index (tests/core has the index itself)."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from prfaas_gateway.prefix_index import (
    Matches,
    PrefixIndex,
    PrefixTable,
    PromptBlocks,
    Scope,
    prompt_blocks,
)

BLOCK = 2
SCOPE = Scope("m")
PROMPTS = st.lists(st.integers(0, 2), max_size=16)


def hashes(ids: list[int], scope: Scope = SCOPE, block: int = BLOCK) -> tuple[int, ...]:
    """Block hashes of a prompt."""
    return prompt_blocks(array("I", ids), block, scope).sent


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


def test_engines_of_one_table_know_their_own() -> None:
    table = PrefixTable(1000)
    one, other = PrefixIndex(100, table), PrefixIndex(100, table)
    prompt = prompt_blocks(array("I", [1, 2, 3, 4, 5, 6]), BLOCK, SCOPE)
    one.add(prompt)
    other.add(PromptBlocks(prompt.sent[:1], prompt.told[:1]))
    matches = Matches(prompt)
    assert (matches.of(one), matches.of(other)) == (3, 1)
    assert (len(one), len(other)) == (3, 1)
    other.forget()
    assert Matches(prompt).by_slot(table) == {one.slot: 3}


def test_an_engine_that_is_gone_takes_its_part_along() -> None:
    table = PrefixTable(1000)
    gone = PrefixIndex(100, table)
    prompt = prompt_blocks(array("I", [1, 2, 3, 4]), BLOCK, SCOPE)
    gone.add(prompt)
    gone.close()
    gone.add(prompt)
    gone.forget()
    assert Matches(prompt).by_slot(table) == {}
    assert len(gone) == 0


def test_nothing_matches_no_prompt() -> None:
    assert Matches().of(PrefixIndex(10)) == 0
