"""What can go wrong with the demo as a whole."""

from __future__ import annotations

from pathlib import Path


class DemoError(Exception):
    """The demo cannot go on. The text says why and what to do.

    Attributes:
        log: the log file that tells more, if there is one.
        folder: where all logs of the run are, if it came so far.
    """

    folder: Path | None = None

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log
