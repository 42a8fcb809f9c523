"""This process's connection to the sidecar. Never blocks the caller.

One daemon thread connects, reads and reconnects. `SidecarClient.send` writes what the socket takes and leaves
the rest to that thread; a sidecar that stops reading is treated as gone rather than waited for.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from prfaas_connector.arena import Arena
from prfaas_connector.local_api.framing import Unpacker, pack
from prfaas_connector.local_api.messages import (
    OTHER_VERSION,
    SPOKEN,
    Facts,
    Hello,
    Message,
    MessageError,
    Refused,
    Welcome,
)

logger = logging.getLogger("prfaas.connector")

CONNECT_TIMEOUT_SECONDS = 2.0
HELLO_TIMEOUT_SECONDS = 5.0
RECONNECT_SECONDS = 0.5
MAX_BACKLOG_BYTES = 8 << 20
"""Unsent bytes after which the sidecar counts as gone. About 50,000 publications: minutes of prefill."""

_READ_BYTES = 1 << 18
_MAX_DESCRIPTORS = 4
_FACTS_SINCE, _SERVER_NAMES_SINCE, _KV_EVENTS_SINCE = 2, 3, 4


class OtherVersionError(ConnectionRefusedError):
    """The sidecar does not speak the version that was offered."""


class SidecarClient:
    """Owns one connection, its thread and the current arena.

    Args:
        path: the sidecar's Unix socket.
        hello: what this process is.
        on_message: called in the client's thread for each message after `Welcome`.
        on_connected: called in the client's thread with the new arena.
        on_disconnected: called in the client's thread when an accepted connection ended, before this process
            closes its side and when `arena` is already None. Until it closes, the sidecar gives memory that
            this process may touch to nobody else, so the callback returns only when nothing touches it any
            more.
    """

    def __init__(
        self,
        path: str,
        hello: Hello,
        on_message: Callable[[Message], None],
        on_connected: Callable[[Arena], None],
        on_disconnected: Callable[[], None],
    ) -> None:
        self._path = path
        self._hello = hello
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._lock = threading.Lock()
        self._backlog = bytearray()
        self._socket: socket.socket | None = None
        self._protocol = SPOKEN[-1]
        self._facts: Facts | None = None
        self._closing = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.setblocking(False)
        self._last_failure = ""
        self.arena: Arena | None = None
        self._thread = threading.Thread(target=self._run, name="prfaas-sidecar", daemon=True)

    def start(self) -> None:
        """Begins connecting; returns at once."""
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the sidecar has welcomed this process and the connection stands."""
        return self._socket is not None

    def send(self, message: Message) -> bool:
        """Hands a message to the sidecar. False: there is no sidecar now, and the message is dropped."""
        data = pack(message)
        with self._lock:
            connection = self._socket
            if connection is None:
                return False
            if self._protocol < _SERVER_NAMES_SINCE and getattr(message, "server_name", None) is not None:
                logger.warning("this sidecar is too old to go through a proxy; the request stays local")
                return False
            if len(self._backlog) + len(data) > MAX_BACKLOG_BYTES:
                logger.error("the sidecar stopped reading its socket; closing the connection")
                self._break()
                return False
            self._backlog += data
            if len(self._backlog) == len(data) and not self._flush(connection):
                return False
            if self._backlog:
                self._wake()
        return True

    def tell(self, facts: Facts) -> None:
        """Tells the sidecar now, and every one that comes later, unless it is of an older version."""
        with self._lock:
            self._facts = facts
            connection = self._socket
            if connection is not None and self._protocol >= _FACTS_SINCE:
                self._backlog += self._packed_facts()
                if self._flush(connection) and self._backlog:
                    self._wake()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Ends the connection and the thread."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            self._wake_sender.close()
            self._wake_receiver.close()

    def _packed_facts(self) -> bytes:
        """As the sidecar's version knows them; the lock is held."""
        facts = self._facts
        if facts is None:
            return b""
        return pack(facts if self._protocol >= _KV_EVENTS_SINCE else replace(facts, kv_events=()))

    def _flush(self, connection: socket.socket) -> bool:
        """Writes what the socket takes; the lock is held. False when the connection broke."""
        try:
            while self._backlog:
                sent = connection.send(self._backlog)
                del self._backlog[:sent]
        except BlockingIOError:
            return True
        except OSError:
            self._break()
            return False
        return True

    def _break(self) -> None:
        """The lock is held. The thread sees that the connection is given up and closes it once no copy
        touches the
        arena: the sidecar takes the end of the connection as leave to give the memory to others."""
        self._socket = None
        self._backlog.clear()
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_sender.send(b"\0")
        except OSError as error:
            # It is already being woken, or it has ended.
            logger.debug("waking the client's thread: %s", error)

    def _run(self) -> None:
        while not self._closing.is_set():
            connection: socket.socket | None = None
            try:
                connection, arena, unpacker = self._connect()
            except (OSError, MessageError, ValueError) as error:
                self._report_failure(str(error))
                self._closing.wait(RECONNECT_SECONDS)
                continue
            self._last_failure = ""
            try:
                self.arena = arena
                self._on_connected(arena)
                with self._lock:
                    self._backlog.clear()
                    self._socket = connection
                    if self._protocol >= _FACTS_SINCE:
                        self._backlog += self._packed_facts()
                        self._flush(connection)
                self._read(connection, unpacker)
            except (OSError, MessageError) as error:
                logger.warning("the connection to the sidecar broke: %s", error)
            except Exception:
                # Whatever went wrong, later requests need this thread.
                logger.exception("handling the sidecar's messages failed; connecting anew")
            finally:
                with self._lock:
                    self._socket = None
                    self._backlog.clear()
                self.arena = None
                try:
                    self._on_disconnected()
                finally:
                    connection.close()
            self._closing.wait(RECONNECT_SECONDS)

    def _report_failure(self, text: str) -> None:
        if text != self._last_failure:
            logger.warning(
                "no sidecar at %s (%s): KV transfer is off until it answers; requests are served without it",
                self._path,
                text,
            )
            self._last_failure = text

    def _connect(self) -> tuple[socket.socket, Arena, Unpacker]:
        """Greets with the highest version that the sidecar takes."""
        *lower, highest = SPOKEN
        refusal: OtherVersionError | None = None
        for protocol in (highest, *reversed(lower)):
            try:
                greeted = self._greet(replace(self._hello, protocol=protocol))
            except OtherVersionError as error:
                refusal = error
            else:
                self._protocol = protocol
                return greeted
        raise refusal or OtherVersionError("no version of the local API is spoken")

    def _greet(self, hello: Hello) -> tuple[socket.socket, Arena, Unpacker]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptors: list[int] = []
        try:
            connection.settimeout(CONNECT_TIMEOUT_SECONDS)
            connection.connect(self._path)
            connection.sendall(pack(hello))
            unpacker = Unpacker()
            messages: list[Message] = []
            deadline = time.monotonic() + HELLO_TIMEOUT_SECONDS
            while not messages:
                connection.settimeout(_until(deadline))
                data, received, _, _ = socket.recv_fds(connection, _READ_BYTES, _MAX_DESCRIPTORS)
                descriptors += received
                messages = unpacker.feed(_not_empty(data))
            welcome = _greeted(messages[0], descriptors, hello.protocol)
            connection.setblocking(False)
            arena = Arena(descriptors.pop(), welcome.arena_bytes, welcome.incarnation)
            for message in messages[1:]:
                self._on_message(message)
        except BaseException:
            connection.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return connection, arena, unpacker

    def _read(self, connection: socket.socket, unpacker: Unpacker) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while not self._closing.is_set():
                with self._lock:
                    if self._socket is None:
                        return
                    waiting = bool(self._backlog)
                selector.modify(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0))
                for key, events in selector.select(timeout=5.0):
                    if key.fileobj is self._wake_receiver:
                        self._wake_receiver.recv(4096)
                        continue
                    if events & selectors.EVENT_WRITE:
                        with self._lock:
                            if not self._flush(connection):
                                return
                    if events & selectors.EVENT_READ:
                        data = connection.recv(_READ_BYTES)
                        if not data:
                            logger.warning("the sidecar closed its socket")
                            return
                        for message in unpacker.feed(data):
                            self._on_message(message)


