"""The sidecar's arena, mapped into this process."""

from __future__ import annotations

import mmap
import os


class Arena:
    """A mapping of the memfd that came with `Welcome`.

    Stays valid after the sidecar has gone: what landed can still be read, and a copy in flight writes to
    memory that nobody reads any more. ``key`` tells two arenas apart across the engine's processes.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        """Maps ``descriptor`` and closes it.

        Raises:
            OSError, ValueError: the descriptor cannot be mapped with that size.
        """
        try:
            status = os.fstat(descriptor)
            self.key = f"{status.st_dev}:{status.st_ino}"
            self._mapping = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        self.memory = memoryview(self._mapping)
        self.size_bytes = size_bytes
