"""The connection to the sidecar: it comes, goes, lies and stalls, and the engine never waits for it."""

from __future__ import annotations

import gc
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prfaas_connector import client as client_module
from prfaas_connector.arena import Arena
from prfaas_connector.client import SidecarClient, as_worker
from prfaas_connector.local_api.framing import pack
from prfaas_connector.local_api.messages import (
    PROTOCOL,
    Abort,
    Ended,
    Hello,
    Message,
    Publish,
    Refused,
    Release,
)
from tests.connector.peer_socket import ARENA_BYTES, SECONDS, PeerListener, memfd
from tests.helpers import eventually

HELLO = Hello(PROTOCOL, "scheduler", "both", 0, 1, 4242, "f" * 64, {"dtype": "float32"})
CONNECTED, GONE = "connected", "gone"
Event = str | Message


class Harness:
    """A client and everything that it reports, in order."""

    def __init__(self, path: Path) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.arenas: list[Arena] = []
        self.on_message: Callable[[Message], None] = self.events.put
        self.client = SidecarClient(
            str(path), HELLO, lambda message: self.on_message(message), self._connected, self._gone
        )

    def _connected(self, arena: Arena) -> None:
        self.arenas.append(arena)
        self.events.put(CONNECTED)

    def _gone(self) -> None:
        self.events.put(GONE)

    def next(self) -> Event:
        return self.events.get(timeout=SECONDS)

    def wait_until_connected(self) -> None:
        assert self.next() == CONNECTED
        eventually(lambda: self.client.connected)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@pytest.fixture
def harness(path: Path) -> Iterator[Harness]:
    made = Harness(path)
    yield made
    made.client.close()
    assert not made.client._thread.is_alive()


@pytest.fixture
def listener(path: Path) -> Iterator[PeerListener]:
    made = PeerListener(path)
    yield made
    made.close()


def arenas_held() -> int:
    """Descriptors and mappings of arenas that this process holds."""
    gc.collect()
    held = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held += "test-arena" in str(entry.readlink())
        except FileNotFoundError:
            continue
    return held


def test_a_sidecar_that_comes_later(harness: Harness, path: Path) -> None:
    harness.client.start()
    assert not harness.client.connected
    assert not harness.client.send(Abort("a", "Cancelled"))
    listener = PeerListener(path)
    peer = listener.accept()
    assert peer.expect_hello() == HELLO
    assert not harness.client.connected, "greeted, not yet welcome"
    peer.welcome()
    harness.wait_until_connected()
    assert harness.client.arena is harness.arenas[0]
    assert harness.arenas[0].size_bytes == ARENA_BYTES
    assert harness.client.send(Abort("a", "Cancelled"))
    assert peer.receive() == Abort("a", "Cancelled")
    listener.close()


def test_messages_arrive_whole_and_in_order(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    sent = [Ended(str(number), "complete", "x" * number) for number in range(100)]
    stream = b"".join(map(pack, sent))
    for at in range(0, len(stream), 97):
        peer.channel.sendall(stream[at : at + 97])
    assert [harness.next() for _ in sent] == sent


def test_a_message_in_the_same_packet_as_the_welcome(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome(followed_by=pack(Ended("a", "complete", "")))
    assert {str(harness.next()), str(harness.next())} == {CONNECTED, str(Ended("a", "complete", ""))}


def test_a_welcome_in_pieces(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    end = pack(Ended("a", "complete", ""))
    peer.welcome(followed_by=end[:3])
    harness.wait_until_connected()
    peer.channel.sendall(end[3:])
    assert harness.next() == Ended("a", "complete", "")


def test_a_refusal_is_reported_once_and_tried_again(
    harness: Harness, listener: PeerListener, caplog: pytest.LogCaptureFixture
) -> None:
    harness.client.start()
    for _ in range(3):
        peer = listener.accept()
        peer.expect_hello()
        peer.send(Refused("", "FingerprintMismatch", "dtype differs"))
        peer.wait_for_close()
    assert not harness.client.connected
    assert harness.events.empty()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "FingerprintMismatch: dtype differs" in warnings[0]
    assert "requests are served without it" in warnings[0]


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        pytest.param(
            {"protocol": PROTOCOL + 1},
            f"version {PROTOCOL + 1} of the local API, not {PROTOCOL}",
            id="version",
        ),
        pytest.param({"descriptors": 0}, "0 descriptors", id="no arena"),
        pytest.param({"descriptors": 2}, "2 descriptors", id="two arenas"),
        pytest.param({"size_bytes": ARENA_BYTES * 2}, "mmap", id="an arena smaller than announced"),
        pytest.param({"size_bytes": 0, "descriptors": 2}, "2 descriptors", id="an empty arena"),
    ],
)
def test_a_wrong_welcome(
    harness: Harness,
    listener: PeerListener,
    caplog: pytest.LogCaptureFixture,
    greeting: dict[str, int],
    says: str,
) -> None:
    before = arenas_held()
    harness.client.start()
    for _ in range(3):
        peer = listener.accept()
        peer.expect_hello()
        peer.welcome(**greeting)
        peer.wait_for_close()
    eventually(lambda: says in caplog.text)
    assert not harness.client.connected
    assert harness.client.arena is None
    assert harness.events.empty()
    eventually(lambda: arenas_held() == before, what="descriptors of refused welcomes stay open")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(pack(Ended("a", "complete", "")), "answered hello with ended", id="another message"),
        pytest.param(b"\0\0\0\2[]", "JSON object", id="no message"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "over the limit", id="another protocol"),
        pytest.param(b"", "closed during the greeting", id="nothing"),
    ],
)
def test_no_welcome(
    harness: Harness, listener: PeerListener, caplog: pytest.LogCaptureFixture, answer: bytes, says: str
) -> None:
    harness.client.start()
    for _ in range(2):
        peer = listener.accept()
        peer.expect_hello()
        peer.channel.sendall(answer)
        peer.close()
    eventually(lambda: says in caplog.text)
    assert harness.events.empty()