def _greeted(answer: Message, descriptors: list[int], protocol: int) -> Welcome:
    """The welcome that came with one descriptor.

    Raises:
        OtherVersionError: the sidecar does not speak this version.
        ConnectionRefusedError, MessageError: there is none for another reason.
    """
    if isinstance(answer, Refused):
        if answer.code == "ProtocolError" and answer.message.startswith(OTHER_VERSION):
            raise OtherVersionError(f"refused: {answer.code}: {answer.message}")
        raise ConnectionRefusedError(f"refused: {answer.code}: {answer.message}")
    if not isinstance(answer, Welcome):
        raise MessageError(f"the sidecar answered hello with {answer.TYPE}")
    if answer.protocol != protocol:
        raise MessageError(f"the sidecar speaks version {answer.protocol} of the local API, not {protocol}")
    if len(descriptors) != 1:
        raise MessageError(f"the sidecar sent {len(descriptors)} descriptors with its welcome, not one")
    return answer


def _until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("no welcome in time")
    return seconds


def _not_empty(data: bytes) -> bytes:
    if not data:
        raise ConnectionError("closed during the greeting")
    return data


def as_worker(hello: Hello, rank: int) -> Hello:
    """The greeting of a worker rank, made from the scheduler side's."""
    return replace(hello, side="worker", rank=rank)
