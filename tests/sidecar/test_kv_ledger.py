"""What an engine's KV events come to: names of blocks, changes of them, and what is never named."""

from __future__ import annotations

from array import array
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.block_chain import chain_seed, chained
from prfaas.held_blocks import Cursor
from prfaas_sidecar.kv_events.endpoints import Endpoints, OutOfReachError, endpoints_of
from prfaas_sidecar.kv_events.events import UnreadableError, read_batch
from prfaas_sidecar.kv_events.ledger import Ledger
from tests.sidecar.kv_publisher import BLOCK, CLEARED, batch, removed, stored


def ledger(max_blocks: int = 1000) -> Ledger:
    """One of an engine whose cache is empty."""
    epochs = count(1)
    made = Ledger(max_blocks, lambda: f"{next(epochs):016x}")
    made.begin()
    return made


def tell(of: Ledger, *events: dict[str, Any]) -> None:
    """Events as they come from an engine."""
    of.apply(read_batch(batch(*events)))


def names(ids: list[int], salt: str = "") -> list[int]:
    """As gateways call the blocks of a prompt."""
    return chained(array("I", ids), BLOCK, chain_seed(salt))


def held(of: Ledger) -> list[int]:
    """All that is named."""
    return sorted(of.since(None).stored)


IDS = list(range(12))
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def test_blocks_are_named_as_gateways_name_them() -> None:
    one = ledger()
    tell(one, stored([A, B], IDS[:8]), stored([C], IDS[8:], parent=B))
    assert held(one) == sorted(names(IDS))
    assert one.complete
    assert one.block_tokens == BLOCK


def test_integer_hashes_are_the_end_of_the_long_ones() -> None:
    """The engine may write them either way (VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES)."""
    one = ledger()
    tell(one, stored([A], IDS[:4]), stored([B], IDS[4:8], parent=int.from_bytes(A, "big") & (2**64 - 1)))
    assert held(one) == sorted(names(IDS[:8]))


def test_a_salt_is_another_chain() -> None:
    one = ledger()
    tell(one, stored([A, B], IDS[:8], extra_keys=[["mine"], None]), stored([C], IDS[8:], parent=B))
    assert held(one) == sorted(names(IDS, "mine"))


@pytest.mark.parametrize(
    "event",
    [
        stored([A, B], IDS[:8], extra_keys=[[["picture", 3]], None]),
        stored([A, B], IDS[:8], extra_keys=[[["picture", 3], "salt"], None]),
        stored([A, B], IDS[:8], extra_keys=[["salt", "another"], None]),
        stored([A, B], IDS[:8], extra_keys=[[b"embedding"], None]),
        stored([A, B], IDS[:8], extra_keys=[]),
        stored([A, B], IDS[:8], lora_name="adapter", extra_keys=[["adapter"], ["adapter"]]),
        stored([A, B], IDS[:8], parent=C),
        stored([A, B], IDS[:7]),
        stored([A, B], [*IDS[:7], 1 << 32]),
        stored([A, B], [*IDS[:7], -1]),
        stored([A, B], IDS[:8], medium="CPU"),
        stored([A, B], IDS[:8], locality="REMOTE"),
        stored([A, B], [], block_size=0),
        stored([], []),
    ],
    ids=[
        "media", "media-and-salt", "two-texts", "embeddings", "no-salts-told", "adapter", "unknown-parent",
        "odd-length", "large-id", "negative-id", "offloaded", "elsewhere", "no-tokens", "empty",
    ],
)  # fmt: skip
def test_what_is_not_certain_is_not_named(event: dict[str, Any]) -> None:
    one = ledger()
    tell(one, event, stored([C], IDS[8:], parent=B))
    assert held(one) == []


def test_a_picture_ends_what_can_be_named() -> None:
    one = ledger()
    tell(one, stored([A, B, C], IDS, extra_keys=[["salt"], [["picture", 0]], None]))
    assert held(one) == names(IDS[:4], "salt")


def test_two_copies_are_gone_when_both_are() -> None:
    one = ledger()
    tell(one, stored([A], IDS[:4]), stored([A], IDS[:4]), removed(A))
    assert held(one) == names(IDS[:4])
    tell(one, removed(A))
    assert held(one) == []
    tell(one, removed(A))
    assert len(one) == 0


def test_only_the_group_of_whole_prefixes_counts() -> None:
    one = ledger()
    window = {"group_idx": 0, "kv_cache_spec_kind": "sliding_window"}
    full = {"group_idx": 1, "kv_cache_spec_kind": "full_attention"}
    tell(one, stored([A], IDS[:4], **full), stored([B], IDS[:4], **window), removed(A, group_idx=0))
    assert held(one) == names(IDS[:4])
    assert one.complete
    tell(one, removed(A, group_idx=1))
    assert held(one) == []


