"""Who gets in at a peer port, and who does not: real sockets, real certificates, hostile peers."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.config import Tls
from prfaas_gateway.peering import listener as listener_module
from prfaas_gateway.peering.trust import PeerTrust
from tests.gateway.peering_world import (
    RegionWorld,
    call,
    decoding,
    gateway_of,
    offering,
    pool_of,
    region_world,
    target,
    two_regions,
)
from tests.helpers import eventually_async

EXPIRED: dict[str, Any] = {
    "valid_from": dt.datetime.now(dt.UTC) - dt.timedelta(hours=2),
    "valid_for": dt.timedelta(hours=1),
}


@asynccontextmanager
async def us_alone(folder: Path, *others: tuple[str, Authority]) -> AsyncIterator[RegionWorld]:
    """The gateway of `us`, which knows these other regions."""
    async with region_world(folder / "us", "us") as us:
        regions = [
            target(us, name=name, clusters=(), peer_address=None, trust=authority.pem.decode())
            for name, authority in others
        ]
        await us.add_pod("long-0")
        us.controller.take_snapshot(offering("us", *regions).to_json())
        await eventually_async(lambda: us.peers.trust.knows("us"))
        yield us


async def dial(
    us: RegionWorld,
    folder: Path,
    authority: Authority,
    uri: str,
    name: str | None,
    path: str = "/v1/reach",
    **validity: Any,
) -> tuple[int, str]:
    """Ask the peer port with such a certificate and server name; status 0 when there is no answer."""
    context = await asyncio.to_thread(client_context, folder, authority, uri, us.authority, validity)
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(
                f"https://{us.peer_address}{path}", ssl=context, server_hostname=name or "127.0.0.1"
            ) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError) as error:
            return 0, type(error).__name__


def client_context(
    folder: Path, authority: Authority, uri: str, trusted: Authority, validity: dict[str, Any]
) -> ssl.SSLContext:
    """A certificate for ``uri``; the other end is believed whoever it is of that authority."""
    files = authority.leaf(uri, **validity).write(folder / "dial", "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(cadata=trusted.pem.decode())
    return context


async def test_a_gateway_of_a_known_region_gets_in(tmp_path: Path) -> None:
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        status, text = await dial(us, tmp_path, eu, gateway_of("eu"), "eu.gateway.test")
        assert (status, json.loads(text)["region"]) == (200, "us")
        # Without a server name of a region it is the own one, as before there were others.
        status, _ = await dial(us, tmp_path, us.authority, gateway_of("us"), None)
        assert status == 200


@pytest.mark.parametrize(
    ("signer", "uri", "name", "label", "code"),
    [
        ("other", gateway_of("eu"), "eu.gateway.test", "eu", "UnknownAuthority"),
        ("asia", gateway_of("eu"), "eu.gateway.test", "eu", "UnknownAuthority"),
        ("asia", gateway_of("eu"), "asia.gateway.test", "asia", "WrongIdentity"),
        ("eu", pool_of("eu", "DecodePool", "chat"), "eu.gateway.test", "eu", "WrongIdentity"),
        ("eu", pool_of("us", "PrefillPool", "long"), "eu.gateway.test", "eu", "WrongIdentity"),
        (
            "eu",
            "spiffe://elsewhere/region/eu/ns/prfaas/gateway/main",
            "eu.gateway.test",
            "eu",
            "WrongIdentity",
        ),
        ("eu", gateway_of("eu"), "nowhere.gateway.test", "unknown", "TlsFailed"),
        ("eu", gateway_of("eu"), None, "unknown", "UnknownAuthority"),
    ],
    ids=[
        "another-authority",
        "stolen-name",
        "authority-of-another-region",
        "pool-certificate",
        "pool-certificate-of-another-region",
        "another-trust-domain",
        "unknown-region",
        "no-server-name",
    ],
)
async def test_nobody_else_gets_in(
    tmp_path: Path, signer: str, uri: str, name: str | None, label: str, code: str
) -> None:
    authorities = {"eu": ca("eu"), "asia": ca("asia"), "other": ca("other")}
    known = (("eu", authorities["eu"]), ("asia", authorities["asia"]))
    async with us_alone(tmp_path, *known) as us:
        status, _ = await dial(us, tmp_path, authorities[signer], uri, name)
        assert status == 0
        await eventually_async(lambda: us.counted("peers_refused_total", region=label, code=code) >= 1)
        if label != "unknown":
            refused = (await us.seen(label))["refused"]
            assert refused["code"] == code
            assert refused["remedy"]
        # Nothing else is harmed.
        assert (await dial(us, tmp_path, authorities["eu"], gateway_of("eu"), "eu.gateway.test"))[0] == 200


async def test_an_expired_certificate_does_not_get_in(tmp_path: Path) -> None:
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        status, _ = await dial(us, tmp_path, eu, gateway_of("eu"), "eu.gateway.test", **EXPIRED)
        assert status == 0
        await eventually_async(
            lambda: us.counted("peers_refused_total", region="eu", code="CertificateExpired") >= 1
        )
        assert "operator of region eu" in (await us.seen("eu"))["refused"]["remedy"]


async def test_bundles_follow_the_snapshot(tmp_path: Path) -> None:
    old, new = ca("old"), ca("new")
    async with us_alone(tmp_path, ("eu", old)) as us:

        async def status(authority: Authority) -> int:
            return (await dial(us, tmp_path, authority, gateway_of("eu"), "eu.gateway.test"))[0]

        def trust(*authorities: Authority) -> None:
            bundle = "".join(authority.pem.decode() for authority in authorities) or None
            eu = target(us, name="eu", clusters=(), peer_address=None, trust=bundle)
            us.controller.take_snapshot(offering("us", eu).to_json())

        async def eventually(authority: Authority, wanted: int) -> None:
            async def so() -> bool:
                return await status(authority) == wanted

            await eventually_async(so)

        assert (await status(old), await status(new)) == (200, 0)
        trust(old, new)
        await eventually(new, 200)
        assert await status(old) == 200
        trust(new)
        await eventually(old, 0)
        trust()
        await eventually(new, 0)


async def test_the_own_region_may_have_two_authorities_and_a_file_that_names_one(tmp_path: Path) -> None:
    new = ca("new")
    async with us_alone(tmp_path) as us:

        async def status() -> int:
            return (await dial(us, tmp_path, new, gateway_of("us"), "us.gateway.test"))[0]

        assert await status() == 0
        us.controller.take_snapshot(offering("us").with_links((), new.pem.decode()).to_json())

        async def believed() -> bool:
            # 403: who it is is believed; gateways of the own region have no business here.
            return await status() != 0

        await eventually_async(believed)
        us.controller.take_snapshot(offering("us").to_json())

        async def gone() -> bool:
            return await status() == 0

        await eventually_async(gone)


async def test_a_broken_bundle_harms_its_own_region_only(tmp_path: Path) -> None:
    eu, asia = ca("eu"), ca("asia")
    async with us_alone(tmp_path, ("eu", eu), ("asia", asia)) as us:
        broken = target(us, name="asia", clusters=(), peer_address=None, trust="no certificate")
        good = target(us, name="eu", clusters=(), peer_address=None, trust=eu.pem.decode())
        us.controller.take_snapshot(offering("us", broken, good).to_json())
        await eventually_async(lambda: "asia" in us.peers.trust.troubles)
        assert (await dial(us, tmp_path, eu, gateway_of("eu"), "eu.gateway.test"))[0] == 200
        assert (await dial(us, tmp_path, asia, gateway_of("asia"), "asia.gateway.test"))[0] == 0
        async with us.client.get(us.health_url + "/v1/regions") as response:
            assert (await response.json())["bundle_troubles"].keys() == {"asia"}


@pytest.mark.parametrize(
    ("hop", "fields"),
    [
        ("DNS", {"peer_address": "gateway.invalid:7410"}),
        ("TCP", {"peer_address": "127.0.0.1:9"}),
        ("TLS", {"trust": "another"}),
        ("Identity", {"trust": None}),
    ],
)
async def test_the_hop_that_fails_is_named_with_a_remedy(
    tmp_path: Path, hop: str, fields: dict[str, Any]
) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_hop("us", None)
        if fields.get("trust"):
            fields = {"trust": ca("another").pem.decode()}
        eu.controller.take_snapshot(decoding("eu", target(us, **fields)).to_json())
        await eu.eventually_hop("us", hop)
        failing = (await eu.seen("us"))["hops"][-1]
        assert failing["message"]
        assert failing["remedy"]
        assert (await eu.routed())[0] == "local"


async def test_a_region_that_does_not_know_this_one_is_named(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_hop("us", None)
        us.controller.take_snapshot(offering("us").to_json())
        await eu.eventually_hop("us", "Authorisation")
        assert "Region eu" in (await eu.seen("us"))["hops"][-1]["remedy"]
        us.controller.take_snapshot(offering("us", target(eu)).to_json())
        await eu.eventually_routed("remote", "OverThreshold")


async def test_a_pool_that_answers_in_place_of_a_gateway_is_not_believed(tmp_path: Path) -> None:
    stolen = {"uri": pool_of("us", "PrefillPool", "long")}
    async with (
        region_world(tmp_path / "eu", "eu") as eu,
        region_world(tmp_path / "us", "us", certificate=stolen) as us,
    ):
        us.controller.take_snapshot(offering("us", target(eu)).to_json())
        eu.controller.take_snapshot(decoding("eu", target(us)).to_json())
        await eu.eventually_hop("us", "Identity")
        assert eu.counted("exchange_stops_total", region="us", code="WrongIdentity") >= 1


async def test_the_own_certificate_rotates_while_the_region_is_used(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        tls = eu.services.config.tls
        assert tls is not None
        refused = eu.counted("exchange_stops_total", region="us", code="NotAuthorised")
        for region in (eu, us):
            await asyncio.to_thread(rotate, region)
        for _ in range(20):
            assert await eu.routed() == ("remote", "OverThreshold")
        assert eu.counted("exchange_stops_total", region="us", code="NotAuthorised") == refused


async def test_an_authority_rotates_and_no_leg_is_dropped(tmp_path: Path) -> None:
    new = ca("new eu")
    async with two_regions(tmp_path) as (eu, us, _):
        await eu.eventually_routed("remote", "OverThreshold")
        codes: list[str] = []

        async def ask() -> None:
            while True:
                codes.append(await call(eu, us, "uid-us-long-0"))

        asking = asyncio.create_task(ask())

        async def trust(*authorities: Authority) -> None:
            """Let `us` trust these, and wait until that has been in use for a while."""
            bundle = "".join(authority.pem.decode() for authority in authorities)
            us.controller.take_snapshot(offering("us", target(eu, trust=bundle)).to_json())
            await eventually_async(lambda: us.peers.trust._setting.bundles["eu"] == bundle)
            before = len(codes)
            await eventually_async(lambda: len(codes) >= before + 20)

        await trust(eu.authority, new)
        await asyncio.to_thread(rotate, eu, new)
        await trust(new)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert set(codes) == {"OK"}
        # Who still has the old one is out.
        await asyncio.to_thread(rotate, eu)
        await eu.eventually_hop("us", "Authorisation")


def rotate(region: RegionWorld, authority: Authority | None = None) -> None:
    """A new certificate, of the same authority or another one."""
    (authority or region.authority).leaf(gateway_of(region.name)).write(region.folder / "tls", "gateway")
    region.peers.trust.refresh()


def test_files_in_the_middle_of_a_renewal_change_nothing(tmp_path: Path) -> None:
    authority = ca("us")
    files = authority.leaf(gateway_of("us")).write(tmp_path, "gateway")
    trust = PeerTrust(
        Tls(certificate=files.certificate, key=files.key, trust_bundle=files.ca), "us", lambda *_: None
    )
    trust.use({"eu": ca("eu").pem.decode()}, "test")
    before = trust.client("eu")
    files.key.write_text("half a k")
    with pytest.raises(ssl.SSLError):
        trust.refresh()
    assert trust.client("eu") is before
    authority.leaf(gateway_of("us")).write(tmp_path, "gateway")
    assert trust.refresh()
    assert trust.client("eu") is not before


async def test_streams_of_a_region_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_STREAMS_PER_REGION", 2)
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        context = await asyncio.to_thread(client_context, tmp_path, eu, gateway_of("eu"), us.authority, {})
        url = f"https://{us.peer_address}/v1/exchange?version=1"
        async with aiohttp.ClientSession() as session:

            def ask() -> Any:
                return session.get(url, ssl=context, server_hostname="eu.gateway.test")

            async with ask() as first, ask() as second, ask() as third:
                assert (first.status, second.status, third.status) == (200, 200, 429)
                assert (await third.json())["error"]["code"] == "TooManyStreams"


async def test_a_flood_of_connections_is_cut_and_leaves_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "MAX_CONNECTIONS", 20)
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        port = us.peers.listener.port
        # Most say nothing at all: they never come as far as to be counted, and cost a handshake's time.
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        context = await asyncio.to_thread(client_context, tmp_path, eu, gateway_of("eu"), us.authority, {})
        held = [
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="eu.gateway.test")
            for _ in range(25)
        ]
        await eventually_async(
            lambda: us.counted("peers_refused_total", region="unknown", code="TooManyConnections") >= 5
        )
        for _, writer in (*silent, *held):
            writer.transport.abort()

        async def answered() -> bool:
            return (await dial(us, tmp_path, eu, gateway_of("eu"), "eu.gateway.test"))[0] == 200

        await eventually_async(answered)


async def test_a_reader_that_is_too_slow_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "SLOW_READER_SECONDS", 0.3)
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        # Far more to say than all buffers on the way hold.
        link = {"region": "x" * 100, "received_bytes": 1}
        monkeypatch.setattr(us.peers, "own_report", FloodOfReports(link))
        monkeypatch.setattr("prfaas_gateway.peering.feed._REPORT_SECONDS", 0.0)
        context = await asyncio.to_thread(client_context, tmp_path, eu, gateway_of("eu"), us.authority, {})
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", us.peers.listener.port, ssl=context, server_hostname="eu.gateway.test", limit=1024
        )
        writer.write(b"GET /v1/exchange?version=1 HTTP/1.1\r\nHost: us\r\n\r\n")
        await reader.readline()
        await eventually_async(
            lambda: us.counted("peers_refused_total", region="eu", code="SlowReader") == 1, within_seconds=30
        )
        writer.transport.abort()


class FloodOfReports:
    """Another large report at each question."""

    def __init__(self, filler: dict[str, Any]) -> None:
        self._filler = [filler] * 20_000
        self._number = 0

    def __call__(self) -> dict[str, Any]:
        self._number += 1
        return {"number": self._number, "filler": self._filler}


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [("0", 400, "UnsupportedVersion"), ("x", 400, "UnsupportedVersion"), ("7", 200, None)],
)
async def test_versions_of_the_exchange(tmp_path: Path, version: str, status: int, code: str | None) -> None:
    eu = ca("eu")
    async with us_alone(tmp_path, ("eu", eu)) as us:
        context = await asyncio.to_thread(client_context, tmp_path, eu, gateway_of("eu"), us.authority, {})
        url = f"https://{us.peer_address}/v1/exchange?version={version}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=context, server_hostname="eu.gateway.test") as response,
        ):
            assert response.status == status
            if code is None:
                # A newer caller is answered in what both speak.
                hello = json.loads(await response.content.readline())
                assert (hello["type"], hello["version"], hello["region"]) == ("hello", 1, "us")
            else:
                assert (await response.json())["error"]["code"] == code
