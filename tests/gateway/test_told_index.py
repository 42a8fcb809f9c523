"""The index of engines that tell what they hold, beside those that do not; and the feed that hears them."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.held_blocks import Cursor, HeldBlocks
from prfaas_gateway import blocks_feed
from prfaas_gateway.blocks_feed import follow
from prfaas_gateway.config import DecodeEngine, Health
from prfaas_gateway.control import ControlClient, ControlError, ControlTarget
from prfaas_gateway.fleet import Decoder, Member
from prfaas_gateway.prefix_index import Matches, PrefixIndex, PrefixTable, PromptBlocks, Scope, prompt_blocks
from tests.helpers import eventually_async

BLOCK = 2
EPOCH, ANOTHER = "0" * 16, "1" * 16


def prompt(first: int, blocks: int = 4, tenant: str = "", salt: str = "") -> PromptBlocks:
    """One that begins like no other."""
    ids = array("I", [first, *range(1, blocks * BLOCK)])
    return prompt_blocks(ids, BLOCK, Scope("chat", cache_salt=salt, tenant=tenant))


def news(
    stored: tuple[int, ...] = (),
    removed: tuple[int, ...] = (),
    *,
    whole: bool = False,
    complete: bool = True,
    cursor: Cursor | None = None,
) -> HeldBlocks:
    """What a sidecar tells."""
    return HeldBlocks(
        cursor or Cursor(EPOCH, 5), whole, complete, BLOCK, array("Q", stored), array("Q", removed)
    )


def take(index: PrefixIndex, told: HeldBlocks) -> None:
    """All of it at once."""
    for _ in index.take(told):
        pass


def test_an_engine_that_tells_all_is_believed_alone() -> None:
    index, sent, held = PrefixIndex(100), prompt(1), prompt(2)
    index.add(sent)
    assert (index.matched_blocks(sent), index.tells) == (4, "Sent")
    take(index, news(held.told, whole=True))
    assert (index.matched_blocks(sent), index.matched_blocks(held), len(index)) == (0, 4, 4)
    assert index.tells == "Told"
    take(index, news(removed=held.told[2:]))
    assert index.matched_blocks(held) == 2
    # What it is sent it has not stored yet; it will tell.
    index.add(sent)
    assert index.matched_blocks(sent) == 0


def test_an_engine_that_tells_in_part_may_hold_more() -> None:
    index, sent, held = PrefixIndex(100), prompt(1), prompt(2)
    take(index, news(held.told[:1], whole=True, complete=False))
    index.add(sent)
    index.add(PromptBlocks(held.sent[:3], held.told[:3]))
    assert (index.matched_blocks(sent), index.matched_blocks(held), index.tells) == (4, 3, "Partly")


def test_a_sidecar_that_falls_silent_leaves_what_it_told_and_what_is_sent() -> None:
    index, held, sent = PrefixIndex(100), prompt(2), prompt(1)
    take(index, news(held.told, whole=True))
    index.unheard()
    index.add(sent)
    assert (index.matched_blocks(held), index.matched_blocks(sent)) == (4, 4)
    assert index.cursor == Cursor(EPOCH, 5)
    index.untold()
    assert (index.matched_blocks(held), index.matched_blocks(sent), index.cursor) == (0, 4, None)
    assert index.tells == "Sent"


def test_a_salt_is_told_apart() -> None:
    index = PrefixIndex(100)
    take(index, news(prompt(1, salt="mine").told, whole=True))
    assert index.matched_blocks(prompt(1, salt="mine")) == 4
    assert index.matched_blocks(prompt(1)) == 0


def test_what_is_held_is_never_claimed_for_a_tenant_who_has_not_sent_it() -> None:
    index = PrefixIndex(100, PrefixTable(1000, has_tenants=True))
    ours, theirs, nobodys = (prompt(1, tenant=tenant) for tenant in ("we", "they", ""))
    assert ours.told == theirs.told == nobodys.told
    take(index, news(ours.told, whole=True))
    assert [index.matched_blocks(each) for each in (ours, theirs, nobodys)] == [0, 0, 0]
    index.add(ours)
    assert [index.matched_blocks(each) for each in (ours, theirs, nobodys)] == [4, 0, 0]
    # What the engine has dropped is gone for its tenant too.
    take(index, news(removed=ours.told[1:]))
    assert index.matched_blocks(ours) == 1
    take(index, news(removed=ours.told[:1]))
    assert index.matched_blocks(ours) == 0


@given(matched=st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_engines_of_all_kinds_in_one_table(matched: list[int]) -> None:
    table, wanted = PrefixTable(10_000), prompt(1)
    told, partly, sent, gone = (PrefixIndex(100, table) for _ in range(4))
    take(told, news(wanted.told[: matched[0]], whole=True))
    take(partly, news(wanted.told[: matched[1]], whole=True, complete=False))
    for index, count in ((told, 4), (partly, matched[2]), (sent, matched[3]), (gone, 4)):
        index.add(PromptBlocks(wanted.sent[:count], wanted.told[:count]))
    take(gone, news(wanted.told, whole=True))
    gone.close()
    matches = Matches(wanted)
    assert [matches.of(each) for each in (told, partly, sent, gone)] == [
        matched[0],
        max(matched[1], matched[2]),
        matched[3],
        0,
    ]


def test_what_is_used_is_not_forgotten_first() -> None:
    index, used = PrefixIndex(64), prompt(1, blocks=4)
    take(index, news(used.told, whole=True))
    for number in range(2, 60):
        take(index, news(prompt(number).told))
        index.add(used)
    assert len(index) <= 64
    assert index.matched_blocks(used) == 4


def test_a_cache_that_is_gone_while_it_is_told_is_asked_for_anew() -> None:
    index, held = PrefixIndex(10_000), prompt(1, blocks=5000)
    telling = index.take(news(held.told, whole=True))
    next(telling)
    index.forget()
    for _ in telling:
        pass
    assert index.cursor is None


@dataclass
class Sidecar:
    """Answers calls one after the other; the last one waits for ever."""

    answers: list[HeldBlocks | ControlError | None]
    asked: list[Cursor | None] = field(default_factory=list)

    async def held_blocks(
        self, target: ControlTarget, cursor: Cursor | None, wait_seconds: float
    ) -> HeldBlocks | None:
        self.asked.append(cursor)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, ControlError):
            raise answer
        return answer


def decoder() -> Decoder:
    """An engine with a sidecar."""
    config = DecodeEngine(
        name="d", url="http://192.0.2.1", control="https://192.0.2.1:7401", identity="spiffe://t/a"
    )
    return Decoder(config, Member(Health()), Member(Health()), PrefixIndex(1000))


@asynccontextmanager
async def following(sidecar: Sidecar, block_tokens: int = BLOCK) -> AsyncIterator[Decoder]:
    """The engine of a sidecar that is heard."""
    engine = decoder()
    feed = asyncio.create_task(follow(cast(ControlClient, sidecar), engine, lambda: {block_tokens}))
    try:
        yield engine
        assert not feed.done()
    finally:
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    # The test runner's own handlers write to files, which a process does not in its loop.
    monkeypatch.setattr(logging.getLogger("prfaas_gateway"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("prfaas_gateway"), "handlers", [logging.NullHandler()])
    for name in ("GAP_SECONDS", "NOT_TOLD_SECONDS"):
        monkeypatch.setattr(blocks_feed, name, 0.0)
    monkeypatch.setattr(blocks_feed, "RETRY_SECONDS", (0.0,))


async def test_the_feed_goes_on_from_where_it_was() -> None:
    held, silent = prompt(1), ControlError("PeerUnreachable", retryable=True, blames_peer=True)
    sidecar = Sidecar(
        [
            news(held.told[:2], whole=True, cursor=Cursor(EPOCH, 2)),
            silent,
            news(held.told[2:], cursor=Cursor(EPOCH, 4)),
        ]
    )
    async with following(sidecar) as engine:
        await eventually_async(lambda: len(sidecar.asked) == 4)
        assert sidecar.asked == [None, Cursor(EPOCH, 2), Cursor(EPOCH, 2), Cursor(EPOCH, 4)]
        assert engine.index.matched_blocks(held) == 4
        assert engine.index.tells == "Told"


async def test_an_engine_that_starts_again_is_told_as_a_whole() -> None:
    before, after = prompt(1), prompt(2)
    sidecar = Sidecar(
        [news(before.told, whole=True), news(after.told, whole=True, cursor=Cursor(ANOTHER, 4))]
    )
    async with following(sidecar) as engine:
        await eventually_async(lambda: len(sidecar.asked) == 3)
        assert (engine.index.matched_blocks(before), engine.index.matched_blocks(after)) == (0, 4)


async def test_blocks_of_another_size_say_nothing() -> None:
    sidecar = Sidecar([news(prompt(1).told, whole=True)])
    async with following(sidecar, block_tokens=3 * BLOCK) as engine:
        engine.index.add(prompt(2))
        await eventually_async(lambda: len(sidecar.asked) == 2)
        assert (engine.index.matched_blocks(prompt(2)), engine.index.tells) == (4, "Sent")
        assert sidecar.asked == [None, None]


async def test_an_older_sidecar_leaves_what_was_sent() -> None:
    sidecar = Sidecar([None, None])
    async with following(sidecar) as engine:
        engine.index.add(prompt(1))
        await eventually_async(lambda: len(sidecar.asked) == 3)
        assert (engine.index.matched_blocks(prompt(1)), engine.index.tells) == (4, "Sent")
