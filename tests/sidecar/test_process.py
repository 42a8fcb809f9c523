"""The process: configuration, start, drain, rotation of certificates."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas_demo.certificates import Authority, ca
from prfaas_sidecar.config import parse_text
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import Refusal, everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, sidecar, transfer_id
from tests.sidecar.wire import tls_client

LANES = lanes_of()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prfaas_sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def write(folder: Path, authority: Authority, **changes: Any) -> Path:
    files = authority.leaf(PRODUCER).write(folder, "tls")
    config = {
        "engine": {"socket": str(folder / "s")},
        "arena_bytes": "16MiB",
        "listen": {"peer": "127.0.0.1:0", "control": "127.0.0.1:0", "health": "127.0.0.1:0"},
        "tls": {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)},
        **changes,
    }
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_help_shows_a_configuration_that_works(tmp_path: Path, authority: Authority) -> None:
    shown = run("--help")
    assert shown.returncode == 0
    text = shown.stdout.partition("Example sidecar.yaml:")[2]
    example = yaml.safe_load(text)
    files = authority.leaf(PRODUCER).write(tmp_path, "tls")
    example["tls"] = {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)}
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump(example))
    checked = run("--config", str(path), "--check")
    assert (checked.returncode, checked.stdout) == (0, f"{path}: ok\n"), checked.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arena": 1}, ["arena: Extra inputs"]),
        ({"arena_bytes": "lots"}, ["arena_bytes: "]),
        ({"arena_bytes": "100TiB"}, ["arena_bytes: ", "make the arena smaller"]),
        ({"peers": {"accept": ["spiffe://x"]}}, ["peers.accept.0: ", "is not an identity or a pattern"]),
        ({"peers": {"dial": [{"identity": PRODUCER, "addresses": []}]}}, ["peers.dial.0.addresses: "]),
        ({"tls": None, "listen": {"control": None}}, ["tls is needed", "insecure_plaintext_peers"]),
        ({"insecure_plaintext_peers": True}, ["needs identity"]),
        ({"identity": PRODUCER}, ["identity is read from the certificate"]),
        (
            {"tls": {"certificate": "/nowhere", "key": "/nowhere", "ca": "/nowhere"}},
            ["no such file: /nowhere"],
        ),
        ({"listen": {"peer": "localhost"}}, ["listen.peer: ", "is not host:port"]),
        ({"engine": {"socket": "/s", "socket_mode": "0o888"}}, ["engine.socket_mode: "]),
        ({"engine": {"socket": "/s", "socket_mode": "u+w"}}, ["engine.socket_mode: "]),
        ({"link": {"streams": 0}}, ["link.streams: "]),
        ({"link": {"silence_seconds": 1}}, ["link.silence_seconds must be at least twice"]),
    ],
)
def test_a_bad_configuration_is_refused_with_field_and_reason(
    tmp_path: Path, authority: Authority, changes: dict[str, Any], words: list[str]
) -> None:
    answer = run("--config", str(write(tmp_path, authority, **changes)), "--check")
    assert answer.returncode == 1
    for word in words:
        assert word in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_configuration_may_be_text_in_the_environment(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, authority)
    monkeypatch.setenv("SIDECAR_TEXT", path.read_text())
    checked = run("--config-env", "SIDECAR_TEXT", "--check")
    assert (checked.returncode, checked.stdout) == (0, "SIDECAR_TEXT: ok\n"), checked.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["environment variable SIDECAR_TEXT: it is not set"]),
        ("", ["environment variable SIDECAR_TEXT: it is not set"]),
        ("- 1", ["environment variable SIDECAR_TEXT: it must hold a mapping of fields"]),
        (
            "a: 1\nb: [secret",
            ["environment variable SIDECAR_TEXT is not YAML: expected ',' or ']'", "in line 2"],
        ),
        (
            "arena_bytes: 1MiB\ndrain_token: secret",
            [
                "environment variable SIDECAR_TEXT is not a usable configuration",
                "  engine: ",
                "  drain_token: ",
            ],
        ),
        (
            "{engine: {socket: /s}, arena_bytes: 1MiB, peers_file: /p, gateways: []}",
            ["peers_file takes the place of peers and gateways"],
        ),
    ],
)
def test_a_bad_text_is_refused_with_variable_and_field(
    monkeypatch: pytest.MonkeyPatch, text: str | None, words: list[str]
) -> None:
    if text is None:
        monkeypatch.delenv("SIDECAR_TEXT", raising=False)
    else:
        monkeypatch.setenv("SIDECAR_TEXT", text)
    answer = run("--config-env", "SIDECAR_TEXT")
    assert answer.returncode == 1
    for word in words:
        assert word in answer.stderr
    assert "secret" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_there_is_one_configuration(tmp_path: Path) -> None:
    for arguments in ([], ["--config", "x", "--config-env", "X"]):
        answer = run(*arguments)
        assert answer.returncode == 2
        assert "one of --config and --config-env" in answer.stderr


@pytest.mark.parametrize("written", ["0o666", "'0o666'", "0666", "'0666'", "'666'", "438"])
def test_a_mode_is_octal_however_yaml_reads_it(written: str) -> None:
    text = f"""
        engine: {{socket: /s, socket_mode: {written}}}
        arena_bytes: 1MiB
        tls: {{certificate: /c, key: /k, ca: /a}}
    """
    assert parse_text(text, "test").engine.socket_mode == 0o666


def test_a_certificate_that_names_no_pool_is_refused(tmp_path: Path, authority: Authority) -> None:
    path = write(tmp_path, authority)
    authority.leaf([]).write(tmp_path, "tls")
    answer = run("--config", str(path), "--check")
    assert answer.returncode == 1
    assert "tls.certificate: a certificate needs exactly one URI" in answer.stderr


def test_a_port_in_use_is_said(tmp_path: Path, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = {"peer": f"127.0.0.1:{port}", "control": "127.0.0.1:0", "health": "127.0.0.1:0"}
        answer = run("--config", str(write(tmp_path, authority, listen=listen)))
    assert answer.returncode == 1
    assert f"listen.peer: cannot listen on 127.0.0.1:{port}" in answer.stderr


def test_a_socket_path_that_is_a_file_is_not_overwritten(tmp_path: Path, authority: Authority) -> None:
    path = write(tmp_path, authority)
    (tmp_path / "s").write_text("precious")
    answer = run("--config", str(path))
    assert answer.returncode == 1
    assert "is not a socket" in answer.stderr
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_second_sidecar_does_not_take_the_socket_of_the_first(own_two: Pair, tmp_path: Path) -> None:
    path = await asyncio.to_thread(
        write, tmp_path / "second", own_two.authority, engine={"socket": str(own_two.producer.socket)}
    )
    answer = await asyncio.to_thread(run, "--config", str(path))
    assert answer.returncode == 1
    assert "another process listens" in answer.stderr


async def test_sigterm_lets_what_runs_end_and_refuses_what_is_new(own_two: Pair) -> None:
    name = transfer_id()
    produced = await own_two.prefill.produce(name, LANES, CONSUMER)
    consumed = await own_two.decode.consume(name, LANES, own_two.producer.peer_address, PRODUCER)
    await own_two.prefill.wanted(name)
    for side in (own_two.producer, own_two.consumer):
        side.process.send_signal(signal.SIGTERM)
    await eventually_async(lambda: own_two.producer.said("draining") and own_two.consumer.said("draining"))
    assert await own_two.producer.get("/readyz") == (503, "draining\n")
    with pytest.raises(Refusal) as refusal:
        await own_two.prefill.produce(transfer_id(), LANES, CONSUMER)
    assert refusal.value.code == "Draining"
    with pytest.raises(Refusal) as refusal:
        await own_two.decode.consume(transfer_id(), LANES, own_two.producer.peer_address, PRODUCER)
    assert refusal.value.code == "Draining"
    own_two.prefill.produce_all(produced, LANES)
    assert (await own_two.decode.ended(name)).code == "complete"
    assert own_two.decode.check(consumed, LANES, everything(LANES), own_two.decode.landed(name)) == 16
    # They end by themselves; a second signal while the interpreter exits would kill them.
    async with asyncio.timeout(20):
        ends = [await side.process.wait() for side in (own_two.producer, own_two.consumer)]
    assert ends == [0, 0]


async def test_a_drain_does_not_wait_for_ever(tmp_path: Path, authority: Authority) -> None:
    async with sidecar(tmp_path, authority.leaf(PRODUCER), drain_seconds=0.2) as producer:
        engine = await producer.engine()
        await engine.produce(transfer_id(), LANES, CONSUMER)
        assert await producer.stop() == 0
        assert producer.said("drain time is over")[0]["transfers_cut"] == 1
        await eventually_async(lambda: engine.scheduler.closed.is_set())
        assert not await asyncio.to_thread(producer.socket.exists)
        await engine.close()


async def test_a_renewed_certificate_is_shown_without_a_restart(own_two: Pair, tmp_path: Path) -> None:
    """The client trusts only the CA of the new one."""
    renewing = ca("the new CA")
    files, leaf = own_two.producer.config["tls"], renewing.leaf(PRODUCER)

    def replace() -> None:
        for name, content in (
            ("certificate", leaf.certificate_pem),
            ("key", leaf.key_pem),
            ("ca", own_two.authority.pem + renewing.pem),
        ):
            fresh = Path(files[name] + ".new")
            fresh.write_bytes(content)
            fresh.replace(files[name])

    with pytest.raises(ssl.SSLCertVerificationError):
        await tls_client(own_two.producer.peer_address, renewing.leaf(CONSUMER), renewing.pem, tmp_path, b"?")
    await asyncio.to_thread(replace)
    await eventually_async(lambda: own_two.producer.said("TLS credentials were read again"))
    answer = await tls_client(
        own_two.producer.peer_address, renewing.leaf(CONSUMER), renewing.pem, tmp_path, b"GET / HTTP/1.1"
    )
    assert b"ProtocolError" in answer
