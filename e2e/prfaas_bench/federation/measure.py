"""The course: an API server, the hub's operator, many regions; then pools, then rest, then changes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from prfaas.api import keys
from prfaas.kube.client import KubeClient, connect
from prfaas.kube.resources import DEFINITIONS, LEASES, NAMESPACES, PREFILL_POOLS, REGIONS, Object
from prfaas_bench.control_plane import bodies
from prfaas_bench.control_plane.audit_log import LEASES as LEASE_WRITES
from prfaas_bench.control_plane.audit_log import AuditLog, Write
from prfaas_bench.control_plane.waiting import until
from prfaas_bench.federation.results import Result
from prfaas_cluster.apiserver import ApiServer
from prfaas_cluster.process import Process

OWN, SERVING = "prfaas-system", "serving"
REGION_COUNT, POOLS_EACH = 50, 20
HUB = "hub"
PHASE_SECONDS, QUICK_PHASE_SECONDS = 60.0, 30.0
CONVERGE_SECONDS = 300.0
QUIET_SECONDS = 15.0
AT_ONCE = 16
_CRDS = Path(__file__).parents[3] / "crds"
_AUDIT: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}],
}


async def measure(*, quick: bool, regions: int = REGION_COUNT, pools_each: int = POOLS_EACH) -> Result:
    """Measure.

    Raises:
        ClusterError, SetupError: a program ended or cannot be had.
        TimeoutError: something did not come to pass; the text says what.
    """
    seconds = QUICK_PHASE_SECONDS if quick else PHASE_SECONDS
    with tempfile.TemporaryDirectory(prefix="prfaas-bench-") as name:
        folder = Path(name)
        (folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
        (folder / "server").mkdir()
        flags = {
            "audit-log-path": str(folder / "audit.log"),
            "audit-policy-file": str(folder / "audit.yaml"),
        }
        with ApiServer.running(folder / "server", arguments=flags) as server:
            api = await connect(str(server.kubeconfig))
            programs = _programs(folder, server.kubeconfig, regions)
            try:
                return await _course(
                    api, AuditLog(folder / "audit.log"), programs, regions, pools_each, seconds
                )
            finally:
                for program in reversed(programs):
                    program.stop()
                await api.close()


def _programs(folder: Path, kubeconfig: Path, regions: int) -> list[Process]:
    """The hub's operator, and the process with all regions."""
    config = {
        "region": HUB,
        "trust_domain": "example.org",
        "own_namespace": OWN,
        "kubeconfig": str(kubeconfig),
        "health_listen": "127.0.0.1:0",
        "images": {each: f"registry.example.org/{each}:1" for each in ("sidecar", "connector")},
    }
    (folder / "operator.yaml").write_text(yaml.safe_dump(config))
    commands = {
        "operator of the hub": ["-m", "prfaas_operator", "--config", str(folder / "operator.yaml")],
        "regions": ["-m", "prfaas_bench.federation.regions", str(kubeconfig), OWN, str(regions)],
    }
    return [
        Process(title, [sys.executable, *arguments], folder / f"{title.split()[0]}.log")
        for title, arguments in commands.items()
    ]


async def _course(
    api: KubeClient,
    log: AuditLog,
    programs: Sequence[Process],
    regions: int,
    pools_each: int,
    seconds: float,
) -> Result:
    names = [f"r{number:03d}" for number in range(regions)]
    await _prepare(api, names)
    for program in programs:
        program.start()
    _say(f"{regions} regions: until all are heard of")
    await until(lambda: _all_fresh(api, len(names)), "all regions are heard of", CONVERGE_SECONDS)

    _say(f"{regions * pools_each} pools: until the hub shows them ready in their regions")
    began = time.monotonic()
    await _create(api, [_pool(region, number) for region in names for number in range(pools_each)])
    created = time.monotonic()
    await until(lambda: _all_placed(api, regions * pools_each), "all pools are shown ready", CONVERGE_SECONDS)
    converged = time.monotonic()

    await _quiet(log)
    _say(f"nothing changes for {seconds:.0f} s")
    rest = await _writes(log, seconds)
    _say(f"numbers of every region change for {seconds:.0f} s")
    _signal(programs[1], signal.SIGUSR1)
    # The first reports come at once, and are no steady state.
    await asyncio.sleep(QUIET_SECONDS)
    steady = await _writes(log, seconds)
    _signal(programs[1], signal.SIGUSR2)
    for program in programs:
        program.check()
    return Result(
        regions=regions,
        pools=regions * pools_each,
        create_seconds=created - began,
        converge_seconds=converged - created,
        rest_writes={name: count / seconds for name, count in rest.items()},
        steady_writes={name: count / seconds for name, count in steady.items()},
    )


