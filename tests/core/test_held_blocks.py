"""The chained names of blocks, and the answer that carries them."""

from __future__ import annotations

import struct
from array import array
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.block_chain import chain_seed, chained
from prfaas.held_blocks import MAX_HASHES, Cursor, HeldBlocks, read_held_blocks

EPOCH = "0123456789abcdef"
HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=20)


def answer(
    stored: list[int], removed: list[int], *, whole: bool = False, complete: bool = True
) -> HeldBlocks:
    """An answer with these hashes."""
    return HeldBlocks(Cursor(EPOCH, 7), whole, complete, 16, array("Q", stored), array("Q", removed))


@given(ids=st.lists(st.integers(0, 2**32 - 1), max_size=40), block=st.integers(1, 7), cut=st.integers(0, 6))
def test_a_chain_can_be_taken_up_at_any_block(ids: list[int], block: int, cut: int) -> None:
    whole = chained(array("I", ids), block, chain_seed("salt"))
    cut = min(cut, len(whole))
    before = whole[cut - 1] if cut else chain_seed("salt")
    assert chained(array("I", ids[cut * block :]), block, before) == whole[cut:]


def test_names_stay_as_they_are() -> None:
    """Sidecars and gateways of different versions compare them."""
    assert chained(array("I", [1, 2, 3, 4]), 2, chain_seed("a")) == [
        5088954653738505318,
        8427249172720958335,
    ]


@given(stored=HASHES, removed=HASHES, whole=st.booleans(), complete=st.booleans())
def test_an_answer_survives_the_wire(
    stored: list[int], removed: list[int], whole: bool, complete: bool
) -> None:
    told = answer(stored, removed, whole=whole, complete=complete)
    assert read_held_blocks(told.encode()) == told


def head_of(length: int, text: bytes) -> bytes:
    """The beginning of an answer."""
    return struct.pack("<I", length) + text


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\1",
        head_of(2, b"{"),
        head_of(4097, b"{}" * 4000),
        head_of(2, b"{}"),
        head_of(2, b"[]"),
        head_of(9000, b"[" * 9000),
        answer([1], [2]).encode()[:-1],
        answer([1], [2]).encode() + b"\0",
        answer([1], []).encode().replace(b'"stored":1', b'"stored":2'),
        answer([1], []).encode().replace(b'"removed":0', b'"removed":-1'),
        answer([1], []).encode().replace(EPOCH.encode(), b"not hexadecimal!"),
        answer([], []).encode().replace(b'"to":7', b'"to":true'),
    ],
)
def test_what_is_no_answer_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_held_blocks(wrong)


def test_more_than_fits_is_refused_by_its_head() -> None:
    too_many = array("Q", bytes(8 * (MAX_HASHES + 1)))
    told = HeldBlocks(Cursor(EPOCH, 0), True, True, 16, too_many, array("Q"))
    with pytest.raises(ValueError, match="length"):
        read_held_blocks(told.encode())


@pytest.mark.fuzz
@given(data=st.binary(max_size=200))
def test_bytes_never_do_worse_than_be_refused(data: bytes) -> None:
    for candidate in (data, head_of(len(data), data)):
        with suppress(ValueError):
            assert read_held_blocks(candidate).encode()
