"""Regions with authorities of their own: who is believed, who is refused, with which words."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from prfaas_demo.certificates import Authority, Leaf, ca
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import FrameType
from tests.helpers import eventually_async
from tests.sidecar.fake_engine import FINGERPRINT, Refusal, lanes_of
from tests.sidecar.harness import (
    CONSUMER,
    GATEWAY,
    PRODUCER,
    Pair,
    Process,
    engines,
    install,
    sidecar,
    transfer_id,
)
from tests.sidecar.test_control import gateway, url
from tests.sidecar.test_peers_file import Volume
from tests.sidecar.wire import tls_client

LANES = lanes_of()
DIAL = {"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}
CERTIFICATE_SECONDS = 12
"""It has to be read from disk while it lasts."""
REFUSED = "prfaas_sidecar_handshakes_refused_total"
Bundles = dict[str, dict[str, str]]


class World:
    """Authorities of three regions."""

    def __init__(self) -> None:
        self.eu, self.us, self.ap = ca("region eu"), ca("region us"), ca("region ap")

    def regions(self, **authorities: Authority) -> Bundles:
        return {name: {"trust": authority.pem.decode()} for name, authority in authorities.items()}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@contextlib.asynccontextmanager
async def two_regions(
    folder: Path,
    world: World,
    *,
    at_producer: Bundles | None,
    at_consumer: Bundles | None,
    producer: Leaf | None = None,
) -> AsyncIterator[Pair]:
    """A producer in us and a consumer in eu."""
    peers: tuple[dict[str, Any], dict[str, Any]] = (
        {"accept": [CONSUMER], "regions": at_producer},
        {"dial": [DIAL], "regions": at_consumer},
    )
    async with (
        sidecar(
            folder / "p", producer or world.us.leaf(PRODUCER), peers=peers[0], gateways=[GATEWAY]
        ) as producing,
        sidecar(folder / "c", world.eu.leaf(CONSUMER), peers=peers[1], gateways=[GATEWAY]) as consuming,
        engines(producing, consuming, world.us) as running,
    ):
        yield running


async def transfer(two: Pair) -> tuple[str, str]:
    """Code and message with which one ends."""
    name = transfer_id()
    produced = await two.prefill.produce(name, LANES, CONSUMER)
    await two.decode.consume(name, LANES, two.producer.peer_address, PRODUCER)
    two.prefill.produce_all(produced, LANES)
    end = await two.decode.ended(name)
    two.decode.release(name)
    return end.code, end.message


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


async def refused(side: Process, reason: str) -> dict[str, Any]:
    """The log line of a connection that was refused for a reason."""
    await side.until(REFUSED, lambda count: count >= 1, listener="peer", reason=reason)
    lines = await eventually_async(
        lambda: [
            line for line in side.said("connection refused") if line["reason"] == reason and line["remedy"]
        ]
    )
    return lines[0]


async def test_each_region_has_an_authority_of_its_own(tmp_path: Path, world: World) -> None:
    async with two_regions(
        tmp_path, world, at_producer=world.regions(eu=world.eu), at_consumer=world.regions(us=world.us)
    ) as two:
        assert await transfer(two) == ("complete", "")
        assert await two.producer.metric("prfaas_sidecar_regions", state="trusted") == 1


async def test_a_region_that_the_producer_does_not_know(tmp_path: Path, world: World) -> None:
    async with two_regions(
        tmp_path, world, at_producer=world.regions(ap=world.ap), at_consumer=world.regions(us=world.us)
    ) as two:
        code, message = await transfer(two)
        assert code == "UnknownRegion"
        assert "region eu is unknown there; apply Region eu with its trust bundle" in message
        assert "the cluster of region us" in message
        assert "apply the peer's Region" in (await refused(two.producer, "unknown_region"))["remedy"]
        assert two.producer.said("peer of an unknown region")[0]["region"] == "eu"


async def test_a_region_that_the_consumer_does_not_know(tmp_path: Path, world: World) -> None:
    async with two_regions(tmp_path, world, at_producer=world.regions(eu=world.eu), at_consumer={}) as two:
        with pytest.raises(Refusal) as refusal:
            await transfer(two)
        assert refusal.value.code == "UnknownRegion"


async def test_a_wrong_bundle_at_the_producer(tmp_path: Path, world: World) -> None:
    async with two_regions(
        tmp_path,
        world,
        at_producer=world.regions(eu=world.ap, ap=world.eu),
        at_consumer=world.regions(us=world.us),
    ) as two:
        code, message = await transfer(two)
        assert code == "NotAuthorised"
        assert "no authority that region us trusts for region eu" in message
        assert "trust bundle of Region eu" in message
        await refused(two.producer, "certificate_untrusted")


async def test_a_wrong_bundle_at_the_consumer(tmp_path: Path, world: World) -> None:
    async with two_regions(
        tmp_path, world, at_producer=world.regions(eu=world.eu), at_consumer=world.regions(us=world.ap)
    ) as two:
        code, message = await transfer(two)
        assert code == "NotAuthorised"
        assert "no authority of region us that is known here" in message
        assert "trust bundle of Region us here" in message


async def test_a_bundle_that_cannot_be_read_harms_its_own_region_only(tmp_path: Path, world: World) -> None:
    bundles = {**world.regions(eu=world.eu), "ap": {"trust": "-----BEGIN CERTIFICATE-----\nno\n"}}
    async with two_regions(
        tmp_path, world, at_producer=bundles, at_consumer=world.regions(us=world.us)
    ) as two:
        assert (await transfer(two))[0] == "complete"
        assert await two.producer.metric("prfaas_sidecar_regions", state="broken") == 1


@pytest.mark.parametrize(
    ("claimed", "reason"), [("eu", "certificate_untrusted"), ("ap", "wrong_region")], ids=["eu", "its own"]
)
async def test_a_certificate_that_another_regions_authority_signed(
    tmp_path: Path, world: World, claimed: str, reason: str
) -> None:
    """Authority of ap, identity of eu: whichever region the thief claims, it is not heard."""
    stolen = world.ap.leaf(CONSUMER)
    async with sidecar(
        tmp_path,
        world.us.leaf(PRODUCER),
        peers={"accept": [CONSUMER], "regions": world.regions(eu=world.eu, ap=world.ap)},
    ) as producer:
        answer = await tls_client(
            producer.peer_address,
            stolen,
            world.us.pem,
            tmp_path,
            hello(CONSUMER),
            server_name=f"{claimed}.127-0-0-1.kv.test",
        )
        await producer.until(REFUSED, lambda count: count == 1, listener="peer", reason=reason)
        if claimed == "ap":
            assert answer[3] == FrameType.GOODBYE
            assert b"WrongRegion" in answer
            assert b"the authority of region ap" in answer
        else:
            assert answer == b""


async def test_a_producer_with_a_certificate_of_another_regions_authority(
    tmp_path: Path, world: World
) -> None:
    async with two_regions(
        tmp_path,
        world,
        at_producer=world.regions(eu=world.eu),
        at_consumer=world.regions(us=world.us, ap=world.ap),
        producer=world.ap.leaf(PRODUCER),
    ) as two:
        code, message = await transfer(two)
        assert code == "NotAuthorised"
        assert "no authority of region us" in message


@pytest.mark.parametrize("whose", ["producer", "consumer"])
async def test_a_certificate_that_has_expired_meanwhile(tmp_path: Path, world: World, whose: str) -> None:
    authority, identity = (world.us, PRODUCER) if whose == "producer" else (world.eu, CONSUMER)
    async with two_regions(
        tmp_path, world, at_producer=world.regions(eu=world.eu), at_consumer=world.regions(us=world.us)
    ) as two:
        now = dt.datetime.now(dt.UTC)
        begins, ends = now - dt.timedelta(minutes=5), now + dt.timedelta(seconds=CERTIFICATE_SECONDS)
        side = two.producer if whose == "producer" else two.consumer
        await install(
            side, authority.leaf(identity, valid_from=begins, valid_for=ends - begins), authority.pem
        )
        await eventually_async(
            lambda: dt.datetime.now(dt.UTC) > ends + dt.timedelta(seconds=1),
            within_seconds=2 * CERTIFICATE_SECONDS,
        )
        code, message = await transfer(two)
        assert code == "CertificateExpired"
        assert (
            "its certificate has expired" if whose == "producer" else "this side's certificate"
        ) in message
        if whose == "consumer":
            await refused(two.producer, "certificate_expired")


async def test_sidecars_without_server_names_are_of_the_own_region(tmp_path: Path, world: World) -> None:
    """As those of the version before, in both directions."""
    own, other = CONSUMER.replace("/eu/", "/us/"), CONSUMER
    regions = world.regions(eu=world.eu)
    async with sidecar(
        tmp_path / "p", world.us.leaf(PRODUCER), peers={"accept": [own, other], "regions": regions}
    ) as producer:
        answer = await tls_client(
            producer.peer_address,
            world.us.leaf(own),
            world.us.pem,
            tmp_path,
            hello(own) + hello(own),
            server_name="pod-1.test",
        )
        assert answer[3] == FrameType.HELLO_ACK
        await tls_client(producer.peer_address, world.eu.leaf(other), world.us.pem, tmp_path, hello(other))
        await refused(producer, "certificate_untrusted")
        claims = await tls_client(
            producer.peer_address, world.us.leaf(other), world.us.pem, tmp_path, hello(other)
        )
        assert b"WrongRegion" in claims

    async with (
        sidecar(tmp_path / "old", world.us.leaf(PRODUCER), accept=[own]) as before,
        sidecar(tmp_path / "new", world.us.leaf(own), peers={"dial": [DIAL], "regions": regions}) as consumer,
        engines(before, consumer, world.us) as two,
    ):
        name = transfer_id()
        produced = await two.prefill.produce(name, LANES, own)
        await two.decode.consume(name, LANES, before.peer_address, PRODUCER)
        two.prefill.produce_all(produced, LANES)
        assert (await two.decode.ended(name)).code == "complete"


async def test_gateways_are_of_the_own_region_too(tmp_path: Path, world: World) -> None:
    async with sidecar(
        tmp_path / "c",
        world.eu.leaf(CONSUMER),
        peers={"regions": world.regions(us=world.us)},
        gateways=[GATEWAY, GATEWAY.replace("/eu/", "/us/")],
    ) as consumer:
        async with gateway(tmp_path / "own", world.eu) as client:
            assert (await client.get(url(consumer, "/v1/engine"))).status == 200
        async with gateway(tmp_path / "false", world.eu, GATEWAY.replace("/eu/", "/us/")) as client:
            answer = await client.get(url(consumer, "/v1/engine"))
            assert answer.status == 403
            assert (await answer.json())["error"]["code"] == "WrongRegion"


async def test_a_bundle_that_is_removed_ends_nothing_and_begins_nothing(tmp_path: Path, world: World) -> None:
    volume = await asyncio.to_thread(Volume, tmp_path / "volume")
    known: dict[str, Any] = {"accept": [CONSUMER], "regions": world.regions(eu=world.eu)}
    await asyncio.to_thread(volume.put, known)
    async with (
        sidecar(tmp_path / "p", world.us.leaf(PRODUCER), peers_file=str(volume.path), peers=None) as p,
        sidecar(
            tmp_path / "c",
            world.eu.leaf(CONSUMER),
            peers={"dial": [DIAL], "regions": world.regions(us=world.us)},
        ) as c,
        engines(p, c, world.us) as two,
    ):
        running, later = transfer_id(), transfer_id()
        produced = await two.prefill.produce(running, LANES, CONSUMER)
        await two.decode.consume(running, LANES, p.peer_address, PRODUCER)
        await two.prefill.wanted(running)
        await asyncio.to_thread(volume.put, {**known, "regions": {}})
        await p.until("prfaas_sidecar_regions", lambda count: count == 0, state="trusted")
        await two.decode.consume(later, LANES, p.peer_address, PRODUCER)
        end = await two.decode.ended(later)
        assert (end.code, "apply the peer's Region" in end.message) == ("UnknownRegion", True)
        two.prefill.produce_all(produced, LANES)
        assert (await two.decode.ended(running)).code == "complete"
        for name in (running, later):
            two.decode.release(name)
        await p.until("prfaas_sidecar_streams", lambda count: count == 0)

        # And it comes back without a restart.
        await asyncio.to_thread(volume.put, known)
        await p.until("prfaas_sidecar_regions", lambda count: count == 1, state="trusted")
        assert (await transfer(two))[0] == "complete"
