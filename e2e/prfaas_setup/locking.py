"""One builder at a time, also between processes."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prfaas_setup.progress import SetupError, say

POLL_SECONDS = 0.5


@contextmanager
def only_one(lock_file: Path, what: str, *, timeout_seconds: float) -> Iterator[None]:
    """Hold an exclusive lock; the kernel lets go of it when the holder ends, however it ends.

    Raises:
        SetupError: another process held it for `timeout_seconds`.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a") as handle:
        deadline_seconds = time.monotonic() + timeout_seconds
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_seconds:
                    raise SetupError(
                        f"another process has been building {what} for too long ({lock_file})"
                    ) from None
                if not told:
                    say(f"waiting for another process that builds {what}")
                    told = True
                time.sleep(POLL_SECONDS)
        yield