def test_a_sidecar_that_says_nothing(
    harness: Harness, listener: PeerListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HELLO_TIMEOUT_SECONDS", 0.05)
    harness.client.start()
    for _ in range(2):
        peer = listener.accept()
        peer.expect_hello()
        peer.wait_for_close()


def test_a_sidecar_that_says_its_welcome_without_end(
    harness: Harness, listener: PeerListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HELLO_TIMEOUT_SECONDS", 0.2)
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.channel.sendall(b"\0\1\0\0")

    def gave_up() -> bool:
        try:
            peer.channel.sendall(b" ")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    eventually(gave_up)


def test_a_killed_sidecar_and_its_successor(harness: Harness, path: Path) -> None:
    first = PeerListener(path)
    harness.client.start()
    peer = first.accept()
    peer.expect_hello()
    arena = memfd()
    os.pwrite(arena, b"landed", 100)
    peer.welcome(arena)
    os.close(arena)
    harness.wait_until_connected()
    first.close()
    assert harness.next() == GONE
    assert not harness.client.connected
    assert not harness.client.send(Abort("a", "Cancelled"))
    old = harness.arenas[0]
    assert harness.client.arena is None, "nothing new may be begun in memory that others will get"
    second = PeerListener(path)
    peer = second.accept()
    assert peer.expect_hello() == HELLO
    peer.welcome()
    harness.wait_until_connected()
    new = harness.arenas[1]
    assert harness.client.arena is new
    assert new.key != old.key
    assert bytes(old.memory[100:106]) == b"landed"
    old.memory[0:4] = b"late"  # a slip would hurt nobody: it is another memory
    assert bytes(new.memory[0:4]) == bytes(4)
    second.close()


def test_what_was_not_sent_before_a_restart_is_not_sent_after_it(
    harness: Harness, path: Path, listener: PeerListener
) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    for number in range(20_000):
        harness.client.send(Publish("old", 0, number, 1))
    peer.close()
    assert harness.next() == GONE
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    assert harness.client.send(Release("new", 0))
    assert peer.receive() == Release("new", 0)


def test_a_slow_reader_gets_everything_in_order(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    sent = [Publish("a", 0, number, 1) for number in range(20_000)]
    for message in sent:  # far more than the socket takes
        assert harness.client.send(message)
    assert [peer.receive() for _ in sent] == sent


def test_several_threads_may_send(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    each = 2000

    def publish(lane: int) -> None:
        for number in range(each):
            assert harness.client.send(Publish("a", lane, number, 1))

    threads = [threading.Thread(target=publish, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    received = [peer.receive() for _ in range(4 * each)]
    for thread in threads:
        thread.join(SECONDS)
    for lane in range(4):
        numbers = [
            message.first for message in received if isinstance(message, Publish) and message.lane == lane
        ]
        assert numbers == list(range(each))


def test_a_sidecar_that_stops_reading_counts_as_gone(
    harness: Harness, listener: PeerListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_BACKLOG_BYTES", 1 << 20)
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    message = Abort("a", "x" * 10_000)
    accepted_bytes = 0
    # No call may wait for the peer, which never reads; the bound ends the loop.
    while harness.client.send(message):
        accepted_bytes += len(pack(message))
        assert accepted_bytes < 100 << 20, "the backlog has no bound"
    assert accepted_bytes > 1 << 20
    assert harness.next() == GONE
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    assert harness.client.send(Release("b", 1))
    assert peer.receive() == Release("b", 1)


def test_garbage_from_the_sidecar_ends_the_connection(
    harness: Harness, listener: PeerListener, caplog: pytest.LogCaptureFixture
) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    peer.channel.sendall(b"\0\0\0\2[]")
    assert harness.next() == GONE
    peer.wait_for_close()
    assert "the connection to the sidecar broke" in caplog.text
    listener.accept().expect_hello()


def test_an_error_in_a_callback_costs_the_connection_not_the_thread(
    harness: Harness, listener: PeerListener, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Message) -> None:
        raise LookupError("a mistake of ours")

    harness.on_message = fail
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    peer.send(Ended("a", "complete", ""))
    assert harness.next() == GONE
    assert "a mistake of ours" in caplog.text
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()


def test_closing_ends_the_connection(harness: Harness, listener: PeerListener) -> None:
    harness.client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    harness.wait_until_connected()
    harness.client.close()
    peer.wait_for_close()
    assert harness.next() == GONE
    assert not harness.client.connected
    assert not harness.client.send(Abort("a", "Cancelled"))
    harness.client.close()


def test_closing_without_a_sidecar(harness: Harness) -> None:
    harness.client.start()
    harness.client.close()
    assert harness.events.empty()


def test_closing_what_never_started(path: Path) -> None:
    Harness(path).client.close()


def test_a_workers_greeting_names_its_rank() -> None:
    worker = as_worker(HELLO, 3)
    assert (worker.side, worker.rank) == ("worker", 3)
    assert worker.fingerprint_fields == HELLO.fingerprint_fields
