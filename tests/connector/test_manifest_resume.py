"""The resume point against an oracle that asks of every token and group whether its KV is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hypothesis import event, given, settings
from hypothesis import strategies as st

from prfaas_connector.local_api.units import Ranges, count
from prfaas_connector.manifest import Kind, Layout, Manifest
from tests.connector.strategies import layouts, subsets


class Oracle:
    """Slow and plain: sets of tokens."""

    def __init__(
        self,
        manifest: Manifest,
        local_tokens: int,
        landed: Sequence[Ranges],
        positions: Sequence[Mapping[int, int]],
    ) -> None:
        self.manifest = manifest
        self.local_tokens = local_tokens
        self.there: list[set[int]] = []
        self.snapshots: list[set[int]] = []
        for index, group in enumerate(manifest.layout.groups):
            units = {unit for start, end in landed[index] for unit in range(start, end)}
            if group.kind is Kind.STATE:
                self.snapshots.append({positions[index][unit] for unit in units if unit in positions[index]})
                self.there.append(set())
                continue
            tokens = set(range(min(local_tokens, manifest.target_tokens)))
            for unit, block in manifest.units_between(index, 0, manifest.target_tokens + 1):
                if unit in units:
                    first = block * group.block_tokens
                    tokens |= set(range(first, min(first + group.block_tokens, manifest.target_tokens)))
            self.there.append(tokens)
        missing = [
            next(token for token in range(manifest.target_tokens + 1) if token not in there)
            for group, there in zip(manifest.layout.groups, self.there, strict=True)
            if group.kind is Kind.ATTENTION
        ]
        self.reach = min([manifest.target_tokens, *missing])
        """Up to here all attention groups have every token."""

    def possible(self, point: int) -> bool:
        """Whether the engine could compute the token at position ``point`` next."""
        if point > self.reach or any(point not in known for known in self.snapshots):
            return False
        for group, there in zip(self.manifest.layout.groups, self.there, strict=True):
            if group.kind is Kind.WINDOW:
                first = max(0, point + 1 - group.window_tokens)
                if not set(range(first, point)) <= there:
                    return False
        return True

    def allowed(self) -> Collection[int]:
        """Without state any point."""
        if self.snapshots:
            return set.intersection(*self.snapshots)
        return range(self.manifest.target_tokens + 1)

    def best(self) -> int:
        points = sorted((point for point in self.allowed() if point > self.local_tokens), reverse=True)
        return next((point for point in points if self.possible(point)), self.local_tokens)


@settings(max_examples=400)
@given(layouts(), st.integers(2, 300) | st.integers(2000, 9000), st.data())
def test_the_resume_point_is_the_best_allowed_one(
    layout: Layout, prompt_tokens: int, data: st.DataObject
) -> None:
    manifest = Manifest(layout, prompt_tokens)
    grain = max(group.block_tokens for group in layout.groups)
    local = data.draw(st.integers(0, min(60, prompt_tokens // grain)), label="local blocks") * grain
    landed, positions = [], []
    meeting_points = st.sampled_from(manifest.resume_targets) | st.integers(1, manifest.target_tokens)
    for index, group in enumerate(layout.groups):
        total = count(manifest.blocks[index])
        landed.append(data.draw(subsets(((0, total),) if total else ()), label=f"landed {index}"))
        positions.append(
            data.draw(
                st.dictionaries(st.integers(0, total - 1), meeting_points)
                if group.kind is Kind.STATE
                else st.just({}),
                label=f"positions {index}",
            )
        )
    oracle = Oracle(manifest, local, landed, positions)
    point = manifest.resume_point(local, landed, positions)
    assert point == local or oracle.possible(point)
    assert point == oracle.best()
    event("resumes" if point > local else "stays")


@given(layouts(), st.integers(2, 9000))
def test_with_everything_there_nothing_is_left_to_compute(layout: Layout, prompt_tokens: int) -> None:
    manifest = Manifest(layout, prompt_tokens)
    landed = [((0, count(blocks)),) if blocks else () for blocks in manifest.blocks]
    positions = [
        dict(enumerate(manifest.resume_targets)) if group.kind is Kind.STATE else {}
        for group in layout.groups
    ]
    assert manifest.resume_point(0, landed, positions) == manifest.target_tokens


@settings(max_examples=200)
@given(layouts(), st.integers(2, 400), st.data())
def test_more_kv_never_makes_it_worse(layout: Layout, prompt_tokens: int, data: st.DataObject) -> None:
    manifest = Manifest(layout, prompt_tokens)
    positions = [
        dict(enumerate(manifest.resume_targets)) if group.kind is Kind.STATE else {}
        for group in layout.groups
    ]
    more = [data.draw(subsets(((0, count(b)),) if b else ())) for b in manifest.blocks]
    fewer = [data.draw(subsets(ranges)) for ranges in more]
    assert manifest.resume_point(0, fewer, positions) <= manifest.resume_point(0, more, positions)
