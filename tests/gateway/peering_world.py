"""Gateways of several regions in one process, each with its own authority, pods and peer port."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from prfaas.api.snapshot import (
    DecodeTarget,
    ModelTarget,
    OwnPool,
    RegionTarget,
    RemotePoolTarget,
    RouteTarget,
    Snapshot,
)
from prfaas.api.v1alpha1.route import RouteMode
from prfaas.kube.reflect import Synced
from prfaas_bench.fake_engine import FakeEngine
from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.app import client_runner, health_app
from prfaas_gateway.cluster.controller import Controller
from prfaas_gateway.cluster.membership import CONTROL_PORT
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.control import ControlError, ControlTarget, new_transfer_id
from prfaas_gateway.fleet import Prefiller
from prfaas_gateway.peering.peers import Peers
from prfaas_gateway.probes import probe_forever
from prfaas_gateway.services import Services
from prfaas_gateway.tls import Credentials
from tests.gateway.cluster_values import ENGINE_PORT, FINGERPRINT, TRUST, pod
from tests.gateway.cluster_world import tokenizer_files
from tests.gateway.fake_sidecar import FakeSidecar, transfer
from tests.gateway.tokenizers_for_tests import byte_tokenizer
from tests.gateway.world import LONG
from tests.helpers import eventually_async

_numbers = itertools.count()


def gateway_of(region: str) -> str:
    """Identity of a region's gateways."""
    return f"{TRUST}/region/{region}/ns/prfaas/gateway/main"


def pool_of(region: str, kind: str, name: str) -> str:
    """Identity of a pool's sidecars."""
    return f"{TRUST}/region/{region}/ns/llm/pool/{kind}/{name}"


@dataclass
class RunningPod:
    """A pod, and what answers at its address."""

    pod: Pod
    sidecar: FakeSidecar
    engine: FakeEngine | None


@dataclass
class RegionWorld:
    """One region: a gateway, and what is around it."""

    name: str
    folder: Path
    authority: Authority
    stack: AsyncExitStack
    net: str
    services: Services
    controller: Controller
    url: str
    health_url: str
    client: aiohttp.ClientSession
    peers: Peers
    pods: dict[str, RunningPod] = field(default_factory=dict)

    @property
    def peer_address(self) -> str:
        """Where its gateway answers those of other regions."""
        return f"127.0.0.1:{self.peers.listener.port}"

    async def add_pod(self, name: str, kind: str = "PrefillPool", pool: str = "long") -> RunningPod:
        """A pod that is ready."""
        ip = f"{self.net}.{len(self.pods) + 1}"
        engine = None
        if kind == "DecodePool":
            engine = await self.stack.enter_async_context(FakeEngine(_ids).run(ip, ENGINE_PORT))
        sidecar = FakeSidecar(pool_of(self.name, kind, pool), default_transfer=transfer())
        sidecar.files = tokenizer_files()
        sidecar.report = {
            "engine_connected": True,
            "fingerprint": FINGERPRINT,
            "block_tokens": 16,
            "max_model_tokens": 4096,
            "served_models": ["chat"],
        }
        await self.stack.enter_async_context(
            sidecar.run(self.authority, self.folder / "tls" / name, host=ip, port=CONTROL_PORT)
        )
        made = RunningPod(pod(name, pool, kind, uid=f"uid-{self.name}-{name}", ip=ip), sidecar, engine)
        self.pods[name] = made
        self.show_pods()
        return made

    def set_pod(self, name: str, **fields: Any) -> None:
        """Let the API server say something else of a pod."""
        old = self.pods[name].pod
        self.pods[name].pod = Pod(**{**old.to_document(), **fields})
        self.show_pods()

    def show_pods(self) -> None:
        """Tell the gateway of all pods."""
        self.controller.take_pods(None, Synced(tuple(each.pod for each in self.pods.values())))

    def prefiller(self, name: str) -> Prefiller | None:
        """An engine of another region as this gateway knows it, by that region and the pod's name."""
        return next((each for each in self.services.fleet.prefillers if each.name == name), None)

    async def routed(self) -> tuple[str | None, str | None]:
        """Route and reason of a long request."""
        body = {"model": "chat", "prompt": f"{next(_numbers):05} {LONG}", "max_tokens": 3}
        async with self.client.post(f"{self.url}/v1/completions", json=body) as response:
            answer = await response.json()
            if response.status != 200:
                return str(response.status), answer["error"]["code"]
            return response.headers.get("x-prfaas-route"), response.headers.get("x-prfaas-reason")

    async def eventually_routed(self, route: str, reason: str) -> None:
        """Wait until requests are routed like this."""

        async def so() -> bool:
            return await self.routed() == (route, reason)

        await eventually_async(so, what=f"{route} {reason}")

    async def seen(self, region: str) -> dict[str, Any]:
        """How a region is seen from here."""
        async with self.client.get(self.health_url + "/v1/regions") as response:
            page = await response.json()
        found: dict[str, Any] = next(each for each in page["regions"] if each["name"] == region)
        return found

    async def hop(self, region: str) -> tuple[str, str] | None:
        """Name and message of the hop that fails, if one does."""
        hops = (await self.seen(region))["hops"]
        return next(((hop["name"], hop["message"]) for hop in hops if not hop["ok"]), None)

    async def eventually_hop(self, region: str, name: str | None) -> None:
        """Wait until this hop fails, or none."""

        async def so() -> bool:
            seen = await self.seen(region)
            failing = [hop["name"] for hop in seen["hops"] if not hop["ok"]]
            return bool(seen["hops"]) and failing == ([name] if name else [])

        await eventually_async(so, what=f"{region} fails at {name}")

    def counted(self, metric: str, **labels: str) -> float:
        """Value of a metric, 0 when it was never counted."""
        return self.services.metrics.registry.get_sample_value(f"prfaas_gateway_{metric}", labels) or 0.0


