"""Makes the C library give large buffers back to the system as soon as they are freed.

glibc raises its own threshold after the first large buffer and keeps what comes later. With prompts of many
kilobytes in several threads that leaves a gateway with tens of megabytes that nobody uses.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_TRIM_BYTES = 2 << 20
_MMAP_BYTES = 512 << 10


def return_large_buffers() -> bool:
    """Fix both thresholds; False where the C library has none (musl gives memory back anyway)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
