"""A blocking client of the sidecar's local API that plays an engine without a model."""

from __future__ import annotations

import mmap
import os
import socket
from pathlib import Path
from types import TracebackType

from prfaas_connector.local_api.framing import Unpacker, pack
from prfaas_connector.local_api.messages import PROTOCOL, Hello, Message, Refused, Welcome

_ANSWER_SECONDS = 120.0
_READ_BYTES = 1 << 16


class EngineSide:
    """One connection: the scheduler side or a rank. ``arena`` is the shared memory."""

    def __init__(self, path: Path, side: str, fingerprint: str = "0" * 64) -> None:
        """Connect and say hello.

        Raises:
            OSError: nobody listens there.
            ConnectionError: the sidecar refused.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_SECONDS)
        self._socket.connect(str(path))
        self._unpacker = Unpacker()
        self._received: list[Message] = []
        self.say(Hello(PROTOCOL, side, "both", 0, 1, os.getpid(), fingerprint, {"model": "none"}))
        data, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, 1)
        messages = self._unpacker.feed(data)
        welcome = messages[0] if messages and descriptors else None
        match welcome:
            case Welcome(arena_bytes=arena_bytes):
                self.arena = mmap.mmap(descriptors[0], arena_bytes)
                os.close(descriptors[0])
            case _:
                raise ConnectionError(f"the sidecar did not welcome this engine: {welcome}")

    def __enter__(self) -> EngineSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self.arena.close()

    def say(self, *messages: Message) -> None:
        """Send."""
        self._socket.sendall(b"".join(pack(message) for message in messages))

    def hear(self, *kinds: type[Message]) -> Message:
        """The next message of these kinds; others are dropped.

        Raises:
            ConnectionError: the sidecar refused what was not asked for here, or closed the connection.
        """
        while True:
            while self._received:
                message = self._received.pop(0)
                if isinstance(message, kinds):
                    return message
                match message:
                    case Refused(code=code, message=text):
                        raise ConnectionError(f"the sidecar refused: {code}: {text}")
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the sidecar closed the connection")
            self._received = self._unpacker.feed(data)
