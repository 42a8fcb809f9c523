"""The sidecar's arena, mapped into this process."""

from __future__ import annotations

import mmap
import os


class Arena:
    """A mapping of the memfd that came with `Welcome`.

    ``key`` is the engine's incarnation at the sidecar: offsets that were given under another key must not be
    used, even if the memory is the same.
    """

    def __init__(self, descriptor: int, size_bytes: int, key: str) -> None:
        """Maps ``descriptor`` and closes it.

        Raises:
            OSError, ValueError: the descriptor cannot be mapped with that size.
        """
        try:
            self._mapping = mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        self.memory = memoryview(self._mapping)
        self.size_bytes = size_bytes
        self.key = key