def test_of_windows_alone_nothing_is_known() -> None:
    one = ledger()
    tell(one, stored([A], IDS[:4], kv_cache_spec_kind="sliding_window"))
    assert (held(one), one.complete) == ([], False)


def test_the_oldest_are_forgotten_and_it_says_so() -> None:
    one = ledger(max_blocks=64)
    hashes = [bytes([number]) * 32 for number in range(65)]
    ids = list(range(65 * BLOCK))
    tell(one, stored(hashes, ids))
    assert held(one) == sorted(names(ids)[8:])
    assert not one.complete


def test_a_cleared_cache_is_known_again() -> None:
    one = ledger()
    one.lose()
    tell(one, stored([A], IDS[:4]))
    assert not one.complete
    before = one.cursor
    tell(one, CLEARED, stored([B], IDS[:4]))
    told = one.since(before)
    assert (told.whole, told.complete, list(told.stored)) == (True, True, names(IDS[:4]))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 5), st.integers(1, 3)),
        st.tuples(st.just("remove"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("clear"), st.just(0), st.just(0)),
        st.tuples(st.just("lose"), st.just(0), st.just(0)),
        st.tuples(st.just("hear"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_whoever_hears_changes_knows_as_much_as_who_asks_anew(steps: list[tuple[str, int, int]]) -> None:
    """Against a cache of six prompts of up to three blocks, whose first tokens tell them apart."""
    one, cache = ledger(), dict[bytes, int]()
    heard: set[int] = set()
    cursor: Cursor | None = None

    def hear() -> None:
        nonlocal cursor
        told = one.since(cursor)
        if told.whole:
            heard.clear()
        heard.difference_update(told.removed)
        heard.update(told.stored)
        cursor = told.cursor

    for what, prompt, amount in steps:
        ids = [prompt, *range(100, 100 + 3 * BLOCK - 1)]
        hashes = [bytes([prompt, block]) * 16 for block in range(3)]
        if what == "store":
            tell(one, stored(hashes[:amount], ids[: amount * BLOCK]))
            cache.update(zip(hashes[:amount], names(ids), strict=False))
        elif what == "remove":
            # One copy for each time that it was stored.
            for _ in steps:
                tell(one, removed(hashes[amount]))
            cache.pop(hashes[amount], None)
        elif what == "hear":
            hear()
        else:
            cache.clear()
            if what == "lose":
                one.lose()
            else:
                tell(one, CLEARED)
    hear()
    assert heard == set(cache.values()) == set(one.since(None).stored)


def test_changes_that_nobody_remembers_are_told_as_a_whole() -> None:
    one = ledger()
    start = one.cursor
    for _ in range(1 << 16):
        one.apply(read_batch(batch(stored([A], IDS[:4]), removed(A))))
    assert one.since(start).whole
    recent = one.cursor
    tell(one, stored([A], IDS[:4]))
    told = one.since(recent)
    assert (told.whole, list(told.stored)) == (False, names(IDS[:4]))
    assert one.since(Cursor(recent.epoch, recent.version + 9)).whole


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        batch()[:-1],
        batch({"type": "SomethingNew"}),
        batch({"type": "BlockStored", "block_hashes": "no"}),
        batch(rank=1),
        b"\x91" * 100_000,
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_batch(payload)


@pytest.mark.fuzz
@given(payload=st.binary(max_size=300))
def test_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        events = read_batch(payload)
    except UnreadableError:
        return
    ledger().apply(events)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((), None),
        (("ipc://@events", "ipc://@replay", "t"), Endpoints("ipc://@events", "ipc://@replay", "t")),
        (("tcp://*:5557", "", ""), Endpoints("tcp://127.0.0.1:5557", None, "")),
        (
            ("tcp://*:5557", "tcp://127.0.0.1:1", ""),
            Endpoints("tcp://127.0.0.1:5557", "tcp://127.0.0.1:1", ""),
        ),
        (("tcp://*:5557", "tcp://10.0.0.1:1", ""), Endpoints("tcp://127.0.0.1:5557", None, "")),
        (("tcp://[::]:5557", "", ""), Endpoints("tcp://[::1]:5557", None, "")),
    ],
)
def test_where_events_are_heard(told: tuple[str, ...], expected: Endpoints | None) -> None:
    assert endpoints_of(told) == expected


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://collector.monitoring:5557",
        "tcp://127.0.0.1:5557",
        "inproc://events",
        "tcp://*:0",
        "ipc://relative",
    ],
)
def test_events_elsewhere_are_left_alone(endpoint: str) -> None:
    with pytest.raises(OutOfReachError, match="--kv-events-config"):
        endpoints_of((endpoint, "", ""))
