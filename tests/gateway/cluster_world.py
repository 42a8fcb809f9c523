"""A gateway that follows a real API server: pods are objects there, and fakes on loopback answer for them."""

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

from prfaas.api.snapshot import Snapshot
from prfaas.kube.api import KubeApi
from prfaas.kube.client import connect
from prfaas.kube.resources import CONFIG_MAPS, PODS
from prfaas_bench.fake_engine import FakeEngine
from prfaas_demo.certificates import Authority, ca
from prfaas_gateway.app import client_runner, health_app
from prfaas_gateway.cluster.controller import Controller, follow
from prfaas_gateway.cluster.membership import CONTROL_PORT
from prfaas_gateway.command import build_services, close_services
from prfaas_gateway.config import Config
from prfaas_gateway.fleet import Decoder
from prfaas_gateway.probes import probe_forever
from prfaas_gateway.services import Services
from prfaas_gateway.tls import Credentials
from tests.gateway.cluster_values import ENGINE_PORT, FINGERPRINT, TRUST, identity
from tests.gateway.fake_sidecar import FakeSidecar, transfer
from tests.gateway.tokenizers_for_tests import byte_tokenizer
from tests.gateway.world import LONG
from tests.helpers import eventually_async

SNAPSHOT = "prfaas-gateway-policy"
_numbers = itertools.count()
GATEWAY = f"{TRUST}/region/here/ns/prfaas/gateway/main"


def tokenizer_files(mark: str = "") -> dict[str, bytes]:
    """Files of the tests' tokenizer; ``mark`` makes them others that mean the same."""
    return {
        "tokenizer.json": byte_tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps({"eos_token": f"</s>{mark}"}).encode(),
    }


@dataclass
class RunningPod:
    """A pod object, and what answers at its address."""

    name: str
    ip: str
    engine: FakeEngine
    sidecar: FakeSidecar


@dataclass
class Gateway:
    """One gateway process's worth of parts, running here."""

    services: Services
    controller: Controller
    url: str
    health_url: str
    client: aiohttp.ClientSession

    def complete(self, prompt: str | None = None, **fields: Any) -> Any:
        """A completion request, to be used with ``async with``; by default of a long prompt that is new."""
        prompt = f"{next(_numbers):05} {LONG}" if prompt is None else prompt
        body = {"model": "chat", "prompt": prompt, "max_tokens": 3, **fields}
        return self.client.post(f"{self.url}/v1/completions", json=body)

    async def routed(self, prompt: str | None = None, **fields: Any) -> tuple[str | None, str | None]:
        """Route and reason of a request that is answered, or its status and code."""
        async with self.complete(prompt, **fields) as response:
            answer = await response.json()
            if response.status != 200:
                return str(response.status), answer["error"]["code"]
            return response.headers.get("x-prfaas-route"), response.headers.get("x-prfaas-reason")

    async def page(self, path: str) -> tuple[int, dict[str, Any]]:
        """A page of the health port."""
        async with self.client.get(self.health_url + path) as response:
            return response.status, await response.json()

    def decoder(self, name: str) -> Decoder | None:
        """A decode engine by its pod's name."""
        return next((d for d in self.services.fleet.decoders if d.name.endswith(f"/{name}")), None)

    def counted(self, name: str, **labels: str) -> float:
        """Value of a metric, 0 when it was never counted."""
        return self.services.metrics.registry.get_sample_value(f"prfaas_gateway_{name}", labels) or 0.0

    async def eventually_routed(self, route: str, reason: str, **fields: Any) -> None:
        """Wait until requests are routed like this."""

        async def so() -> bool:
            return await self.routed(**fields) == (route, reason)

        await eventually_async(so, what=f"{route} {reason}")

    async def eventually_open(self, name: str, is_open: bool = True) -> None:
        """Wait until a pod gets new requests, or none."""

        def so() -> bool:
            decoder = self.decoder(name)
            return decoder is not None and decoder.open is is_open

        await eventually_async(so, what=f"{name} open: {is_open}")