async def _prepare(api: KubeClient, names: Sequence[str]) -> None:
    for definition in await asyncio.to_thread(bodies.definitions, _CRDS):
        await api.create(DEFINITIONS, definition)
    for namespace in (OWN, SERVING):
        await api.create(NAMESPACES, {"metadata": {"name": namespace}})

    async def served() -> bool:
        found = await api.list(DEFINITIONS)
        return all(
            any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
            for conditions in ((body.get("status") or {}).get("conditions") or () for body in found)
        )

    await until(served, "definitions are established", 60.0)
    about = {"apiVersion": keys.API_VERSION, "kind": keys.REGION}
    for name in (HUB, *names):
        await api.create(REGIONS, {**about, "metadata": {"name": name}, "spec": {}})
    for name in names:
        metadata = {"namespace": OWN, "name": keys.cluster_lease(name), "labels": {keys.LABEL_CLUSTER: name}}
        await api.create(LEASES, {"metadata": metadata, "spec": {}})


def _pool(region: str, number: int) -> Object:
    pod = {"containers": [{"name": "engine", "image": "registry.example.org/vllm:1"}]}
    return {
        "apiVersion": keys.API_VERSION,
        "kind": keys.PREFILL_POOL,
        "metadata": {"namespace": SERVING, "name": f"{region}-{number:02d}"},
        "spec": {
            "model": {"name": "chat"},
            "engine": {"type": "VLLM"},
            "replicas": 2,
            "workload": {"template": {"spec": pod}},
            "placement": {"clusters": [{"name": region}]},
        },
    }


async def _create(api: KubeClient, pools: Iterable[Object]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def create(body: Object) -> None:
        async with slots:
            await api.create(PREFILL_POOLS, body)

    await asyncio.gather(*(create(body) for body in pools))


async def _all_fresh(api: KubeClient, count: int) -> bool:
    fresh = 0
    for body in await api.list(REGIONS):
        conditions = (body.get("status") or {}).get("conditions") or ()
        fresh += any(each["type"] == "ReportFresh" and each["status"] == "True" for each in conditions)
    return fresh >= count


async def _all_placed(api: KubeClient, count: int) -> bool:
    placed = 0
    async for page in api.pages(PREFILL_POOLS, SERVING, page_objects=500):
        for body in page.objects:
            clusters = (body.get("status") or {}).get("clusters") or ()
            placed += bool(clusters) and all(each["ready"] == "True" for each in clusters)
    return placed == count


async def _quiet(log: AuditLog) -> None:
    """Until nothing but Leases was written for a while."""
    log.skip()
    since = time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        await asyncio.sleep(1.0)
        if any(each.resource != LEASE_WRITES for each in log.read()):
            since = time.monotonic()
            log.skip()


async def _writes(log: AuditLog, seconds: float) -> Counter[str]:
    """Writes by resource."""
    log.skip()
    await asyncio.sleep(seconds)
    return Counter(_kind(each) for each in log.read() if not each.dry_run)


def _kind(write: Write) -> str:
    return (
        "Leases" if write.resource == LEASE_WRITES else write.resource.removesuffix(f".{keys.GROUP}/status")
    )


def _signal(program: Process, number: int) -> None:
    if program.pid is not None:
        os.kill(program.pid, number)


def _say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)
