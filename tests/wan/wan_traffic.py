"""Traffic between the hosts of an emulator, from within the test's own process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prfaas_wan import Host

DEADLINE_SECONDS = 15.0
_CHUNK_BYTES = 256 * 1024


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:.0f} s: {what}"
        pause.wait(0.02)


@dataclass
class Connection:
    """A TCP connection from one host to another; both ends have a deadline."""

    near: socket.socket
    far: socket.socket


@contextmanager
def connected(source: Host, target: Host, congestion_control: str | None = None) -> Iterator[Connection]:
    with target.inside():
        listener = socket.create_server((target.address, 0))
    with contextlib.closing(listener):
        listener.settimeout(DEADLINE_SECONDS)
        with source.inside():
            near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        near.settimeout(DEADLINE_SECONDS)
        if congestion_control is not None:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(near):
            near.connect(listener.getsockname())
            far, _ = listener.accept()
            far.settimeout(DEADLINE_SECONDS)
            with contextlib.closing(far):
                yield Connection(near, far)


@contextmanager
def sending(sender: socket.socket, data: bytes) -> Iterator[None]:
    """Sends in the background for the block; the block has to receive all of it."""
    failures: list[OSError] = []

    def send() -> None:
        try:
            sender.sendall(data)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join(DEADLINE_SECONDS)
    assert not failures
    assert not thread.is_alive()


def receive(receiver: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = receiver.recv(min(_CHUNK_BYTES, count - len(received)))
        assert data, "the connection ended early"
        received += data
    return bytes(received)


def round_trip_seconds(connection: Connection) -> float:
    started = time.perf_counter()
    connection.near.sendall(b"?")
    receive(connection.far, 1)
    connection.far.sendall(b"!")
    receive(connection.near, 1)
    return time.perf_counter() - started
