"""Reading vLLM's KV events (vllm.distributed.kv_events of vLLM 0.32): msgpack, one batch per engine step."""

from __future__ import annotations

from typing import Any

import msgspec

EngineHash = bytes | int
"""SHA-256 digests, or 64-bit numbers with VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Blocks of one prompt, one after the other, are in the cache now.

    Attributes:
        parent_block_hash: of the block before the first one; None: that is the prompt's first.
        token_ids: of all of them.
        extra_keys: per block, what else its hash is made of: the salt (first block), media, adapters.
    """

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    locality: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """A copy of each of these blocks has left the cache."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The cache is empty."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class _Batch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[Event]
    data_parallel_rank: int | None = None


_DECODER = msgspec.msgpack.Decoder(_Batch)


class UnreadableError(ValueError):
    """Bytes that are no batch of events, or an engine that speaks otherwise. No content in the text."""


def read_batch(payload: bytes) -> list[Event]:
    """The events of one step, in order.

    Raises:
        UnreadableError: they cannot be understood.
    """
    try:
        batch = _DECODER.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        # The library's text may quote a value.
        raise UnreadableError("the engine's KV events are not those of vLLM 0.32") from error
    if batch.data_parallel_rank not in (None, 0):
        raise UnreadableError("KV events of several data-parallel ranks cannot be told apart")
    return batch.events
