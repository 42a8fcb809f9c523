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


class CpuCopier:
    """torch gathers and scatters, which release the interpreter's lock."""

    def attach(self, arena: memoryview) -> None:
        """Host memory needs no preparation."""

    def detach(self, arena: memoryview) -> None:
        """Nothing to undo."""

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.gather`."""
        if not block_ids:
            return _DONE
        packed = arena_view(arena, offset, cache, len(block_ids))
        torch.index_select(cache, 0, torch.tensor(block_ids, dtype=torch.int64), out=packed)
        return _DONE

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.scatter`."""
        if not block_ids:
            return _DONE
        packed = arena_view(arena, offset, cache, len(block_ids))
        cache.index_copy_(0, torch.tensor(block_ids, dtype=torch.int64), packed)
        return _DONE

    def clear(self, cache: Any, block_ids: Sequence[int]) -> None:
        """See `DeviceCopier.clear`."""
        cache.index_fill_(0, torch.tensor(block_ids, dtype=torch.int64), 0)

    def order_before_next_work(self) -> None:
        """Every copy is over when its call returns."""
