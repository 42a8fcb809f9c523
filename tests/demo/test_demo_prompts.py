"""The demo's prompts: long enough, different from the first words on, the same every time."""

from __future__ import annotations

import itertools

from prfaas_demo import layout
from prfaas_demo.prompts import CHARACTERS_PER_TOKEN, demo_prompts, log_book

LONGEST_CHARACTERS_PER_TOKEN = 5
SHORTEST_CHARACTERS_PER_TOKEN = 3


def common_prefix(one: str, other: str) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def test_a_title_always_gives_the_same_pages() -> None:
    assert log_book("A", 200) == log_book("A", 200)
    assert log_book("A", 200) != log_book("B", 200)
    assert log_book("A", 400).startswith(log_book("A", 200))


def test_pages_have_about_the_length_that_was_asked_for() -> None:
    length = len(log_book("A", 1000))
    assert 1000 * CHARACTERS_PER_TOKEN <= length <= 1100 * CHARACTERS_PER_TOKEN


def test_only_the_repeated_prefix_shares_a_beginning_with_another() -> None:
    sharing = [
        (one.name, other.name)
        for one, other in itertools.combinations(demo_prompts(), 2)
        if common_prefix(one.text, other.text) > layout.BLOCK_TOKENS
    ]
    assert sharing == [("longer", "repeated prefix")]


def test_lengths_lie_on_the_side_of_the_threshold_that_they_should() -> None:
    by_name = {prompt.name: prompt for prompt in demo_prompts()}
    for prompt in by_name.values():
        fewest, most = (
            len(prompt.text) / LONGEST_CHARACTERS_PER_TOKEN,
            len(prompt.text) / SHORTEST_CHARACTERS_PER_TOKEN,
        )
        if prompt.expects == "local":
            assert most < layout.THRESHOLD_TOKENS
        else:
            assert fewest > layout.THRESHOLD_TOKENS
            assert most < layout.MAX_MODEL_TOKENS
    shared = common_prefix(by_name["longer"].text, by_name["repeated prefix"].text)
    delta = len(by_name["repeated prefix"].text) - shared
    assert delta / LONGEST_CHARACTERS_PER_TOKEN > layout.THRESHOLD_TOKENS


def test_one_prompt_is_cut_after_another_was_complete_and_before_a_last_one() -> None:
    cuts = [prompt.cut for prompt in demo_prompts()]
    assert cuts.count(True) == 1
    place = cuts.index(True)
    assert any(prompt.expects == "remote" for prompt in demo_prompts()[:place])
    assert demo_prompts()[place + 1].expects == "remote"
