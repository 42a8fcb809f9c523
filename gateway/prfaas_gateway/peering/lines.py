"""Bytes into lines, with a bound: no peer decides how much memory the gateway uses."""

from __future__ import annotations


class LineTooLongError(ValueError):
    """A peer sent more than the bound without an end of line."""


class Lines:
    """Collects pieces of bytes into whole lines of at most ``max_bytes`` each."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Lines that this piece completes, without their ends and without empty ones.

        Raises:
            LineTooLongError: the line that is being collected is longer than allowed.
        """
        *ended, rest = piece.split(b"\n")
        lines = []
        for part in ended:
            self._keep(part)
            line = b"".join(self._pieces)
            self._pieces, self._held_bytes = [], 0
            if line.strip():
                lines.append(line)
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._held_bytes += len(part)
        if self._held_bytes > self._max_bytes:
            raise LineTooLongError(f"a line of more than {self._max_bytes} bytes")
        if part:
            self._pieces.append(part)
