"""Chained hashes of a prompt's blocks: the gateway's name for a prefix, and the sidecar's for what its engine
holds. Both must come to the same numbers.

Equal hashes mean equal token ids, and an equal cache salt, from the prompt's beginning to the end of that
block. Model and tenant are not in them: an engine has one model, and no engine is told of tenants.
"""

from __future__ import annotations

import sys
from array import array

import xxhash

from prfaas.prompt_digest import little_endian

TOKEN_BYTES = 4
_SEED = b"prfaas-blocks-v1\0"


def chain_seed(cache_salt: str = "") -> int:
    """What the first block's hash starts from. Half of a surrogate pair in the salt counts like any text."""
    return xxhash.xxh3_64_intdigest(_SEED + cache_salt.encode(errors="surrogatepass"))


def chained(ids: array[int], block_tokens: int, before: int) -> list[int]:
    """Hashes of the whole blocks among the ids; 64 bits each.

    Args:
        ids: unsigned 32-bit token ids.
        block_tokens: of one block.
        before: the hash of the block before them, or `chain_seed` at a prompt's beginning.
    """
    view = memoryview(little_endian(ids))
    step = block_tokens * TOKEN_BYTES
    digest, chain, hashes = xxhash.xxh3_64_intdigest, before, []
    for end in range(step, len(view) + 1, step):
        chain = digest(view[end - step : end], seed=chain)
        hashes.append(chain)
    return hashes


def packed(hashes: array[int]) -> bytes:
    """64-bit hashes as bytes, little-endian on every machine."""
    return _little_endian(hashes).tobytes()


def unpacked(data: bytes | memoryview) -> array[int]:
    """The inverse of `packed`.

    Raises:
        ValueError: not a whole number of hashes.
    """
    hashes = array("Q")
    hashes.frombytes(data)
    return _little_endian(hashes)


def _little_endian(hashes: array[int]) -> array[int]:
    if sys.byteorder == "big":
        hashes = array("Q", hashes)
        hashes.byteswap()
    return hashes
