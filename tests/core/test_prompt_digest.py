"""The digest of docs/contracts.md, computed here from its words."""

from __future__ import annotations

import hashlib
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.prompt_digest import prompt_digest

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=50)
SALTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(ids=IDS, salt=SALTS)
def test_is_sha256_of_prefix_salt_and_little_endian_ids(ids: list[int], salt: str) -> None:
    words = b"prfaas-prompt-v1\0" + salt.encode() + b"\0" + struct.pack(f"<{len(ids)}I", *ids)
    assert prompt_digest(ids, salt) == hashlib.sha256(words).hexdigest()


def test_known_value() -> None:
    """Pinned, so that a change of the contract cannot pass unnoticed."""
    expected = "0197b822273c846c8bdfa348da4d40a7ca05f08dd9935ce05533ba0ca93d3d11"
    assert prompt_digest([1, 2, 3], "salt") == expected
    assert prompt_digest(array("I", [1, 2, 3]), "salt") == expected


def test_an_id_over_32_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        prompt_digest([2**32])
