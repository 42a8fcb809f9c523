"""A TCP relay that can be cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any


class Link:
    """A TCP relay between the sidecars that counts what the producer sends and can be cut.

    ``cut_after_bytes``: when that many bytes have crossed, everything stops and new connections are refused
    until `restore`.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after_bytes: int | None = None
        self.bytes_crossed = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; new ones are accepted and closed at once."""
        with self._lock:
            self.cut_after_bytes = 0
            for channel in self._open:
                with contextlib.suppress(OSError):
                    channel.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Let connections through again, and count anew."""
        with self._lock:
            self.cut_after_bytes, self.bytes_crossed = None, 0

    def close(self) -> None:
        """End the relay."""
        self._closing = True
        self.cut()
        self._listener.close()

    def _is_cut(self) -> bool:
        return self.cut_after_bytes is not None and self.bytes_crossed >= self.cut_after_bytes

    def _accept(self) -> None:
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            try:
                while True:
                    for key, _ in selector.select():
                        source: Any = key.fileobj
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is far:
                            self.bytes_crossed += len(data)
                            if self._is_cut():
                                self.cut()
                                return
                        key.data.sendall(data)
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {near, far}
                near.close()
                far.close()
