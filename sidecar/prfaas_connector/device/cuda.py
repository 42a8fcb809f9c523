"""Copies for a CUDA engine: a side stream, one event per copy, an arena pinned once.

The gather kernel packs blocks on the device and one DMA brings them to the host, so that a scattered block
table costs no small transfers. The device memory it needs for that is one layer's blocks of one chunk, from
the side stream's own pool.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

import torch

from prfaas_connector.device.base import DoneTicket, Ticket
from prfaas_connector.device.cpu import arena_view

logger = logging.getLogger("prfaas.connector")


class CudaTicket:
    """A copy whose end is a CUDA event."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def done(self) -> bool:
        """Whether the event has been reached."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Blocks the calling thread, without the interpreter's lock, until the event."""
        self._event.synchronize()


class CudaCopier:
    """One per worker rank. Calls come from the engine's own thread, except `scatter`, which has a stream of
    its own."""

    def __init__(self, device: Any) -> None:
        self._device = torch.device(device)
        self._out = torch.cuda.Stream(device=self._device)
        self._in = torch.cuda.Stream(device=self._device)
        self._unordered: Any = None
        self._pinned: memoryview | None = None

    def attach(self, arena: memoryview) -> None:
        """Pins the arena, so that copies run beside compute. Failing is reported: unpinned copies would be
        slow and block.

        The arena before it is kept mapped until here, since CUDA refuses to pin pages whose addresses it
        still holds pinned, and the next mapping may get the same addresses.
        """
        with torch.cuda.device(self._device):
            if self._pinned is not None:
                self._out.synchronize()
                self._in.synchronize()
                torch.cuda.cudart().cudaHostUnregister(_address(self._pinned))
                self._pinned = None
            status = int(torch.cuda.cudart().cudaHostRegister(_address(arena), len(arena), 0))
        if status != 0:
            raise RuntimeError(
                f"cudaHostRegister failed with status {status}: raise the lockable memory (ulimit -l)"
                f" to at least {len(arena)} bytes"
            )
        self._pinned = arena

    def detach(self, arena: memoryview) -> None:
        """Unpins the arena."""
        if self._pinned is not arena:
            return
        self._pinned = None
        with torch.cuda.device(self._device):
            self._out.synchronize()
            self._in.synchronize()
            status = int(torch.cuda.cudart().cudaHostUnregister(_address(arena)))
        if status != 0:
            logger.error("cudaHostUnregister failed with status %d", status)

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.gather`."""
        if not block_ids:
            return DoneTicket()
        written = torch.cuda.current_stream(self._device).record_event()
        packed_host = arena_view(arena, offset, cache, len(block_ids))
        with torch.cuda.stream(self._out):
            self._out.wait_event(written)
            index = torch.tensor(block_ids, dtype=torch.int64).to(self._device, non_blocking=True)
            packed = torch.index_select(cache, 0, index)
            # The cache may be overwritten once it has been packed: the DMA reads the packed copy.
            self._unordered = self._out.record_event()
            packed_host.copy_(packed, non_blocking=True)
            return CudaTicket(self._out.record_event())

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """See `DeviceCopier.scatter`."""
        if not block_ids:
            return DoneTicket()
        packed_host = arena_view(arena, offset, cache, len(block_ids))
        with torch.cuda.device(self._device), torch.cuda.stream(self._in):
            index = torch.tensor(block_ids, dtype=torch.int64).to(self._device, non_blocking=True)
            packed = packed_host.to(self._device, non_blocking=True)
            cache.index_copy_(0, index, packed)
            return CudaTicket(self._in.record_event())

    def clear(self, cache: Any, block_ids: Sequence[int]) -> None:
        """On the compute stream, so it comes before the forward pass and after what used the blocks
        before."""
        index = torch.tensor(block_ids, dtype=torch.int64).to(self._device, non_blocking=True)
        cache.index_fill_(0, index, 0)

    def order_before_next_work(self) -> None:
        """The compute stream waits, on the device, for the last packing kernel."""
        if self._unordered is not None:
            torch.cuda.current_stream(self._device).wait_event(self._unordered)
            self._unordered = None


def _address(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
