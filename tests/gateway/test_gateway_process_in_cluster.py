"""A gateway in a cluster as it is run: a process, its configuration file, its end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from prfaas_demo.certificates import ca
from tests.gateway.cluster_values import decode_target, prefill_target, route, snapshot
from tests.gateway.cluster_world import GATEWAY, ClusterWorld, cluster_world
from tests.gateway.test_process import start
from tests.gateway.world import LONG
from tests.helpers import eventually_async, free_port


@pytest_asyncio.fixture
async def cluster(kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[ClusterWorld]:
    """A namespace with a pod on each side."""
    async with cluster_world(kubeconfig, namespace, tmp_path) as made:
        await made.add_pod("chat-0")
        await made.add_pod("long-0", "PrefillPool")
        target = route(prefill_pools=(prefill_target(namespace=namespace),))
        await made.write_snapshot(snapshot(decode_target(namespace=namespace, route=target)))
        yield made


def write_config(cluster: ClusterWorld, ports: tuple[int, int]) -> Path:
    """A configuration with relative paths, as a chart would write it."""
    tls = cluster.authority.leaf(GATEWAY).write(cluster.folder / "tls", "process")
    file = cluster.folder / "gateway.yaml"
    config = {
        "listen": f"127.0.0.1:{ports[0]}",
        "health_listen": f"127.0.0.1:{ports[1]}",
        "region": "here",
        "identity": GATEWAY,
        "tls": {"certificate": str(tls.certificate), "key": str(tls.key), "trust_bundle": str(tls.ca)},
        "cluster": {
            "namespace": cluster.namespace,
            "pod_namespaces": [cluster.namespace],
            "kubeconfig": str(cluster.kubeconfig),
            "state_dir": "state",
        },
        "timeouts": {"stopping_seconds": 0.1, "drain_seconds": 5},
    }
    file.write_text(yaml.safe_dump(config))
    return file


async def test_it_serves_and_leaves_its_state_behind(cluster: ClusterWorld) -> None:
    ports = free_port(), free_port()
    process = await start(await asyncio.to_thread(write_config, cluster, ports))
    # Read all along: a process whose output nobody reads stops at a full pipe.
    reading = asyncio.create_task(process.communicate())
    try:
        async with aiohttp.ClientSession() as client:
            numbers = iter(range(1_000_000))

            async def remote() -> bool:
                body = {"model": "chat", "prompt": f"{next(numbers):06} {LONG}"}
                try:
                    async with client.post(
                        f"http://127.0.0.1:{ports[0]}/v1/completions", json=body
                    ) as response:
                        await response.read()
                        return response.headers.get("x-prfaas-route") == "remote"
                except aiohttp.ClientConnectionError:
                    return False

            await eventually_async(remote, within_seconds=30)
        process.send_signal(signal.SIGTERM)
        output, errors = await asyncio.wait_for(reading, 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors) == (0, b"")
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "prfaas_gateway.command"] == [
        "serving",
        "stopping",
        "draining",
    ]
    kept = await asyncio.to_thread(lambda: sorted(path.name for path in (cluster.folder / "state").iterdir()))
    assert kept == ["pods.json", "snapshot.json", "tokenizers"]


@pytest.mark.parametrize(
    ("kubeconfig", "state_dir", "expected"),
    [
        ("apiVersion: v1", "state", "the section cluster cannot be used"),
        ("apiVersion: v1", "gateway.yaml", "cluster.state_dir: "),
    ],
    ids=["kubeconfig-without-a-cluster", "state-dir-is-a-file"],
)
def test_a_cluster_that_cannot_be_used_is_named(
    tmp_path: Path, kubeconfig: str, state_dir: str, expected: str
) -> None:
    ca().leaf(GATEWAY).write(tmp_path, "gateway")
    (tmp_path / "kubeconfig").write_text(kubeconfig)
    files = sorted(path.name for path in tmp_path.iterdir())
    certificate, key, bundle = (
        next(name for name in files if mark in name) for mark in ("gateway.crt", "gateway.key", "ca")
    )
    config = {
        "listen": "127.0.0.1:0",
        "health_listen": "127.0.0.1:0",
        "region": "here",
        "tls": {"certificate": certificate, "key": key, "trust_bundle": bundle},
        "cluster": {"namespace": "prfaas", "kubeconfig": "kubeconfig", "state_dir": state_dir},
    }
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "prfaas_gateway", "--config", str(tmp_path / "gateway.yaml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr


def test_a_static_gateway_loads_no_kubernetes_client() -> None:
    code = (
        "import sys, prfaas_gateway.command; "
        "sys.exit(any(name.startswith(('kubernetes', 'prfaas.kube', 'prfaas.api')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
