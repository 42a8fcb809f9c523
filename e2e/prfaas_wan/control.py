"""How commands and the Python interface talk to a running emulator.

One JSON object per line over an abstract Unix socket that carries the emulator's name: no file to leave
behind, the kernel frees the name with its holder, and a second emulator of the same name cannot start.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any, Self

from prfaas_wan.errors import WanError

_PREFIX = "\0prfaas-wan/"
_LINE_LIMIT_BYTES = 64 * 1024
_ANSWER_SECONDS = 5.0
_BACKLOG = 16


def listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(_PREFIX + name)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise WanError(
            "NameInUse",
            f"an emulator named {name!r} is running; choose another --name, "
            f"or end it with `prfaas wan down {name}`",
        ) from error
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def running_names() -> list[str]:
    """The names that are taken in this network namespace, sorted."""
    marker = "@" + _PREFIX[1:]
    names = set()
    for line in Path("/proc/thread-self/net/unix").read_text().splitlines():
        path = line.split()[-1]
        if path.startswith(marker):
            names.add(path.removeprefix(marker))
    return sorted(names)


def may_control(connection: socket.socket) -> bool:
    """Abstract sockets have no file mode: ask who is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return user in (0, os.geteuid())


class LineBuffer:
    """Bytes in, whole lines out. Raises ValueError for a line beyond the limit."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _LINE_LIMIT_BYTES:
            raise ValueError("a control message is too long")
        return lines


class Client:
    """A connection to one emulator. Safe to share between threads; stays usable whatever namespace the
    calling thread is in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._lines = LineBuffer()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_SECONDS)
        try:
            self._socket.connect(_PREFIX + name)
        except OSError as error:
            self._socket.close()
            raise WanError("NotRunning", _not_running(name)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self, operation: str, **values: Any) -> dict[str, Any]:
        """Raises WanError: the emulator's own, `NotRunning` when it is gone, `NoAnswer` when it hangs."""
        request = json.dumps({"operation": operation, **values}).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(request)
                answer = json.loads(self._read_line())
            except TimeoutError as error:
                raise WanError(
                    "NoAnswer",
                    f"emulator {self.name!r} does not answer; end it with `prfaas wan clean --all`",
                ) from error
            except OSError as error:
                raise WanError("NotRunning", f"emulator {self.name!r} is gone: {error}") from error
        if "error" in answer:
            raise WanError(answer["error"]["code"], answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    def _read_line(self) -> bytes:
        while True:
            data = self._socket.recv(_LINE_LIMIT_BYTES)
            if not data:
                raise ConnectionResetError("it hung up; only root and whoever started it may control it")
            lines = self._lines.feed(data)
            if lines:
                return lines[0]


def _not_running(name: str) -> str:
    others = running_names()
    known = f"running: {', '.join(others)}" if others else "none is running; start one with `prfaas wan up`"
    return f"no emulator named {name!r} answers ({known})"