@dataclass
class ClusterWorld:
    """A namespace of an API server, and pods in it."""

    api: KubeApi
    kubeconfig: Path
    namespace: str
    folder: Path
    authority: Authority
    stack: AsyncExitStack
    net: str
    pods: dict[str, RunningPod] = field(default_factory=dict)

    async def add_pod(
        self,
        name: str,
        kind: str = "DecodePool",
        pool: str | None = None,
        *,
        ready: bool = True,
        files: dict[str, bytes] | None = None,
        **report: Any,
    ) -> RunningPod:
        """Make a pod object with an address, and start what answers there."""
        pool = pool or ("chat" if kind == "DecodePool" else "long")
        ip = f"{self.net}.{len(self.pods) + 1}"
        engine = await self.stack.enter_async_context(FakeEngine(_ids).run(ip, ENGINE_PORT))
        sidecar = FakeSidecar(identity(kind, pool), default_transfer=transfer())
        sidecar.files = tokenizer_files() if files is None else files
        sidecar.report = {
            "engine_connected": True,
            "fingerprint": FINGERPRINT,
            "block_tokens": 16,
            "max_model_tokens": 4096,
            "served_models": ["chat"],
            **report,
        }
        await self.stack.enter_async_context(
            sidecar.run(self.authority, self.folder / "tls" / name, host=ip, port=CONTROL_PORT)
        )
        labels = {"prfaas.io/pool": pool, "prfaas.io/pool-kind": kind}
        spec = {
            # A pod with a node is deleted gracefully, which is when it has a deletionTimestamp.
            "nodeName": "nowhere",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 600,
            "containers": [{"name": "engine", "image": "example.org/none"}],
        }
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": spec,
        }
        await self.api.create(PODS, body)
        made = self.pods[name] = RunningPod(name, ip, engine, sidecar)
        await self.set_ready(name, ready)
        return made

    async def set_ready(self, name: str, ready: bool) -> None:
        """Let the kubelet's part be done."""
        ip = self.pods[name].ip
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
        await self.api.patch(
            PODS, self.namespace, name, {"status": status}, field_manager="kubelet", subresource="status"
        )

    async def mark_drain(self, name: str) -> None:
        """What the operator does before it scales down."""
        annotations = {"prfaas.io/drain-since": "2026-01-01T00:00:00Z"}
        await self.api.patch(
            PODS,
            self.namespace,
            name,
            {"metadata": {"annotations": annotations}},
            field_manager="prfaas-operator",
        )

    async def write_snapshot(self, snapshot: Snapshot | str) -> None:
        """What the operator does when something changed."""
        text = snapshot if isinstance(snapshot, str) else snapshot.to_json()
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": SNAPSHOT, "namespace": self.namespace},
            "data": {"snapshot.json": text},
        }
        await self.api.apply(CONFIG_MAPS, body, field_manager="prfaas-operator", force=True)

    @asynccontextmanager
    async def gateway(self, **cluster: Any) -> AsyncIterator[Gateway]:
        """A gateway with its state in this world's folder."""
        config = await asyncio.to_thread(self._configuration, cluster)
        assert config.tls is not None
        assert config.cluster is not None
        credentials = await asyncio.to_thread(Credentials, config.tls, ())
        async with AsyncExitStack() as stack:
            services = build_services(config, {}, credentials)
            stack.push_async_callback(close_services, services)
            following = asyncio.create_task(await follow(services, config.cluster))
            stack.push_async_callback(_end, following)
            stack.push_async_callback(_end, asyncio.create_task(probe_forever(services)))
            urls = []
            for runner in (client_runner(services), web.AppRunner(health_app(services), access_log=None)):
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                urls.append("http://{}:{}".format(*runner.addresses[0][:2]))
            client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            assert isinstance(services.cluster, Controller)
            yield Gateway(services, services.cluster, urls[0], urls[1], client)
            if following.done():
                following.result()

    def _configuration(self, cluster: dict[str, Any]) -> Config:
        tls = self.authority.leaf(GATEWAY).write(self.folder / "tls", "gateway")
        return Config.model_validate(
            {
                "region": "here",
                "identity": GATEWAY,
                "tls": {"certificate": tls.certificate, "key": tls.key, "trust_bundle": tls.ca},
                "cluster": {
                    "namespace": self.namespace,
                    "pod_namespaces": [self.namespace],
                    "kubeconfig": self.kubeconfig,
                    "state_dir": self.folder / "state",
                    **cluster,
                },
                "timeouts": {"drain_seconds": 1, "connect_seconds": 1, "control_seconds": 1},
                "health": {"probe_seconds": 0.2},
            }
        )


def _ids(body: dict[str, Any]) -> list[int] | None:
    return byte_tokenizer().encode(body["prompt"]).ids if "prompt" in body else None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def cluster_world(kubeconfig: Path, namespace: str, folder: Path) -> AsyncIterator[ClusterWorld]:
    """An empty namespace."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(await connect(str(kubeconfig)))
        # Addresses of other tests at the same time must be others; all of 127.0.0.0/8 is this machine.
        net = f"127.{random.randint(1, 250)}.{random.randint(0, 250)}"
        yield ClusterWorld(api, kubeconfig, namespace, folder, ca(), stack, net)
