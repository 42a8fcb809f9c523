"""Who may talk to a sidecar, from a file that changes under it as a ConfigMap's volume does."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from prfaas_demo.certificates import Authority
from prfaas_sidecar.access import MAX_FILE_BYTES, Access, PeersFile
from prfaas_sidecar.identity import parse
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import lanes_of
from tests.sidecar.harness import CONSUMER, GATEWAY, PRODUCER, engines, sidecar, transfer_id
from tests.sidecar.test_control import gateway, url

LANES = lanes_of()
DIAL = {"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}
NOBODY = Access(source="file")


class Volume:
    """A folder whose content is swapped as the kubelet does it: by renaming a link to a new folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.path = folder / "peers.yaml"
        self.path.symlink_to("..data/peers.yaml")

    def put(self, content: str | bytes | dict[str, Any] | None) -> None:
        fresh = self._folder / f"..{secrets.token_hex(4)}"
        fresh.mkdir()
        if content is not None:
            text = yaml.safe_dump(content) if isinstance(content, dict) else content
            (fresh / "peers.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        link = self._folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(self._folder / "..data")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


@contextmanager
def raised(caplog: pytest.LogCaptureFixture, level: int) -> Iterator[list[logging.LogRecord]]:
    """The records of a level that the block adds."""
    caplog.clear()
    records: list[logging.LogRecord] = []
    yield records
    records += [record for record in caplog.records if record.levelno == level]


def test_a_change_is_read_and_nothing_else_is(volume: Volume) -> None:
    file = PeersFile(volume.path, wall=lambda: 7.0)
    volume.put({"accept": [CONSUMER], "dial": [DIAL], "gateways": [GATEWAY]})
    first = file.refresh(NOBODY)
    assert first.may_pull(parse(CONSUMER))
    assert first.may_control(parse(GATEWAY))
    assert first.may_be_dialled(parse(PRODUCER), "127.0.0.1", 7400)
    assert (first.source, first.read_at, first.error) == ("file", 7.0, None)
    assert file.refresh(first) is first
    volume.put({"accept": [PRODUCER]})
    second = file.refresh(first)
    assert not second.may_pull(parse(CONSUMER))
    assert second.may_pull(parse(PRODUCER))
    assert (second.dial, second.gateways) == ((), ())
    assert second.digest != first.digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("accept: [", "is not YAML"),
        ("[]", "a mapping of fields"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        ({"accept": ["spiffe://x"]}, "accept.0: "),
        ({"dial": [{"identity": PRODUCER, "addresses": ["here"]}]}, "dial.0.addresses.0: "),
        ({"dial": [{"identity": PRODUCER}]}, "dial.0.addresses: "),
        ("#" * (MAX_FILE_BYTES + 1), "is larger than"),
        ("[" * 100_000, "is not YAML"),
        ("accept: " + "{" * 50_000, "is not YAML"),
        ("future: 2026-99-99", "is not YAML"),
        ("future: !!int no", "is not YAML"),
        ("future: !!bool no-more", "is not YAML"),
        ("future: !!timestamp no", "is not YAML"),
    ],
)
def test_a_broken_file_leaves_the_last_good_one_and_is_said_once(
    volume: Volume, caplog: pytest.LogCaptureFixture, content: Any, words: str
) -> None:
    file = PeersFile(volume.path)
    volume.put({"accept": [CONSUMER]})
    good = file.refresh(NOBODY)
    volume.put(content)
    with raised(caplog, logging.ERROR) as errors:
        kept = file.refresh(good)
        assert file.refresh(kept) is kept
    assert len(errors) == 1
    assert kept.may_pull(parse(CONSUMER))
    assert (kept.digest, kept.read_at) == (good.digest, good.read_at)
    assert words in (kept.error or "")
    assert len(kept.error or "") < 1000
    volume.put({"accept": [PRODUCER]})
    assert file.refresh(kept).error is None


