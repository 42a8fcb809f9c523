"""Pods that cannot start, seen through a real API server: conditions, events, columns and `prfaas status`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prfaas.kube.client import KubeClient
from prfaas.kube.resources import EVENTS, PODS, PREFILL_POOLS, Object
from prfaas_operator.runtime.planning_adapter import Planning
from tests.helpers import eventually_async
from tests.operator.runtime_world import Running, client_of, config_for, kubelets, pool_body, running

KILLED = {
    "terminated": {
        "reason": "OOMKilled",
        "exitCode": 137,
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:01:00Z",
    }
}
RUNS = {"running": {"startedAt": "2026-01-01T00:01:10Z"}}
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
NOT_READY = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def state(name: str, current: Object, **more: Any) -> Object:
    always = {"image": "i", "imageID": "", "ready": False, "restartCount": 0, "lastState": {}}
    return {**always, "name": name, "state": current, **more}


@asynccontextmanager
async def fleet(kubeconfig: Path, namespace: str) -> AsyncIterator[tuple[KubeClient, Running]]:
    """The operator with its real planning, and a pool whose only pod is there and not ready."""
    config = config_for(kubeconfig, namespace)
    planning = Planning(config.injection_settings(), gateway_namespace=namespace, gateway_name="gateway")
    engine = {
        "name": "engine",
        "image": "vllm:1",
        "args": ["org/chat"],
        "resources": {"limits": {"memory": "3Gi"}},
    }
    template = {"spec": {"containers": [engine]}}
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace) as world,
        running(config, planning) as operator,
    ):
        world.ready = False
        body = pool_body(namespace, kv={"arena": "1Gi"}, workload={"template": template})
        await client.create(PREFILL_POOLS, body)

        async def has_a_pod() -> bool:
            return bool(await client.list(PODS, namespace))

        await eventually_async(has_a_pod)
        yield client, operator


async def suffer(client: KubeClient, namespace: str, **suffered: Any) -> str:
    """Give the pod this status; its name."""
    (pod,) = await client.list(PODS, namespace)
    body = {"status": {"phase": "Running", "conditions": [SCHEDULED, NOT_READY], **suffered}}
    name = str(pod["metadata"]["name"])
    await client.patch(PODS, namespace, name, body, field_manager="kubelet", subresource="status")
    return name


async def told(client: KubeClient, namespace: str, type_: str, reason: str) -> str:
    """The message of that condition, once it has that reason."""

    async def message() -> str:
        pool = await client.get(PREFILL_POOLS, namespace, "long")
        conditions = {each["type"]: each for each in (pool.get("status") or {}).get("conditions", ())}
        found = conditions.get(type_) or {}
        return str(found["message"]) if found.get("reason") == reason else ""

    found: str = await eventually_async(message, what=f"{type_}/{reason}")
    return found


async def screen(kubeconfig: Path, namespace: str) -> str:
    """`prfaas status` as a user runs it: a process of its own."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("prfaas"),
        *("status", "-n", namespace, "--kubeconfig", str(kubeconfig)),
        env={**os.environ, "COLUMNS": "400"},
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return shown.decode()


async def test_an_engine_that_is_out_of_memory(kubeconfig: Path, namespace: str) -> None:
    words = "container `engine` OOMKilled (limit 3Gi), restarted 2 times"
    async with fleet(kubeconfig, namespace) as (client, operator):
        waits = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
        engine = state("engine", waits, lastState=KILLED, restartCount=2)
        name = await suffer(client, namespace, containerStatuses=[engine])
        for type_ in ("WorkloadsAvailable", "Ready", "Stalled"):
            assert f"Pod {name}: {words}. Raise its memory limit" in await told(
                client, namespace, type_, "OOMKilled"
            )

        async def is_an_event() -> bool:
            events = await client.list(EVENTS, namespace)
            return any(
                each["reason"] == "OOMKilled"
                and each["type"] == "Warning"
                and each["regarding"]["name"] == "long"
                and words in each["note"]
                for each in events
            )

        await eventually_async(is_an_event)
        pool = await client.get(PREFILL_POOLS, namespace, "long")
        assert pool["status"]["limitedBy"] == "OOMKilled"
        shown = await screen(kubeconfig, namespace)
        assert f"OOMKilled: Pod {name}: {words}" in shown
        assert f"{words}, last at 2026-01-01 00:01Z" in shown
        await operator.quiet()
        # Its next run is the same trouble: nothing is written.
        before = operator.writes()
        again = state("engine", RUNS, lastState=KILLED, restartCount=2)
        await suffer(client, namespace, containerStatuses=[again])
        await operator.quiet()
        assert operator.writes() == before


@pytest.mark.parametrize(
    ("suffered", "type_", "reason", "words"),
    [
        (
            {
                "initContainerStatuses": [
                    state("prfaas-sidecar", RUNS, lastState=KILLED, restartCount=4),
                ]
            },
            "Stalled",
            "OOMKilled",
            "container `prfaas-sidecar` OOMKilled (limit 256Mi), restarted 4 times. It is prfaas's own",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    state(
                        "engine",
                        {
                            "waiting": {
                                "reason": "CreateContainerConfigError",
                                "message": "couldn't find key token in Secret serving/hub",
                            }
                        },
                    )
                ],
            },
            "Stalled",
            "ContainerConfigFailed",
            "couldn't find key token in Secret serving/hub",
        ),
        (
            {
                "conditions": [
                    SCHEDULED,
                    {**NOT_READY, "type": "PodReadyToStartContainers"},
                    NOT_READY,
                ],
                "phase": "Pending",
            },
            "WorkloadsAvailable",
            "PodNotPrepared",
            "it mounts Secret long-prefill-tls",
        ),
        (
            {"conditions": [SCHEDULED, NOT_READY, {**SCHEDULED, "type": "ContainersReady"}]},
            "Ready",
            "NodeNotAnswering",
            "which does not answer",
        ),
    ],
    ids=["sidecar", "missing key", "mount", "node"],
)
async def test_other_troubles(
    suffered: dict[str, Any],
    type_: str,
    reason: str,
    words: str,
    kubeconfig: Path,
    namespace: str,
) -> None:
    async with fleet(kubeconfig, namespace) as (client, _):
        await suffer(client, namespace, **suffered)
        assert words in await told(client, namespace, type_, reason)
        assert words.split(". ")[0] in await screen(kubeconfig, namespace)
