"""Everybody who should not be heard, and every mismatch that must be found before a byte of KV moves."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from prfaas_connector.local_api.units import Lane
from prfaas_demo.certificates import Authority, ca
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import HEADER, FrameType
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FINGERPRINT, Refusal, everything, lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, Pair, sidecar, transfer_id
from tests.sidecar.wire import plain_client, tls_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

LANES = lanes_of()
OTHER_POOL = "spiffe://test/region/eu/ns/default/pool/DecodePool/other"
OTHER_REGION = "spiffe://test/region/ap/ns/default/pool/PrefillPool/long"
ANYWHERE = [{"identity": "spiffe://test/region/*/ns/*/pool/*/*", "addresses": ["127.0.0.1:*"]}]


async def kv_sent(two: Pair) -> float:
    return await two.producer.metric("prfaas_sidecar_kv_bytes_total", side="producer")


async def test_a_certificate_of_another_ca_is_refused(two: Pair, tmp_path: Path) -> None:
    stranger = ca("another CA").leaf(CONSUMER)
    await tls_client(two.producer.peer_address, stranger, two.authority.pem, tmp_path, b"x")
    await two.producer.until(
        "prfaas_sidecar_handshakes_refused_total",
        lambda n: n == 1,
        listener="peer",
        reason="certificate_untrusted",
    )
    await eventually_async(lambda: two.producer.said("connection refused"))


async def test_an_expired_certificate_is_refused(two: Pair, tmp_path: Path) -> None:
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = two.authority.leaf(CONSUMER, valid_from=long_ago)
    await tls_client(two.producer.peer_address, expired, two.authority.pem, tmp_path, b"x")
    await two.producer.until(
        "prfaas_sidecar_handshakes_refused_total",
        lambda n: n == 1,
        listener="peer",
        reason="certificate_expired",
    )


async def test_a_client_without_a_certificate_is_refused(two: Pair, tmp_path: Path) -> None:
    await tls_client(two.producer.peer_address, None, two.authority.pem, tmp_path, b"x")
    await two.producer.until(
        "prfaas_sidecar_handshakes_refused_total",
        lambda n: n == 1,
        listener="peer",
        reason="certificate_missing",
    )


async def test_a_plaintext_client_is_refused(two: Pair) -> None:
    await plain_client(two.producer.peer_address, b"GET / HTTP/1.1\r\n\r\n")
    await two.producer.until(
        "prfaas_sidecar_handshakes_refused_total", lambda n: n == 1, listener="peer", reason="not_tls"
    )


@pytest.mark.parametrize(
    "uris",
    [[], [CONSUMER, PRODUCER], ["spiffe://test/somebody"], ["https://example.com/"], [OTHER_POOL]],
    ids=["none", "two", "no pool", "no identity", "not on the list"],
)
async def test_only_one_identity_that_is_on_the_list_is_heard(
    two: Pair, tmp_path: Path, uris: list[str]
) -> None:
    leaf = two.authority.leaf(uris)
    answer = await tls_client(two.producer.peer_address, leaf, two.authority.pem, tmp_path, hello(CONSUMER))
    assert answer[3] == FrameType.GOODBYE
    assert b"NotAuthorised" in answer
    await two.producer.until(
        "prfaas_sidecar_streams_lost_total", lambda n: n == 1, side="producer", code="NotAuthorised"
    )


async def test_a_hello_cannot_claim_another_identity(two: Pair, tmp_path: Path) -> None:
    leaf = two.authority.leaf(CONSUMER)
    answer = await tls_client(two.producer.peer_address, leaf, two.authority.pem, tmp_path, hello(OTHER_POOL))
    assert b"NotAuthorised" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HEADER.pack(b"PK", 99, FrameType.HELLO, 10),
        HEADER.pack(b"PK", 1, 77, 10),
        HEADER.pack(b"PK", 1, FrameType.HELLO, 1 << 31),
        HEADER.pack(b"PK", 1, FrameType.DATA, 1 << 20),
        HEADER.pack(b"PK", 1, FrameType.HELLO, 2) + b"{}",
        HEADER.pack(b"PK", 1, FrameType.HELLO, 0),
    ],
    ids=["other protocol", "version", "type", "oversized", "data before hello", "no fields", "empty"],
)
async def test_whoever_breaks_the_protocol_is_disconnected_and_counted(
    two: Pair, tmp_path: Path, data: bytes
) -> None:
    leaf = two.authority.leaf(CONSUMER)
    answer = await tls_client(two.producer.peer_address, leaf, two.authority.pem, tmp_path, data)
    assert b"ProtocolError" in answer
    await two.producer.until(
        "prfaas_sidecar_streams_lost_total", lambda n: n == 1, side="producer", code="ProtocolError"
    )
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    two.prefill.produce_all(produced, LANES)
    assert (await two.decode.ended(name)).code == "complete"


async def test_a_producer_of_another_region_is_not_taken_for_the_right_one(
    tmp_path: Path, authority: Authority
) -> None:
    async with (
        sidecar(tmp_path / "p", authority.leaf(OTHER_REGION), accept=[CONSUMER]) as producer,
        sidecar(tmp_path / "c", authority.leaf(CONSUMER), dial=ANYWHERE) as consumer,
    ):
        decode = await consumer.engine()
        name = transfer_id()
        await decode.consume(name, LANES, producer.peer_address, PRODUCER)
        assert (await decode.ended(name)).code == "NotAuthorised"
        await decode.close()


async def test_a_consumer_that_is_not_on_the_list_learns_it_at_once(
    tmp_path: Path, authority: Authority
) -> None:
    async with (
        sidecar(tmp_path / "p", authority.leaf(PRODUCER), accept=[CONSUMER]) as producer,
        sidecar(tmp_path / "c", authority.leaf(OTHER_POOL), dial=ANYWHERE) as consumer,
    ):
        decode = await consumer.engine()
        name = transfer_id()
        await decode.consume(name, LANES, producer.peer_address, PRODUCER)
        end = await decode.ended(name)
        assert end.code == "NotAuthorised"
        assert "not on the list" in end.message
        await decode.close()


async def test_a_producer_of_an_untrusted_ca_is_not_used(tmp_path: Path, authority: Authority) -> None:
    async with (
        sidecar(tmp_path / "p", ca("another CA").leaf(PRODUCER), accept=[CONSUMER]) as producer,
        sidecar(tmp_path / "c", authority.leaf(CONSUMER), dial=ANYWHERE) as consumer,
    ):
        decode = await consumer.engine()
        name = transfer_id()
        await decode.consume(name, LANES, producer.peer_address, PRODUCER)
        assert (await decode.ended(name)).code == "NotAuthorised"
        await decode.close()


async def test_a_transfer_of_another_pool_is_not_given_away(two: Pair) -> None:
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, OTHER_POOL)
    two.prefill.produce_all(produced, LANES)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    assert (await two.decode.ended(name)).code == "NotAuthorised"
    assert await kv_sent(two) == 0


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("127.0.0.1", PRODUCER),
        ("10.0.0.1:7400", PRODUCER),
        ("127.0.0.1:7400", OTHER_REGION),
        ("127.0.0.1:7400", "x"),
    ],
    ids=["no port", "address", "identity", "no identity"],
)
async def test_only_configured_peers_are_dialled(two: Pair, address: str, identity: str) -> None:
    with pytest.raises(Refusal) as refusal:
        await two.decode.consume(transfer_id(), LANES, address, identity)
    assert refusal.value.code == "PeerNotAllowed"


@pytest.mark.parametrize("ask_first", [True, False])
async def test_two_prompts_do_not_mix(two: Pair, ask_first: bool) -> None:
    name = transfer_id()
    if ask_first:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER, digest="e" * 64)
        await two.producer.until("prfaas_sidecar_streams", lambda n: n > 0, side="producer")
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    two.prefill.produce_all(produced, LANES)
    if not ask_first:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER, digest="e" * 64)
    assert (await two.decode.ended(name)).code == "PromptMismatch"
    assert await kv_sent(two) == 0
    two.decode.release(name)
    await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)


async def test_engines_with_different_kv_are_kept_apart(two: Pair) -> None:
    await two.decode.close()
    await two.consumer.until("prfaas_sidecar_engine_connections", lambda n: n == 0)
    other = await two.consumer.engine(fingerprint="0" * 64)
    name = transfer_id()
    await two.prefill.produce(name, LANES, CONSUMER)
    await other.consume(name, LANES, two.producer.peer_address, PRODUCER)
    end = await other.ended(name)
    assert end.code == "FingerprintMismatch"
    assert "model: fake" in end.message
    assert "other" in end.message
    assert await kv_sent(two) == 0
    await other.close()


async def test_fingerprints_are_compared_again_when_the_engine_comes_after_the_question(
    tmp_path: Path, authority: Authority
) -> None:
    async with (
        sidecar(tmp_path / "p", authority.leaf(PRODUCER), accept=[CONSUMER]) as producer,
        sidecar(tmp_path / "c", authority.leaf(CONSUMER), dial=ANYWHERE) as consumer,
    ):
        decode = await consumer.engine()
        name = transfer_id()
        await decode.consume(name, LANES, producer.peer_address, PRODUCER)
        await producer.until("prfaas_sidecar_streams", lambda n: n > 0, side="producer")
        prefill = await producer.engine(fingerprint="0" * 64)
        await prefill.produce(name, LANES, CONSUMER)
        assert (await decode.ended(name)).code == "FingerprintMismatch"
        await decode.close()
        await prefill.close()


@pytest.mark.parametrize(
    "lanes",
    [lanes_of(layers=3), lanes_of(units=9), lanes_of(unit_bytes=8192)],
    ids=["layers", "units", "unit size"],
)
async def test_lanes_that_differ_are_refused(two: Pair, lanes: tuple[Lane, ...]) -> None:
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    two.prefill.produce_all(produced, LANES)
    await two.decode.consume(name, lanes, two.producer.peer_address, PRODUCER)
    assert (await two.decode.ended(name)).code == "LayoutMismatch"
    assert await kv_sent(two) == 0


async def test_a_full_arena_refuses_at_once_and_takes_the_next_when_it_is_empty(two: Pair) -> None:
    large = lanes_of(layers=2, units=6, unit_bytes=1 << 20)
    first, second = transfer_id(), transfer_id()
    await two.prefill.produce(first, large, CONSUMER)
    with pytest.raises(Refusal) as refusal:
        await two.prefill.produce(second, large, CONSUMER)
    assert refusal.value.code == "ArenaFull"
    two.prefill.abort(first)
    two.prefill.done(first, complete=False)
    await two.producer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)
    await two.prefill.produce(transfer_id(), large, CONSUMER)

    # The consumer of the refused one learns it too, instead of waiting.
    await two.decode.consume(second, LANES, two.producer.peer_address, PRODUCER)
    assert (await two.decode.ended(second)).code == "ArenaFull"
    two.decode.release(second)
    await two.consumer.until("prfaas_sidecar_arena_used_bytes", lambda used: used == 0)
    await two.decode.consume(first, large, two.producer.peer_address, PRODUCER)
    with pytest.raises(Refusal) as refusal:
        await two.decode.consume(transfer_id(), large, two.producer.peer_address, PRODUCER)
    assert refusal.value.code == "ArenaFull"


async def test_an_id_is_used_once(two: Pair) -> None:
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    for again in (
        two.prefill.produce(name, LANES, CONSUMER),
        two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER),
    ):
        with pytest.raises(Refusal) as refusal:
            await again
        assert refusal.value.code == "TransferExists"
    two.prefill.produce_all(produced, LANES)
    assert (await two.decode.ended(name)).code == "complete"
    two.decode.release(name)
    with pytest.raises(Refusal) as refusal:
        await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    assert refusal.value.code == "TransferExists"


async def test_a_transfer_that_nobody_produces_is_unknown_after_the_wait(
    tmp_path: Path, authority: Authority
) -> None:
    limits: dict[str, Any] = {"pending_seconds": 0.3}
    async with (
        sidecar(tmp_path / "p", authority.leaf(PRODUCER), accept=[CONSUMER], limits=limits) as producer,
        sidecar(tmp_path / "c", authority.leaf(CONSUMER), dial=ANYWHERE) as consumer,
    ):
        decode = await consumer.engine()
        name = transfer_id()
        await decode.consume(name, LANES, producer.peer_address, PRODUCER)
        assert (await decode.ended(name)).code == "UnknownTransfer"
        await decode.close()


async def test_wanting_more_than_there_is_is_refused(two: Pair) -> None:
    with pytest.raises(Refusal) as refusal:
        await two.decode.consume(transfer_id(), LANES, two.producer.peer_address, PRODUCER, want=(((0, 9),),))
    assert refusal.value.code == "LayoutMismatch"
    assert everything(LANES) == (((0, 8),),)


def hello(identity: str) -> bytes:
    return bodies.pack(
        bodies.Hello(
            versions=(1, 1),
            channel=transfer_id(),
            identity=identity,
            fingerprint=FINGERPRINT,
            fingerprint_fields={"model": "fake"},
        )
    )
