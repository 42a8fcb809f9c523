"""Which units a prompt has: worked examples, and properties over generated layouts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.local_api.units import Lane, Ranges, count
from prfaas_connector.manifest import (
    MAX_RESUME_TARGETS,
    TOKENS_PER_RESUME_TARGET,
    Group,
    Kind,
    Layout,
    Manifest,
    window_blocks,
)
from tests.connector.strategies import layouts


def group(kind: Kind, block_tokens: int, window_tokens: int = 0, unit_bytes: int = 64) -> Group:
    return Group(kind, block_tokens, window_tokens, (("layer", unit_bytes),))


def attention(block_tokens: int = 16) -> Group:
    return group(Kind.ATTENTION, block_tokens)


def window(window_tokens: int, block_tokens: int = 16) -> Group:
    return group(Kind.WINDOW, block_tokens, window_tokens)


STATE = group(Kind.STATE, 16)


@pytest.mark.parametrize(
    ("groups", "prompt_tokens", "target", "resume_targets", "blocks"),
    [
        ((attention(),), 1, 1, (1,), (((0, 1),),)),
        ((attention(),), 16, 16, (16,), (((0, 1),),)),
        ((attention(),), 17, 17, (17,), (((0, 2),),)),
        ((attention(), attention(32)), 40, 40, (40,), (((0, 3),), ((0, 2),))),
        # With windows or state the last token is left to the decode engine. Of a window of 32 tokens, the
        # token at position 100 sees those at 69..99.
        ((attention(), window(32)), 101, 100, (100,), (((0, 7),), ((4, 7),))),
        # At position 95 it sees those at 64..94, so one block fewer would do for position 96.
        ((attention(), window(32)), 96, 95, (95,), (((0, 6),), ((4, 6),))),
        ((attention(), window(33)), 97, 96, (96,), (((0, 6),), ((4, 6),))),
        # A window of one token needs nothing but the token itself, which is computed anew.
        ((attention(), window(1)), 33, 32, (32,), (((0, 2),), ())),
        ((attention(), window(1000)), 101, 100, (100,), (((0, 7),), ((0, 7),))),
        ((attention(), STATE), 17, 16, (16,), (((0, 1),), ((0, 1),))),
        ((STATE,), 2, 1, (1,), (((0, 1),),)),
        # Two windows, each at a planned resume point.
        ((window(32),), 4097, 4096, (2048, 4096), (((126, 128), (254, 256)),)),
        ((window(3000),), 4097, 4096, (2048, 4096), (((0, 256),),)),
        ((STATE,), 4097, 4096, (2048, 4096), (((0, 2),),)),
        (
            (attention(), STATE),
            100_000,
            99_999,
            (24_992, 49_984, 74_992, 99_999),
            (((0, 6250),), ((0, 4),)),
        ),
    ],
)
def test_units_of_a_prompt(
    groups: tuple[Group, ...],
    prompt_tokens: int,
    target: int,
    resume_targets: tuple[int, ...],
    blocks: tuple[Ranges, ...],
) -> None:
    manifest = Manifest(Layout(groups, 1), prompt_tokens)
    assert manifest.target_tokens == target
    assert manifest.resume_targets == resume_targets
    assert manifest.blocks == blocks


@pytest.mark.parametrize(
    ("groups", "prompt_tokens"),
    [((attention(),), 0), ((attention(), STATE), 1), ((attention(), window(32)), 1)],
)
def test_a_prompt_without_kv_is_refused(groups: tuple[Group, ...], prompt_tokens: int) -> None:
    with pytest.raises(ValueError, match="no KV worth shipping"):
        Manifest(Layout(groups, 1), prompt_tokens)


def test_lanes_are_ordered_by_group_layer_and_shard() -> None:
    layout = Layout(
        (
            Group(Kind.ATTENTION, 16, 0, (("a", 64), ("b", 96))),
            Group(Kind.STATE, 16, 0, (("c", 1000),)),
        ),
        shards=2,
    )
    assert Manifest(layout, 33).lanes() == (
        Lane(0, 0, 0, 2, 64),
        Lane(0, 0, 1, 2, 64),
        Lane(0, 1, 0, 2, 96),
        Lane(0, 1, 1, 2, 96),
        Lane(1, 0, 0, 1, 1000),
        Lane(1, 0, 1, 1, 1000),
    )


@pytest.mark.parametrize(
    ("local_tokens", "wanted"),
    [
        (0, (((0, 7),), ((0, 3),), ((0, 1),))),
        (32, (((2, 7),), ((0, 3),), ((0, 1),))),
        (80, (((5, 7),), ((1, 3),), ((0, 1),))),
        (96, (((6, 7),), ((2, 3),), ((0, 1),))),
    ],
)
def test_what_a_consumer_with_a_prefix_lacks(local_tokens: int, wanted: tuple[Ranges, ...]) -> None:
    manifest = Manifest(Layout((attention(), window(32), STATE), 1), 101)
    assert manifest.want(local_tokens) == wanted


ALL = (((0, 7),), ((0, 3),))


@pytest.mark.parametrize(
    ("local_tokens", "landed", "resume"),
    [
        (0, ALL, 100),
        (0, ((), ()), 0),
        (0, (((0, 6),), ((0, 3),)), 96),  # the planned window's blocks hold this one too
        (0, (((0, 5),), ((0, 3),)), 0),
        (0, (((0, 7),), ((0, 2),)), 96),  # attention reaches further than the window
        (0, (((0, 7),), ((0, 1),)), 0),
        (0, (((1, 7),), ((0, 3),)), 0),
        (48, (((3, 7),), ((0, 3),)), 100),
        (48, (((4, 7),), ((0, 3),)), 48),
        (96, (((6, 7),), ((2, 3),)), 100),  # the window's beginning is in the consumer's own cache
        (96, (((6, 7),), ()), 96),
    ],
)
def test_resuming_with_attention_and_a_window(
    local_tokens: int, landed: tuple[Ranges, ...], resume: int
) -> None:
    manifest = Manifest(Layout((attention(), window(32)), 1), 101)
    assert manifest.resume_point(local_tokens, landed, ({}, {})) == resume


@pytest.mark.parametrize(
    ("landed", "positions", "resume"),
    [
        (((0, 4),), {0: 50}, 50),
        (((0, 3),), {0: 50}, 0),  # attention ends at 48
        (((0, 7),), {0: 50}, 50),
        (((0, 7),), {}, 0),
        ((), {0: 50}, 0),
    ],
)
def test_state_is_valid_at_exactly_its_position(
    landed: Ranges, positions: dict[int, int], resume: int
) -> None:
    manifest = Manifest(Layout((attention(), STATE), 1), 101)
    assert manifest.resume_point(0, (landed, ((0, 1),)), ({}, positions)) == resume


def test_a_position_of_a_snapshot_that_has_not_landed_does_not_count() -> None:
    manifest = Manifest(Layout((attention(), STATE), 1), 101)
    assert manifest.resume_point(0, (((0, 7),), ()), ({}, {0: 50})) == 0


def test_two_state_groups_must_agree_on_the_position() -> None:
    manifest = Manifest(Layout((attention(), STATE, STATE), 1), 4097)
    landed = (((0, 256),), ((0, 2),), ((0, 2),))
    assert manifest.resume_point(0, landed, ({}, {0: 2048, 1: 4096}, {0: 2048, 1: 4000})) == 2048
    assert manifest.resume_point(0, landed, ({}, {0: 2048}, {0: 2049})) == 0


@given(layouts(), st.integers(2, 20_000))
def test_planned_resume_points_are_few_and_aligned(layout: Layout, prompt_tokens: int) -> None:
    manifest = Manifest(layout, prompt_tokens)
    points = manifest.resume_targets
    assert points[-1] == manifest.target_tokens
    assert list(points) == sorted(set(points))
    assert len(points) <= min(MAX_RESUME_TARGETS, -(-prompt_tokens // TOKENS_PER_RESUME_TARGET))
    for point in points[:-1]:
        assert point > 0
        assert all(point % g.block_tokens == 0 for g in layout.groups if g.kind is not Kind.STATE)


@given(layouts(), st.integers(2, 20_000))
def test_units_and_blocks_are_a_bijection(layout: Layout, prompt_tokens: int) -> None:
    manifest = Manifest(layout, prompt_tokens)
    for index, blocks in enumerate(manifest.blocks):
        pairs = manifest.units_between(index, 0, prompt_tokens + 1)
        assert [unit for unit, _ in pairs] == list(range(count(blocks)))
        for unit, block in pairs:
            assert manifest.unit_of_block(index, block) == unit
        shipped = {block for _, block in pairs}
        assert len(shipped) == len(pairs)
        outside = next(block for block in range(prompt_tokens + 1) if block not in shipped)
        with pytest.raises(KeyError):
            manifest.unit_of_block(index, outside)


@given(layouts(), st.integers(2, 20_000), st.data())
def test_units_between_blocks_are_those_of_the_whole_row(
    layout: Layout, prompt_tokens: int, data: st.DataObject
) -> None:
    manifest = Manifest(layout, prompt_tokens)
    first, end = sorted(data.draw(st.tuples(st.integers(0, 600), st.integers(0, 600))))
    for index in range(len(layout.groups)):
        whole = manifest.units_between(index, 0, prompt_tokens + 1)
        assert manifest.units_between(index, first, end) == [pair for pair in whole if first <= pair[1] < end]


@given(layouts(), st.integers(2, 20_000))
def test_producer_and_consumer_agree_without_asking(layout: Layout, prompt_tokens: int) -> None:
    producer, consumer = Manifest(layout, prompt_tokens), Manifest(layout, prompt_tokens)
    assert producer.lanes() == consumer.lanes()
    assert producer.blocks == consumer.blocks
    assert producer.resume_targets == consumer.resume_targets
    assert [lane.units for lane in producer.lanes()] == [
        count(producer.blocks[lane.group]) for lane in producer.lanes()
    ]


@given(layouts(), st.integers(2, 20_000), st.integers(0, 400))
def test_a_consumer_wants_what_lies_behind_its_own_prefix(
    layout: Layout, prompt_tokens: int, grains: int
) -> None:
    manifest = Manifest(layout, prompt_tokens)
    grain = max(g.block_tokens for g in layout.groups)
    local = min(grains, prompt_tokens // grain) * grain
    for index, (wanted, g) in enumerate(zip(manifest.want(local), layout.groups, strict=True)):
        units = {unit for start, end in wanted for unit in range(start, end)}
        if g.kind is Kind.STATE:
            assert units == set(range(count(manifest.blocks[index])))
            continue
        assert units == {
            unit
            for unit, block in manifest.units_between(index, 0, prompt_tokens + 1)
            if (block + 1) * g.block_tokens > local
        }


@given(st.integers(1, 500), st.sampled_from([1, 4, 16]), st.integers(1, 2000))
def test_a_window_is_what_the_next_token_sees(window_tokens: int, block_tokens: int, tokens: int) -> None:
    start, end = window_blocks(group(Kind.WINDOW, block_tokens, window_tokens), tokens)
    # The token at position `tokens` sees itself and the window_tokens - 1 before it.
    seen = {token // block_tokens for token in range(max(0, tokens + 1 - window_tokens), tokens)}
    if seen:
        assert set(range(start, end)) == seen
    else:
        assert end - start <= 1
