"""The chart's proxy for KV, as HAProxy runs it: sidecars through it, and addresses that it must not dial."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas_demo.certificates import Authority, ca
from tests.chart.rendering import render
from tests.helpers import eventually_async, free_port
from tests.sidecar.fake_engine import lanes_of
from tests.sidecar.harness import CONSUMER, PRODUCER, engines, sidecar, transfer_id
from tests.sidecar.wire import plain_client, tls_client

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="needs haproxy: make test installs it"
)

LANES = lanes_of()
POD_NETWORKS = ["127.0.0.1/32", "127.9.0.0/16", "::1/128"]


@dataclass
class Proxy:
    """A running HAProxy."""

    port: int
    health_port: int
    log: list[str]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.health_port}{path}") as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture(scope="module")
def chart_config() -> str:
    rendered = render({"kvProxy.enabled": True, "kvProxy.podNetworks": POD_NETWORKS, "trustDomain": "test"})
    text: str = rendered.one("ConfigMap", "prfaas-kv-proxy")["data"]["haproxy.cfg"]
    return text


@contextlib.asynccontextmanager
async def haproxy(folder: Path, config: str, pod_port: int) -> AsyncIterator[Proxy]:
    """The chart's file with other ports: those of the chart are one per machine."""
    port, health_port = free_port(), free_port()
    for was, now in (
        ("0.0.0.0:7411", f"127.0.0.1:{port}"),
        ("0.0.0.0:7412", f"127.0.0.1:{health_port}"),
        ("0.0.0.0:7400", f"0.0.0.0:{pod_port}"),
    ):
        assert config.count(was) == 1
        config = config.replace(was, now)
    path = folder / "haproxy.cfg"
    await asyncio.to_thread(path.write_text, config)
    checked = await asyncio.to_thread(
        subprocess.run,
        ["haproxy", "-c", "-f", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (checked.returncode, "WARNING" in checked.stderr) == (0, False), checked.stderr
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-f", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    running = Proxy(port, health_port, [])

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            running.log.append(line.decode().rstrip())

    reader = asyncio.create_task(read())
    try:
        await eventually_async(lambda: _answers(running))
        yield running
    finally:
        process.kill()
        await process.wait()
        await reader
        print("\n".join(running.log))


async def _answers(proxy: Proxy) -> bool:
    try:
        return (await proxy.get("/healthz"))[0] == 200
    except aiohttp.ClientError:
        return False


@pytest.fixture(scope="module")
def us() -> Authority:
    return ca("us")


@pytest.fixture(scope="module")
def eu() -> Authority:
    return ca("eu")


def trust(**authorities: Authority) -> dict[str, dict[str, str]]:
    return {name: {"trust": each.pem.decode()} for name, each in authorities.items()}


@pytest.mark.parametrize(
    ("listen", "server_name"),
    [
        ("127.0.0.1:0", "127-0-0-1.kv.test"),
        ("127.9.8.7:0", "eu.127-9-8-7.kv.test"),
        ("[::1]:0", "0000-0000-0000-0000-0000-0000-0000-0001.kv.test"),
    ],
    ids=["IPv4", "another pod", "IPv6"],
)
async def test_two_sidecars_through_the_proxy(
    tmp_path: Path, chart_config: str, us: Authority, eu: Authority, listen: str, server_name: str
) -> None:
    """TLS ends in the sidecar: authorities of the two regions know nothing of the proxy."""
    rule = {"identity": PRODUCER, "addresses": ["127.0.0.1:*"]}
    async with (
        sidecar(
            tmp_path / "p",
            us.leaf(PRODUCER),
            listen={"peer": listen},
            peers={"accept": [CONSUMER], "regions": trust(eu=eu)},
        ) as p,
        sidecar(tmp_path / "c", eu.leaf(CONSUMER), peers={"dial": [rule], "regions": trust(us=us)}) as c,
        engines(p, c, us) as two,
        haproxy(tmp_path, chart_config, p.ports["peer"]) as proxy,
    ):
        name = transfer_id()
        produced = await two.prefill.produce(name, LANES, CONSUMER)
        await two.decode.consume(name, LANES, proxy.address, PRODUCER, server_name=server_name)
        two.prefill.produce_all(produced, LANES)
        assert (await two.decode.ended(name)).code == "complete"
        two.decode.release(name)
        status, metrics = await proxy.get("/metrics")
        assert status == 200
        assert 'haproxy_frontend_connections_total{proxy="kv"}' in metrics


@pytest.mark.parametrize(
    "server_name",
    [
        "eu.127-8-0-1.kv.test",
        "eu.10-96-0-1.kv.test",
        "eu.127-0-0-1.kv.other",
        "eu.127-0-0-1.gateway.test",
        "127-0-0-1.kv.test.evil",
        "eu.localhost.kv.test",
        "eu.127-0-0-1-1.kv.test",
        "eu.0000-0000-0000-0000-0000-0000-0000-0002.kv.test",
        None,
    ],
)
async def test_the_proxy_dials_pods_and_nothing_else(
    tmp_path: Path, chart_config: str, us: Authority, server_name: str | None
) -> None:
    reached: list[str] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(str(writer.get_extra_info("peername")))
        writer.close()

    # Whatever address of this machine it dialled, it would be seen.
    server = await asyncio.start_server(accept, "0.0.0.0", 0)  # noqa: S104
    async with server, haproxy(tmp_path, chart_config, server.sockets[0].getsockname()[1]) as proxy:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await tls_client(proxy.address, None, us.pem, tmp_path, server_name=server_name)
        await plain_client(proxy.address, b"GET / HTTP/1.1\r\n\r\n")
        assert not reached
        await eventually_async(lambda: sum("state=PR" in line for line in proxy.log) == 2)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await tls_client(proxy.address, None, us.pem, tmp_path, server_name="eu.127-0-0-1.kv.test")
        await eventually_async(lambda: reached)


@pytest.mark.parametrize("domain", ["test", "prfaas.internal", "a.b.example.org"])
def test_the_place_of_the_address_follows_from_the_trust_domain(domain: str) -> None:
    values: dict[str, Any] = {
        "kvProxy.enabled": True,
        "kvProxy.podNetworks": ["10.0.0.0/8"],
        "trustDomain": domain,
    }
    text = render(values).one("ConfigMap", "prfaas-kv-proxy")["data"]["haproxy.cfg"]
    assert f"field(-{len(domain.split('.')) + 2},.)" in text
    assert f"-m end .kv.{domain} }}" in text
