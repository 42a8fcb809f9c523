"""The prompt digest of docs/contracts.md: what both engines and the gateway must agree on before KV moves."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable

_PREFIX = b"prfaas-prompt-v1\0"


def prompt_digest(token_ids: Iterable[int], cache_salt: str = "") -> str:
    """SHA-256 in hexadecimal of the prompt's ids and its cache salt.

    Raises:
        OverflowError: an id does not fit in 32 unsigned bits.
        UnicodeEncodeError: the salt is not valid Unicode.
    """
    ids = token_ids if isinstance(token_ids, array) and token_ids.typecode == "I" else array("I", token_ids)
    digest = hashlib.sha256(_PREFIX + cache_salt.encode() + b"\0")
    digest.update(little_endian(ids))
    return digest.hexdigest()


def little_endian(ids: array[int]) -> bytes:
    """Bytes of an array of unsigned 32-bit ids, little-endian on every machine."""
    if sys.byteorder == "big":
        ids = array("I", ids)
        ids.byteswap()
    return ids.tobytes()