def test_no_file_is_nobody_and_a_file_that_goes_is_an_error(
    volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    file = PeersFile(volume.path)
    with raised(caplog, logging.ERROR) as errors:
        none = file.refresh(NOBODY)
    assert not errors
    assert not none.may_pull(parse(CONSUMER))
    assert "there is no such file" in (none.error or "")
    volume.put({"accept": [CONSUMER]})
    some = file.refresh(none)
    assert some.may_pull(parse(CONSUMER))
    volume.put(None)
    with raised(caplog, logging.ERROR) as errors:
        gone = file.refresh(some)
    assert len(errors) == 1
    assert (gone.accept, gone.digest) == ((), None)
    volume.put({"accept": [CONSUMER]})
    assert file.refresh(gone).may_pull(parse(CONSUMER))


def test_unknown_keys_are_said_once_and_ignored(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    file = PeersFile(volume.path)
    content = {"accept": [CONSUMER], "future": 1, "dial": [{**DIAL, "weight": 2}]}
    volume.put(content)
    with raised(caplog, logging.WARNING) as warnings:
        first = file.refresh(NOBODY)
        volume.put({**content, "gateways": [GATEWAY]})
        second = file.refresh(first)
    assert [vars(record)["fields"]["keys"] for record in warnings] == [["dial.weight", "future"]]
    assert first.may_be_dialled(parse(PRODUCER), "127.0.0.1", 1)
    assert second.may_control(parse(GATEWAY))
    assert second.error is None


async def test_running_sidecars_follow_their_file(tmp_path: Path, authority: Authority) -> None:
    """From nobody to a transfer; then the consumer is taken off the list in the middle of one."""
    volume = await asyncio.to_thread(Volume, tmp_path / "volume")
    settings = {"peers_file": str(volume.path), "peers": None}
    async with (
        sidecar(tmp_path / "p", authority.leaf(PRODUCER), **settings) as p,
        sidecar(tmp_path / "c", authority.leaf(CONSUMER), **settings) as c,
        engines(p, c, authority) as two,
        gateway(tmp_path, authority) as client,
    ):
        assert await p.metric("prfaas_sidecar_peers_file_broken") == 1
        assert (await client.get(url(p, "/v1/engine"))).status == 403
        everybody = {"accept": [CONSUMER], "dial": [DIAL], "gateways": [GATEWAY]}
        await asyncio.to_thread(volume.put, everybody)
        for side in (p, c):
            await side.until("prfaas_sidecar_peers_in_force", lambda n: n == 3)
        status = await (await client.get(url(p, "/v1/engine"))).json()
        assert status["peers"]["error"] is None
        digest = status["peers"]["digest"][:12]
        assert await p.metric("prfaas_sidecar_peers_in_force", list="accept", digest=digest) == 1
        assert await p.metric("prfaas_sidecar_peers_read_timestamp_seconds") == status["peers"]["read_at"]

        name, later = transfer_id(), transfer_id()
        produced = await two.prefill.produce(name, LANES, CONSUMER)
        await two.prefill.produce(later, LANES, CONSUMER)
        await two.decode.consume(name, LANES, p.peer_address, PRODUCER)
        await two.prefill.wanted(name)
        await asyncio.to_thread(volume.put, {**everybody, "accept": [], "gateways": []})
        await p.until("prfaas_sidecar_peers_in_force", lambda n: n == 0, list="accept")
        # What had begun ends well; what is new does not begin, over the same streams.
        await two.decode.consume(later, LANES, p.peer_address, PRODUCER)
        assert (await two.decode.ended(later)).code == "NotAuthorised"
        two.prefill.produce_all(produced, LANES)
        assert (await two.decode.ended(name)).code == "complete"
        assert (await client.get(url(p, "/v1/engine"))).status == 403
        two.decode.release(name)
        two.decode.release(later)
        two.prefill.abort(later)
        two.prefill.done(later, complete=False)
        await p.until("prfaas_sidecar_streams", lambda n: n == 0)
        await p.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)
        await eventually_async(lambda: p.said("peers were read"))
