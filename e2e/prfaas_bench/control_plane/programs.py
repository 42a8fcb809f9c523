"""The operator, the peer and the gateway, each as a process of its own with its usual configuration."""

from __future__ import annotations

import base64
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from prfaas.api import keys
from prfaas.kube.resources import SECRETS
from prfaas_bench.control_plane.bodies import NAMESPACE, OWN_NAMESPACE
from prfaas_bench.control_plane.cluster import OPERATOR, PEER, FakeCluster
from prfaas_bench.control_plane.usage import cpu_seconds
from prfaas_bench.control_plane.waiting import until
from prfaas_cluster.process import Process

TRUST_DOMAIN = "example.org"
REGION = "bench"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_PASSES = re.compile(r"^prfaas_operator_reconciles_total\{(.*?)\} (\S+)$", re.MULTILINE)


@dataclass
class Program:
    """One that runs.

    Attributes:
        health: where its health pages are, empty when it has none.
        began: when it was started, by `time.time`.
    """

    process: Process
    health: str
    began: float

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ClusterError: it has ended.
        """
        self.process.check()
        pid = self.process.pid
        assert pid is not None  # noqa: S101 - as it was started
        return pid

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of one of its health pages; status 0 while it does not listen."""
        try:
            async with (
                aiohttp.ClientSession(trust_env=False) as client,
                client.get(self.health + path, timeout=aiohttp.ClientTimeout(total=10)) as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientConnectionError, TimeoutError):
            return 0, ""

    async def until_ready(self) -> None:
        """Wait until /readyz says so.

        Raises:
            ClusterError: it has ended.
            TimeoutError: it was not ready in time.
        """

        async def ready() -> bool:
            self.process.check()
            return (await self.get("/readyz"))[0] == 200

        await until(ready, f"{self.process.title} is ready", START_SECONDS)


@contextmanager
def operator(cluster: FakeCluster, **settings: Any) -> Iterator[Program]:
    """prfaas's operator with the configuration that the chart would give it, within the block."""
    listen = f"127.0.0.1:{_free_port()}"
    config = {
        "region": REGION,
        "trust_domain": TRUST_DOMAIN,
        "own_namespace": OWN_NAMESPACE,
        "kubeconfig": str(cluster.kubeconfig_of(OPERATOR)),
        "health_listen": listen,
        "images": {
            name: f"registry.example.org/prfaas/{name}@sha256:{'0' * 64}" for name in ("sidecar", "connector")
        },
        **settings,
    }
    file = cluster.folder / "operator.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "prfaas_operator", "--config", str(file)]
    with _running("operator", command, cluster.folder, f"http://{listen}") as program:
        yield program


@contextmanager
def peer(cluster: FakeCluster) -> Iterator[Program]:
    """The peer, within the block."""
    kubeconfig = cluster.kubeconfig_of(PEER)
    command = ["env", f"KUBECONFIG={kubeconfig}", sys.executable, "-m", "prfaas_bench.control_plane.peer"]
    with _running("peer operator", command, cluster.folder, "") as program:
        yield program


@contextmanager
def gateway(cluster: FakeCluster, tls: Path) -> Iterator[Program]:
    """A gateway that follows the cluster, with the certificate in the folder `tls`, within the block."""
    health = f"127.0.0.1:{_free_port()}"
    config = {
        "region": REGION,
        "listen": f"127.0.0.1:{_free_port()}",
        "health_listen": health,
        "identity": f"spiffe://{TRUST_DOMAIN}/region/{REGION}/ns/{OWN_NAMESPACE}/gateway/prfaas-gateway",
        "tls": {
            "certificate": str(tls / "tls.crt"),
            "key": str(tls / "tls.key"),
            "trust_bundle": str(tls / "ca.crt"),
        },
        "cluster": {
            "namespace": OWN_NAMESPACE,
            "pod_namespaces": [NAMESPACE],
            "kubeconfig": str(cluster.kubeconfig),
            "state_dir": str(cluster.folder / "gateway-state"),
        },
    }
    file = cluster.folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "prfaas_gateway", "--config", str(file)]
    with _running("gateway", command, cluster.folder, f"http://{health}") as program:
        yield program


async def gateway_certificate(cluster: FakeCluster) -> Path:
    """A folder with what the operator has issued for gateways."""
    secret = await cluster.api.get(SECRETS, OWN_NAMESPACE, keys.GATEWAY_TLS_SECRET)
    folder = cluster.folder / "gateway-tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, text in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(text))
    return folder


async def passes(program: Program) -> dict[str, float]:
    """Passes of the operator so far, by `kind/result`."""
    return parse_passes((await program.get("/metrics"))[1])


def parse_passes(metrics: str) -> dict[str, float]:
    """The counter of passes in the text of /metrics, by `kind/result`."""
    found = {}
    for labels, number in _PASSES.findall(metrics):
        values = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[f"{values['kind']}/{values['result']}"] = float(number)
    return found


@contextmanager
def _running(title: str, command: list[str], folder: Path, health: str) -> Iterator[Program]:
    process = Process(title, command, folder / f"{title.replace(' ', '-')}.log")
    began = time.time()
    process.start()
    try:
        yield Program(process, health, began)
    finally:
        process.stop(STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
