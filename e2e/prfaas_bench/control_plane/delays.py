"""How long it takes from somebody's act to its effect: applies to children, readiness to the gateway."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prfaas.api import keys
from prfaas.kube.resources import PODS, Object
from prfaas_bench.control_plane import bodies, programs
from prfaas_bench.control_plane.audit_log import AuditLog, Write, created_at
from prfaas_bench.control_plane.bodies import NAMESPACE, PEER_POOLS
from prfaas_bench.control_plane.cluster import FakeCluster
from prfaas_bench.control_plane.programs import Program
from prfaas_bench.control_plane.results import Gateway
from prfaas_bench.control_plane.usage import memory, share_of_core
from prfaas_bench.control_plane.waiting import until
from prfaas_cluster import assets

CHILDREN = ("deployments.apps", "secrets", "configmaps")
PEER_CHILDREN = ("deployments.apps",)
APPEAR_SECONDS = 60.0
LOOK_SECONDS = 0.02
KUBECTL_SECONDS = 60.0
PAUSE_SECONDS = 0.2
GATEWAY_REST_SECONDS = 20.0
GATEWAY_SETTLE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Delays:
    """Of one operator, in ms, by round.

    Attributes:
        from_apply_ms: from the start of `kubectl apply` to the creation of the last child.
        from_accepted_ms: from the API server's acceptance of the pool.
        to_deployment_ms: from there to the creation of the Deployment.
    """

    from_apply_ms: list[list[float]]
    from_accepted_ms: list[list[float]]
    to_deployment_ms: list[list[float]]


async def apply_by_turns(
    cluster: FakeCluster, log: AuditLog, rounds: int, per_round: int
) -> tuple[Delays, Delays]:
    """Apply new pools with kubectl, one of prfaas and one of the peer by turns. Both operators run."""
    ours, theirs = Delays([], [], []), Delays([], [], [])
    for round_ in range(rounds):
        for delays in (ours, theirs):
            for part in (delays.from_apply_ms, delays.from_accepted_ms, delays.to_deployment_ms):
                part.append([])
        for number in range(per_round):
            name = f"applied-{round_}-{number}"
            pool = bodies.pool(keys.PREFILL_POOL, name, name)
            turns = [
                (ours, pool, "prefillpools.prfaas.io", CHILDREN),
                (
                    theirs,
                    bodies.peer_pool(f"peer-{name}"),
                    f"{PEER_POOLS.plural}.{PEER_POOLS.group}",
                    PEER_CHILDREN,
                ),
            ]
            for delays, body, resource, children in turns if number % 2 == 0 else reversed(turns):
                await _apply_one(cluster, log, delays, body, resource, children)
    return ours, theirs


async def _apply_one(
    cluster: FakeCluster,
    log: AuditLog,
    delays: Delays,
    body: Object,
    resource: str,
    children: tuple[str, ...],
) -> None:
    name = body["metadata"]["name"]
    log.skip()
    began = time.time()
    await kubectl_apply(cluster, body)

    async def all_there() -> float | None:
        return created_at(log.read(), NAMESPACE, name, children)

    done = await until(all_there, f"children of {name}", APPEAR_SECONDS, pause_seconds=LOOK_SECONDS)
    assert done is not None  # noqa: S101 - that was waited for
    accepted = accepted_at(log.writes, name, resource)
    deployment = created_at(log.writes, NAMESPACE, name, PEER_CHILDREN) or done
    delays.from_apply_ms[-1].append((done - began) * 1000)
    delays.from_accepted_ms[-1].append((done - accepted) * 1000)
    delays.to_deployment_ms[-1].append((deployment - accepted) * 1000)
    # The pods' start is not part of the next turn.
    await asyncio.sleep(PAUSE_SECONDS)


def accepted_at(writes: list[Write], name: str, resource: str) -> float:
    """When the API server had taken the object in.

    Raises:
        LookupError: the audit log does not have it.
    """
    for each in writes:
        if each.created and each.resource == resource and each.name == name:
            return each.at
    raise LookupError(f"the audit log has no creation of {resource} {name}")


async def kubectl_apply(cluster: FakeCluster, body: Object) -> None:
    """What a person does.

    Raises:
        RuntimeError: kubectl failed; the text is its own.
    """
    process = await asyncio.create_subprocess_exec(
        str(assets.program("kubectl")),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--cache-dir={cluster.folder / 'kubectl'}",
        "apply",
        "--filename=-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(KUBECTL_SECONDS):
        said, _ = await process.communicate(json.dumps(body).encode())
    if process.returncode != 0:
        raise RuntimeError(f"kubectl apply: {said.decode().strip()}")


async def gateway_delays(cluster: FakeCluster, changes: int) -> Gateway:
    """Let pods of decode pools become unready and ready, and look when a gateway shows it.

    The operator runs, and keeps the gateway's snapshot and the pools' statuses.
    """
    tls = await programs.gateway_certificate(cluster)
    selector = f"{keys.LABEL_POOL_KIND}={keys.DECODE_POOL}"
    pods = await cluster.api.list(PODS, NAMESPACE, label_selector=selector)
    with programs.gateway(cluster, tls) as gateway:
        await gateway.until_ready()

        async def all_open() -> bool:
            states = await open_by_name(gateway)
            return len(states) >= len(pods) and all(states.values())

        await until(all_open, "the gateway uses all decode pods", APPEAR_SECONDS, pause_seconds=1.0)
        await asyncio.sleep(GATEWAY_SETTLE_SECONDS)
        share = await share_of_core(gateway.pid, GATEWAY_REST_SECONDS)
        used = memory(gateway.pid)
        times = []
        for number in range(changes):
            pod = pods[(number // 2) % len(pods)]
            times.append(await _change(cluster, gateway, pod, ready=number % 2 == 1))
    return Gateway(times, share * 100, used.pss_mib)


async def _change(cluster: FakeCluster, gateway: Program, pod: Object, *, ready: bool) -> float:
    """Patch the status as a kubelet does, and look until the gateway's page shows it; ms from the sending."""
    about = pod["metadata"]
    full_name = f"{about['namespace']}/{about['name']}"
    patch = bodies.readiness_patch(ready, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    began = time.monotonic()
    await cluster.api.patch(
        PODS, about["namespace"], about["name"], patch, field_manager="kubelet", subresource="status"
    )

    async def shown() -> bool:
        return (await open_by_name(gateway))[full_name] is ready

    await until(shown, f"the gateway follows {full_name}", APPEAR_SECONDS, pause_seconds=LOOK_SECONDS)
    return (time.monotonic() - began) * 1000


async def open_by_name(gateway: Program) -> dict[str, bool]:
    """Which decode pods the gateway gives new requests."""
    status, text = await gateway.get("/status")
    return parse_open(json.loads(text)) if status == 200 else {}


def parse_open(page: dict[str, Any]) -> dict[str, bool]:
    """Decode pods in the gateway's page, and whether they get new requests."""
    return {each["name"]: each["open"] and each["engine_healthy"] for each in page["decode"]}