@asynccontextmanager
async def region_world(folder: Path, name: str, **settings: Any) -> AsyncIterator[RegionWorld]:
    """A region without pods or snapshot; its state and certificates stay in ``folder``."""
    authority = settings.pop("authority", None) or ca(f"{name} CA")
    async with AsyncExitStack() as stack:
        config = await asyncio.to_thread(_configuration, folder, name, authority, settings)
        assert config.tls is not None
        assert config.cluster is not None
        services = build_services(config, {}, await asyncio.to_thread(Credentials, config.tls, ()))
        stack.push_async_callback(close_services, services)
        controller = Controller(services, config.cluster)
        services.cluster = controller
        await controller.restore()
        assert services.peers is not None
        peers = services.peers
        await peers.listen()
        stack.push_async_callback(peers.close)
        for running in (
            controller._reconcile_forever(),
            controller._models.load_forever(),
            controller._save_forever(),
            controller._save_peers_forever(peers),
            peers.run(),
            probe_forever(services),
        ):
            stack.push_async_callback(_end, asyncio.create_task(running))
        urls = []
        for runner in (client_runner(services), web.AppRunner(health_app(services), access_log=None)):
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append("http://{}:{}".format(*runner.addresses[0][:2]))
        client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        net = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}"
        yield RegionWorld(
            name,
            folder,
            authority,
            stack,
            net,
            services,
            controller,
            urls[0],
            urls[1],
            client,
            peers,
        )


def _configuration(folder: Path, name: str, authority: Authority, settings: dict[str, Any]) -> Config:
    certificate = settings.pop("certificate", {})
    leaf = authority.leaf(certificate.pop("uri", gateway_of(name)), **certificate)
    tls = leaf.write(folder / "tls", "gateway")
    return Config.model_validate(
        {
            "region": name,
            "identity": gateway_of(name),
            "tls": {"certificate": tls.certificate, "key": tls.key, "trust_bundle": tls.ca},
            "cluster": {"namespace": "prfaas", "state_dir": folder / "state"},
            "peer_listen": "127.0.0.1:0",
            "timeouts": {"drain_seconds": 1, "connect_seconds": 1, "control_seconds": 1},
            "health": {"probe_seconds": 0.2},
            "peering": {"silent_seconds": 2},
            **settings,
        }
    )


def target(region: RegionWorld, **fields: Any) -> RegionTarget:
    """A region as its Region object says."""
    given = {
        "name": region.name,
        "clusters": (region.name,),
        "peer_address": region.peer_address,
        "trust": region.authority.pem.decode(),
        **fields,
    }
    return RegionTarget.model_validate(given)


