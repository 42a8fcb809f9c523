"""Structured logs: one JSON object per line. Nothing here may carry prompts, tokens or secrets."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import queue
import sys
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener
from typing import Any

_MAX_WAITING = 10_000


class JsonFormatter(logging.Formatter):
    """A line per record; fields given as ``extra={"fields": {...}}`` stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class DroppingQueueHandler(QueueHandler):
    """Hands records to the thread that writes them; when that cannot keep up they are dropped, not waited
    for."""

    def __init__(self, waiting: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record into the queue, or count it as dropped; the next one that fits carries the count."""
        if self.dropped:
            record.fields = {**getattr(record, "fields", {}), "dropped_before": self.dropped}
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
        else:
            self.dropped = 0


@contextlib.contextmanager
def configured(level: str) -> Iterator[None]:
    """Log to standard error for as long as the context lasts. A reader of it that stalls does not stop the
    process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_MAX_WAITING)
    listener = QueueListener(waiting, handler)
    # Not basicConfig: it would give the queue's handler a text format, which then stands in the message.
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(DroppingQueueHandler(waiting))
    root.setLevel(level.upper())
    # Its messages repeat what the listeners log with a reason, and hold peers' raw bytes.
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def fields(**values: object) -> dict[str, dict[str, object]]:
    """``extra`` of a log call."""
    return {"fields": values}
