"""Copies for an engine whose KV cache is in host memory: done when the call returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prfaas_connector.device.base import DoneTicket, Ticket

_DONE = DoneTicket()


def arena_view(arena: memoryview, offset: int, cache: Any, blocks: int) -> Any:
    """``blocks`` packed blocks of ``cache``'s shape and type at ``arena[offset:]``, without a copy."""
    elements = blocks * (cache[0].numel())
    return torch.frombuffer(arena, dtype=cache.dtype, count=elements, offset=offset).view(
        blocks, *cache.shape[1:]
    )


def clear_beyond(packed: Any, token_dimension: int, valid_tokens: int) -> None:
    """Zeroes the tokens of the last block that are not the prompt's; they hold other requests' KV.

    A block that the engine splits into kernel blocks has them as dimension 1, each with its share of the
    tokens.
    """
    last = packed[-1]
    if last.dim() == 4:
        per_kernel_block = last.shape[2]
        for index in range(last.shape[0]):
            valid = min(max(valid_tokens - index * per_kernel_block, 0), per_kernel_block)
            last[index].narrow(1, valid, per_kernel_block - valid).zero_()
        return
    last.narrow(token_dimension - 1, valid_tokens, last.shape[token_dimension - 1] - valid_tokens).zero_()


class CpuCopier:
    """torch gathers and scatters, which release the interpreter's lock."""

    def attach(self, arena: memoryview) -> None:
        """Host memory needs no preparation."""

    def gather(
        self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int, valid_tokens: int
    ) -> Ticket:
        """See `DeviceCopier.gather`."""
        packed = arena_view(arena, offset, cache, len(block_ids))
        torch.index_select(cache, 0, torch.tensor(block_ids, dtype=torch.int64), out=packed)
        if valid_tokens:
            clear_beyond(packed, token_dimension=2, valid_tokens=valid_tokens)
        return _DONE

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.scatter`."""
        packed = arena_view(arena, offset, cache, len(block_ids))
        cache.index_copy_(0, torch.tensor(block_ids, dtype=torch.int64), packed)
        return _DONE

    def order_before_next_forward(self) -> None:
        """Every copy is over when its call returns."""
