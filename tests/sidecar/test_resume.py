"""Links that break, stall and lie in the middle of a transfer: what has landed stays, the rest is asked for
again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from prfaas_connector.local_api.messages import Accepted
from prfaas_connector.local_api.units import count
from prfaas_demo.certificates import Authority
from prfaas_sidecar.protocol import bodies
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import DIGEST, FINGERPRINT, everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, pair, transfer_id
from tests.sidecar.wire import Proxy, proxy, stubborn_client

LANES = lanes_of(layers=4, units=64, unit_bytes=8192)
LINK: dict[str, Any] = {
    "frame_bytes": 16384,
    "connect_seconds": 2,
    "resume_seconds": 2,
    "ping_seconds": 0.2,
    "silence_seconds": 1,
}


@contextlib.asynccontextmanager
async def through_proxy(
    folder: Path, authority: Authority, **settings: Any
) -> AsyncIterator[tuple[Pair, Proxy]]:
    async with pair(folder, authority, **settings) as two, proxy(two.producer.peer_address) as between:
        yield two, between


async def half_landed(two: Pair, between: Proxy, name: str) -> tuple[Accepted, Accepted]:
    """Half of every lane has landed, the other half is not published yet."""
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    consumed = await two.decode.consume(name, LANES, between.address, PRODUCER)
    for index in range(len(LANES)):
        two.prefill.fill(produced, LANES, index, 0, 32)
        two.prefill.publish(name, index, 0, 32)
    await two.decode.progressed(name, lambda told: count(told.landed[0]) == 32)
    return produced, consumed


def publish_rest(two: Pair, produced: Accepted) -> None:
    for index in range(len(LANES)):
        two.prefill.fill(produced, LANES, index, 32, 32)
        two.prefill.publish(produced.transfer_id, index, 32, 32)
    two.prefill.done(produced.transfer_id)


async def test_cut_streams_are_replaced_and_only_the_rest_crosses_again(
    tmp_path: Path, authority: Authority
) -> None:
    async with through_proxy(tmp_path, authority, link=LINK) as (two, between):
        name = transfer_id()
        produced, consumed = await half_landed(two, between, name)
        between.cut()
        publish_rest(two, produced)
        assert (await two.decode.ended(name)).code == "complete"
        assert two.decode.check(consumed, LANES, everything(LANES), two.decode.landed(name)) == 4 * 64
        size = sum(lane.units * lane.unit_bytes for lane in LANES)
        assert await two.consumer.metric("prfaas_sidecar_kv_bytes_total", side="consumer") == size
        assert await two.producer.metric("prfaas_sidecar_kv_bytes_total", side="producer") <= 1.5 * size
        assert await two.consumer.metric("prfaas_sidecar_resumes_total") >= 1


async def test_a_link_that_stays_down_leaves_what_has_landed(tmp_path: Path, authority: Authority) -> None:
    async with through_proxy(tmp_path, authority, link=LINK) as (two, between):
        name = transfer_id()
        produced, consumed = await half_landed(two, between, name)
        between.accepting = False
        between.cut()
        publish_rest(two, produced)
        assert (await two.decode.ended(name)).code == "LinkLost"
        landed = two.decode.landed(name)
        assert landed == (((0, 32),),)
        assert two.decode.check(consumed, LANES, everything(LANES), landed) == 4 * 32
        two.decode.release(name)
        await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


async def test_a_peer_that_falls_silent_is_noticed(tmp_path: Path, authority: Authority) -> None:
    async with through_proxy(tmp_path, authority, link=LINK) as (two, between):
        name = transfer_id()
        produced, _ = await half_landed(two, between, name)
        between.stall()
        publish_rest(two, produced)
        assert (await two.decode.ended(name)).code == "PeerSilent"
        assert two.decode.landed(name) == (((0, 32),),)
        await two.producer.until(
            "prfaas_sidecar_streams_lost_total", lambda lost: lost >= 1, side="producer", code="PeerSilent"
        )


async def test_a_stalled_link_that_comes_back_is_used_again(tmp_path: Path, authority: Authority) -> None:
    patient = {**LINK, "resume_seconds": 15}
    async with through_proxy(tmp_path, authority, link=patient) as (two, between):
        name = transfer_id()
        produced, consumed = await half_landed(two, between, name)
        between.stall()
        publish_rest(two, produced)
        await two.consumer.until(
            "prfaas_sidecar_streams_lost_total", lambda lost: lost >= 4, side="consumer", code="PeerSilent"
        )
        between.flow()
        assert (await two.decode.ended(name)).code == "complete"
        assert two.decode.check(consumed, LANES, everything(LANES), two.decode.landed(name)) == 4 * 64


async def test_a_peer_that_accepts_and_says_nothing_is_silent(tmp_path: Path, authority: Authority) -> None:
    async with through_proxy(tmp_path, authority, link=LINK) as (two, between):
        between.stall()
        name = transfer_id()
        await two.decode.consume(name, LANES, between.address, PRODUCER)
        assert (await two.decode.ended(name)).code == "PeerSilent"


async def test_a_peer_that_is_not_there_is_unreachable(tmp_path: Path, authority: Authority) -> None:
    async with through_proxy(tmp_path, authority, link=LINK) as (two, between):
        address = between.address
        await between.close()
        name = transfer_id()
        await two.decode.consume(name, LANES, address, PRODUCER)
        assert (await two.decode.ended(name)).code == "PeerUnreachable"


@pytest.mark.parametrize("there", [True, False])
async def test_what_is_given_up_for_want_of_a_stream_counts_against_the_link(
    tmp_path: Path, authority: Authority, there: bool
) -> None:
    """Engines take leave long before a way is given up here, and of transfers that go well too."""
    async with through_proxy(tmp_path, authority, link={**LINK, "connect_seconds": 60}) as (two, between):
        name, address = transfer_id(), between.address
        await two.prefill.produce(name, LANES, CONSUMER)
        if there:
            await two.decode.consume(name, LANES, address, PRODUCER)
            await two.consumer.until("prfaas_sidecar_streams", lambda count: count > 0, side="consumer")
        else:
            await between.close()
            await two.decode.consume(name, LANES, address, PRODUCER)
            await two.consumer.until(
                "prfaas_sidecar_transfers_running", lambda count: count == 1, side="consumer"
            )
            began = time.monotonic()
            await eventually_async(lambda: time.monotonic() > began + 1.2, within_seconds=5)
        two.decode.release(name)
        await two.consumer.until("prfaas_sidecar_transfers_total", lambda count: count == 1, code="Cancelled")
        (link,) = json.loads((await two.consumer.get("/status"))[1])["links"]
        assert link["failed_transfers"] == (0 if there else 1)


async def test_a_peer_that_takes_nothing_does_not_keep_the_memory(
    tmp_path: Path, authority: Authority
) -> None:
    async with pair(tmp_path, authority, link=LINK, arena_bytes="64MiB") as two:
        name, lanes = transfer_id(), lanes_of(layers=2, units=16, unit_bytes=1 << 20)
        await two.prefill.produce(name, lanes, CONSUMER)
        for index in range(len(lanes)):
            two.prefill.publish(name, index, 0, 16)
        asked = bodies.pack(
            bodies.Hello(
                versions=(1, 1),
                channel=transfer_id(),
                identity=CONSUMER,
                fingerprint=FINGERPRINT,
                fingerprint_fields={},
            )
        ) + bodies.pack(
            bodies.Open(
                pull=0,
                transfer_id=name,
                prompt_digest=DIGEST,
                lanes=tuple((0, lane.layer, 0, lane.units, lane.unit_bytes) for lane in lanes),
                want=everything(lanes),
                deadline_seconds=20.0,
            )
        )
        ping = bodies.pack(bodies.Ping(number=1))
        await stubborn_client(
            two.producer.peer_address, authority.leaf(CONSUMER), authority.pem, tmp_path, asked, ping
        )
        await two.producer.until(
            "prfaas_sidecar_streams_lost_total", lambda lost: lost == 1, side="producer", code="PeerSilent"
        )
        two.prefill.done(name)
        two.prefill.abort(name)
        await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


PLAINTEXT: dict[str, Any] = {
    "insecure_plaintext_peers": True,
    "producer": {"identity": PRODUCER},
    "consumer": {"identity": CONSUMER},
    # One stream, so that positions in it are those of the frames.
    "link": {**LINK, "streams": 1},
}


@pytest.mark.parametrize("position", [40_000, 120_001, 1_000_000])
async def test_a_damaged_block_is_dropped_and_sent_again(
    tmp_path: Path, authority: Authority, position: int
) -> None:
    async with through_proxy(tmp_path, authority, **PLAINTEXT) as (two, between):
        between.damage = {position}
        name = transfer_id()
        produced, consumed = await half_landed(two, between, name)
        publish_rest(two, produced)
        assert (await two.decode.ended(name)).code == "complete"
        assert two.decode.check(consumed, LANES, everything(LANES), two.decode.landed(name)) == 4 * 64
        assert between.bytes_to_consumer > position
        assert await two.consumer.metric("prfaas_sidecar_checksum_failures_total") == 1


async def test_a_link_that_damages_everything_delivers_nothing(tmp_path: Path, authority: Authority) -> None:
    async with through_proxy(tmp_path, authority, **PLAINTEXT) as (two, between):
        name = transfer_id()
        produced = await two.prefill.produce(name, LANES, CONSUMER)
        await two.decode.consume(name, LANES, between.address, PRODUCER)
        await two.prefill.wanted(name)
        between.damage_every = 5000
        two.prefill.produce_all(produced, LANES)
        assert (await two.decode.ended(name)).code in ("ChecksumMismatch", "ProtocolError", "LinkLost")
        for message in two.decode.scheduler.received:
            assert getattr(message, "landed_bytes", 0) < LANES[0].unit_bytes * 16
        assert await two.consumer.metric("prfaas_sidecar_checksum_failures_total") > 0


async def test_a_damaged_header_breaks_the_stream_and_nothing_else(
    tmp_path: Path, authority: Authority
) -> None:
    async with through_proxy(tmp_path, authority, **PLAINTEXT) as (two, between):
        name = transfer_id()
        produced, consumed = await half_landed(two, between, name)
        # The next byte of the stream is the first of a frame.
        between.damage = {between.bytes_to_consumer}
        publish_rest(two, produced)
        assert (await two.decode.ended(name)).code == "complete"
        assert two.decode.check(consumed, LANES, everything(LANES), two.decode.landed(name)) == 4 * 64
        assert (
            await two.consumer.metric(
                "prfaas_sidecar_streams_lost_total", side="consumer", code="ProtocolError"
            )
            == 1
        )
