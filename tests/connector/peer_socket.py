"""The sidecar's end of the local API, driven step by step by a test. No thread: every call has a deadline."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from prfaas_connector.local_api.framing import Unpacker, pack
from prfaas_connector.local_api.messages import PROTOCOL, Hello, Message, Welcome

SECONDS = 10.0
ARENA_BYTES = 1 << 16


def memfd(size_bytes: int = ARENA_BYTES) -> int:
    descriptor = os.memfd_create("test-arena", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size_bytes)
    return descriptor


class Peer:
    """One accepted connection."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(SECONDS)
        self.channel = channel
        self._unpacker = Unpacker()
        self._received: list[Message] = []

    def receive(self) -> Message:
        """The next message."""
        while not self._received:
            data = self.channel.recv(1 << 16)
            if not data:
                raise ConnectionError("the connector closed the connection")
            self._received = self._unpacker.feed(data)
        return self._received.pop(0)

    def expect_hello(self) -> Hello:
        message = self.receive()
        assert isinstance(message, Hello)
        return message

    def send(self, message: Message) -> None:
        self.channel.sendall(pack(message))

    def welcome(
        self,
        arena: int | None = None,
        *,
        protocol: int = PROTOCOL,
        size_bytes: int = ARENA_BYTES,
        descriptors: int = 1,
        followed_by: bytes = b"",
    ) -> None:
        """Greets with the descriptor ``arena``, or with new ones."""
        sent = [arena] if arena is not None else [memfd() for _ in range(descriptors)]
        try:
            data = pack(Welcome(protocol, size_bytes, secrets.token_hex(8))) + followed_by
            if sent:
                socket.send_fds(self.channel, [data], sent)
            else:
                self.channel.sendall(data)
        finally:
            if arena is None:
                for descriptor in sent:
                    os.close(descriptor)

    def wait_for_close(self) -> None:
        """Returns when the connector has closed the connection; drops what it still said."""
        while self.channel.recv(1 << 16):
            pass

    def close(self) -> None:
        self.channel.close()


class PeerListener:
    """A listening socket at ``path``; like a killed sidecar, it leaves the file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(SECONDS)
        self._peers: list[Peer] = []

    def accept(self) -> Peer:
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        return peer

    def close(self) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.close()
