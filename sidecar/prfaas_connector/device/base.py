"""What every device copier does. The ordering rules are the contract; tests/connector/test_torch_copiers.py
runs them for all copiers.

1. `gather` reads cache blocks as they are after all work submitted to the device before the call.
2. Bytes in the arena are complete once the ticket is done, not before.
3. After `order_before_next_work` returns, work submitted to the device later cannot overwrite a block that a
   gather still has to read. (The engine frees and reuses blocks at once, and zeroes some before the next
   forward pass begins; a checksum taken after an overwrite would pass, so order is the only guard.)
4. `scatter` has written the cache once its ticket is done; the caller gives the blocks to the engine only
   then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Ticket(Protocol):
    """A copy under way."""

    def done(self) -> bool:
        """Whether the copy has been carried out. Cheap; does not wait."""

    def wait(self) -> None:
        """Returns when the copy has been carried out."""


class DoneTicket:
    """The ticket of a copy that was carried out inside the call."""

    def done(self) -> bool:
        """Always true."""
        return True

    def wait(self) -> None:
        """Returns at once."""


class DeviceCopier(Protocol):
    """Copies whole blocks of one layer. ``cache`` is a tensor whose first dimension counts blocks."""

    def attach(self, arena: memoryview) -> None:
        """Prepares an arena for copies, such as pinning its pages. Called once per arena, before its first
        copy; the arena before it gets no more copies.

        Raises:
            RuntimeError: the arena cannot be used.
        """

    def detach(self, arena: memoryview) -> None:
        """Undoes `attach`. Called when no copy to or from the arena is under way."""

    def gather(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """Cache blocks to ``arena[offset:]``, packed in the order of ``block_ids``."""

    def scatter(self, cache: Any, block_ids: Sequence[int], arena: memoryview, offset: int) -> Ticket:
        """``arena[offset:]``, packed, to cache blocks in the order of ``block_ids``."""

    def clear(self, cache: Any, block_ids: Sequence[int]) -> None:
        """Zeroes cache blocks, ordered like work of the engine itself: after what was submitted before it,
        before what comes after."""

    def order_before_next_work(self) -> None:
        """Called when a step's last gather has been submitted. See rule 3."""