def decoding(region: str, *regions: RegionTarget, prefill: tuple[str, ...] = ("us",)) -> Snapshot:
    """The snapshot of a region whose decode pool `chat` has a route to `long` in others."""
    far = tuple(
        RemotePoolTarget(
            namespace="llm", name="long", identity=pool_of(name, "PrefillPool", "long"), region=name
        )
        for name in prefill
    )
    route = RouteTarget(
        namespace="llm",
        name="chat",
        mode=RouteMode.ENFORCE,
        threshold_tokens=100,
        remote_prefill_pools=far,
    )
    pool = DecodeTarget(
        namespace="llm",
        name="chat",
        identity=pool_of(region, "DecodePool", "chat"),
        engine_port=ENGINE_PORT,
        route=route,
    )
    models = (ModelTarget(name="chat", decode_pools=(pool,)),)
    return Snapshot.sealed(region=region, trust_domain="test", models=models, cluster=region, regions=regions)


def offering(region: str, *regions: RegionTarget, to: tuple[str, ...] = ("eu",), **pool: Any) -> Snapshot:
    """The snapshot of a region whose prefill pool `long` is offered to others."""
    own = OwnPool(namespace="llm", name="long", kind="PrefillPool", model="chat", offered_to=to, **pool)
    return Snapshot.sealed(
        region=region, trust_domain="test", models=(), cluster=region, regions=regions, own_pools=(own,)
    )


class Cable:
    """A network between two regions that can be cut, or swallow everything without a word."""

    def __init__(self, port: int | None) -> None:
        self._port = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.address = ""
        self.bytes_back = 0

    async def plug_in(self) -> None:
        """Let connections through, at the same address as before."""
        port = int(self.address.rpartition(":")[2]) if self.address else 0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._passing.set()
        if self._server is not None:
            self._server.close()
        for end in tuple(self._ends):
            end.transport.abort()
        await eventually_async(lambda: not self._ends)

    def swallow(self) -> None:
        """Accept everything and deliver nothing."""
        self._passing.clear()

    def deliver(self) -> None:
        """Deliver again, and what was swallowed first."""
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._port)
            self._ends.add(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far, back=False))
                both.create_task(self._pass(far_reader, writer, back=True))
        except (OSError, ExceptionGroup):
            # One end has gone, and the other one goes with it.
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()
                    self._ends.discard(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while data := await reader.read(1 << 16):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
            self.bytes_back += len(data) if back else 0
        raise ConnectionResetError


@asynccontextmanager
async def cable_to(region: RegionWorld) -> AsyncIterator[Cable]:
    """A way to a region's gateways."""
    cable = Cable(region.peers.listener.port)
    await cable.plug_in()
    try:
        yield cable
    finally:
        await cable.cut()


@asynccontextmanager
async def two_regions(folder: Path) -> AsyncIterator[tuple[RegionWorld, RegionWorld, Cable]]:
    """`eu` decodes and `us` prefills for it, one pod each; they know one another. The cable is the way from
    `eu` to the gateways of `us`."""
    async with (
        region_world(folder / "eu", "eu") as eu,
        region_world(folder / "us", "us") as us,
        cable_to(us) as cable,
    ):
        await us.add_pod("long-0")
        await eu.add_pod("chat-0", "DecodePool", "chat")
        us.controller.take_snapshot(offering("us", target(eu)).to_json())
        eu.controller.take_snapshot(decoding("eu", target(us, peer_address=cable.address)).to_json())
        yield eu, us, cable


async def call(eu: RegionWorld, us: RegionWorld, uid: str) -> str:
    """The code of a leg for a pod of `us` that a gateway of `eu` asks for."""
    assert eu.services.control is not None
    url = URL(f"https://{us.peer_address}")
    leg = {"kv_transfer_params": {"prfaas": {"transfer_id": new_transfer_id()}}}
    body = json.dumps(leg).encode()
    asked = ControlTarget(url, "", region="us", prefix=f"/v1/legs/{uid}")
    try:
        await eu.services.control.prefill(asked, body, {"content-type": "application/json"}, 5)
    except ControlError as error:
        return f"{error.code}, by the way" if error.blames_way else error.code
    return "OK"


def _ids(body: dict[str, Any]) -> list[int] | None:
    return byte_tokenizer().encode(body["prompt"]).ids if "prompt" in body else None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
