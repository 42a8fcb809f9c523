"""Structured logs: one JSON object per line on standard output. Never a prompt, a token or a secret."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any

_access = logging.getLogger("prfaas_gateway.access")
_BUFFERED_RECORDS = 10_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(slots=True)
class AccessRecord:
    """One request, as it is logged when it has ended. Times are in seconds, lengths in tokens."""

    method: str
    path: str
    model: str | None = None
    stream: bool = False
    status: int = 0
    code: str = "OK"
    route: str | None = None
    reason: str | None = None
    would_be: str | None = None
    prompt_tokens: int | None = None
    uncached_tokens: int | None = None
    taken_tokens: int | None = None
    transfer_id: str | None = None
    transfer_code: str | None = None
    prefill_code: str | None = None
    decode_engine: str | None = None
    prefill_engine: str | None = None
    remote_attempts: int = 0
    decode_attempts: int = 0
    control_fields_removed: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    prepare_seconds: float | None = None
    waited_seconds: float | None = None
    predicted_local_seconds: float | None = None
    predicted_remote_seconds: float | None = None
    first_byte_seconds: float | None = None
    total_seconds: float | None = None
    client_gone: bool = False

    def write(self) -> None:
        """Log it."""
        fields = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if value is not None
        }
        _access.info("request", extra=fields)


class JsonFormatter(logging.Formatter):
    """A log record with its extra fields as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            # The text of an exception may quote a request; its type and place may not.
            entry["error"] = record.exc_info[0].__name__
            entry["at"] = _place(record)
        return json.dumps(entry, default=str)


def _place(record: logging.LogRecord) -> str:
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


class _Buffer(QueueHandler):
    """Hands records to the writing thread; drops them when that has fallen behind for good."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        # A standard output that nobody reads must cost log lines, not requests.
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


@contextlib.contextmanager
def configured(level: str) -> Iterator[None]:
    """Send all logs to standard output as JSON lines; a thread writes, so the event loop never waits."""
    writer = logging.StreamHandler(sys.stdout)
    writer.setFormatter(JsonFormatter())
    records: queue.Queue[logging.LogRecord] = queue.Queue(_BUFFERED_RECORDS)
    listener = QueueListener(records, writer)
    logging.basicConfig(level=level.upper(), handlers=[_Buffer(records)], force=True)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
