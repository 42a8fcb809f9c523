"""What can go wrong with a cluster as a whole."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """A cluster can't be had, or can't go on. The text says why and what to do.

    Attributes:
        log: the log file that tells more, if there is one.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(f"{message} (log: {log})" if log else message)
        self.log = log
