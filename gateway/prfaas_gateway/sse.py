"""Server-sent events cut out of a byte stream, unchanged: the events put together again are the stream."""

from __future__ import annotations


class EventTooLargeError(ValueError):
    """An event is larger than the buffer for it."""


class EventCutter:
    """Collects bytes and gives back whole events, so that a stream can be ended between two of them."""

    def __init__(self, max_event_bytes: int) -> None:
        self._pending = bytearray()
        self._max_event_bytes = max_event_bytes

    def feed(self, data: bytes) -> bytes:
        """All whole events so far, as one piece; empty when none is complete.

        Raises:
            EventTooLargeError: what has come since the last whole event is over the limit.
        """
        # Only the seam with the new data can hold a separator that was not there before.
        searched_from = max(0, len(self._pending) - 3)
        self._pending += data
        end = _end_of_last_event(self._pending, searched_from)
        if len(self._pending) - end > self._max_event_bytes:
            raise EventTooLargeError(f"an event is over the limit of {self._max_event_bytes} bytes")
        if not end:
            return b""
        whole = bytes(self._pending[:end])
        del self._pending[:end]
        return whole

    def rest(self) -> bytes:
        """Bytes after the last whole event; at the end of a complete stream there are none."""
        return bytes(self._pending)


def _end_of_last_event(buffer: bytearray, start: int) -> int:
    ends = (
        found + len(separator)
        for separator in (b"\n\n", b"\r\n\r\n", b"\r\r")
        if (found := buffer.rfind(separator, start)) >= 0
    )
    return max(ends, default=0)


def split_events(whole: bytes) -> list[bytes]:
    """Whole events one by one, each with its blank line; only for streams with plain newlines."""
    parts = whole.split(b"\n\n")
    return [part + b"\n\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def data_of(event: bytes) -> bytes | None:
    """The data of an event that has a single data line, else None."""
    lines = event.strip(b"\r\n").splitlines()
    if len(lines) != 1 or not lines[0].startswith(b"data:"):
        return None
    return lines[0].removeprefix(b"data:").strip()
