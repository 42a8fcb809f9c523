"""What the connector tells of its engine, to sidecars of this version and of the one before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prfaas_connector import client as client_module
from prfaas_connector.client import SidecarClient
from prfaas_connector.local_api.messages import PROTOCOL, Abort, Consume, Facts, Hello, Refused
from tests.connector.peer_socket import PeerListener
from tests.helpers import eventually

HELLO = Hello(PROTOCOL, "scheduler", "both", 0, 1, 4242, "f" * 64, {"dtype": "float32"})
FACTS = Facts(32, 8192, ("chat",), (), "")
OLD = Refused("", "ProtocolError", f"local API version {PROTOCOL}; this sidecar speaks 1")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SidecarClient]:
    monkeypatch.setattr(client_module, "RECONNECT_SECONDS", 0.01)
    made = SidecarClient(str(tmp_path / "s"), HELLO, lambda _: None, lambda _: None, lambda: None)
    yield made
    made.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[PeerListener]:
    made = PeerListener(tmp_path / "s")
    yield made
    made.close()


def test_facts_that_are_known_before_are_told_after_every_welcome(
    client: SidecarClient, listener: PeerListener
) -> None:
    client.tell(FACTS)
    client.start()
    for _ in range(2):
        peer = listener.accept()
        assert peer.expect_hello() == HELLO
        peer.welcome()
        assert peer.receive() == FACTS
        peer.close()


def test_facts_that_come_later_are_told_at_once_and_the_last_ones_count(
    client: SidecarClient, listener: PeerListener
) -> None:
    client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    eventually(lambda: client.connected)
    newer = replace(FACTS, model_files_error="why")
    client.tell(FACTS)
    client.tell(newer)
    assert [peer.receive(), peer.receive()] == [FACTS, newer]
    peer.close()
    again = listener.accept()
    again.expect_hello()
    again.welcome()
    assert again.receive() == newer


def test_an_older_sidecar_is_greeted_in_its_version_and_told_no_facts(
    client: SidecarClient, listener: PeerListener, caplog: pytest.LogCaptureFixture
) -> None:
    client.tell(FACTS)
    client.start()
    for protocol in (4, 3, 2):
        peer = listener.accept()
        assert peer.expect_hello() == replace(HELLO, protocol=protocol)
        peer.send(OLD)
        peer.wait_for_close()
    peer = listener.accept()
    assert peer.expect_hello() == replace(HELLO, protocol=1)
    peer.welcome(protocol=1)
    eventually(lambda: client.connected)
    client.tell(FACTS)
    client.send(Abort("a", "Cancelled"))
    assert peer.receive() == Abort("a", "Cancelled")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    # After it a newer one may come.
    peer.close()
    peer = listener.accept()
    assert peer.expect_hello() == HELLO
    peer.welcome()
    assert peer.receive() == FACTS


def test_an_older_sidecar_is_asked_for_nothing_behind_a_proxy(
    client: SidecarClient, listener: PeerListener
) -> None:
    direct = Consume("a", "d", "10.0.0.1:7400", "spiffe://x", (), (), 1.0)
    proxied = replace(direct, transfer_id="b", server_name="10-0-0-1.kv.example.org")
    client.start()
    for _ in (4, 3):
        peer = listener.accept()
        peer.expect_hello()
        peer.send(OLD)
        peer.wait_for_close()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome(protocol=2)
    eventually(lambda: client.connected)
    assert not client.send(proxied)
    assert client.send(direct)
    assert peer.receive() == direct
    peer.close()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    eventually(lambda: client.send(proxied))
    assert peer.receive() == proxied


def test_an_older_sidecar_is_not_told_of_kv_events(client: SidecarClient, listener: PeerListener) -> None:
    publishing = replace(FACTS, kv_events=("ipc://@events", "ipc://@replay", ""))
    client.tell(publishing)
    client.start()
    peer = listener.accept()
    peer.expect_hello()
    peer.send(OLD)
    peer.wait_for_close()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome(protocol=3)
    assert peer.receive() == FACTS
    peer.close()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    assert peer.receive() == publishing


def test_another_refusal_does_not_lower_the_version(client: SidecarClient, listener: PeerListener) -> None:
    client.tell(FACTS)
    client.start()
    for _ in range(2):
        peer = listener.accept()
        assert peer.expect_hello() == HELLO
        peer.send(Refused("", "ProtocolError", "the engine's scheduler is connected already"))
        peer.wait_for_close()
    peer = listener.accept()
    peer.expect_hello()
    peer.welcome()
    assert peer.receive() == FACTS


def test_a_sidecar_that_speaks_no_version_of_ours_is_reported(
    client: SidecarClient, listener: PeerListener, caplog: pytest.LogCaptureFixture
) -> None:
    client.start()
    for protocol in (4, 3, 2, 1):
        peer = listener.accept()
        assert peer.expect_hello().protocol == protocol
        peer.send(Refused("", "ProtocolError", f"local API version {protocol}; this sidecar speaks 8 to 9"))
        peer.wait_for_close()
    eventually(lambda: "this sidecar speaks 8 to 9" in caplog.text)
    assert not client.connected
