"""The operator is killed before and after each of its writes; its successor ends at the same state."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from prfaas.kube.api import Call
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PREFILL_POOLS, SECRETS
from prfaas_operator.runtime.fence import Moment
from tests.helpers import eventually_async
from tests.operator.runtime_world import (
    SmallPlanner,
    client_of,
    config_for,
    essence,
    kubelets,
    pool_body,
    pool_serves,
    running,
)

# Of one pool from nothing to serving, and of the region: authority, dry run, children, certificates,
# snapshot, status, events. The first test checks the number.
WRITES = 11
EXPECTED = {
    ("secrets", "prfaas-ca"),
    ("secrets", "prfaas-gateway-tls"),
    ("secrets", "long-prefill-tls"),
    ("configmaps", "prfaas-gateway-policy"),
    ("configmaps", "long-prefill-peers"),
    ("deployments.apps", "long-r1"),
}


async def state(client: KubeClient, namespace: str) -> set[str]:
    """All that the operator made, without what differs from run to run."""
    found = [
        essence(body).replace(namespace, "NS")
        for resource in (DEPLOYMENTS, CONFIG_MAPS, SECRETS)
        for body in await client.list(resource, namespace)
        if body["metadata"]["name"] != "kube-root-ca.crt"
    ]
    assert len(found) == len(set(found))
    return set(found)


async def undisturbed(client: KubeClient, kubeconfig: Path, namespace: str) -> tuple[set[str], list[Call]]:
    calls: list[Call] = []

    async def record(moment: Moment, call: Call) -> None:
        if moment is Moment.BEFORE:
            calls.append(call)

    async with (
        kubelets(client, namespace),
        running(_config(kubeconfig, namespace), SmallPlanner(), hook=record) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await world.quiet()
        found = await state(client, namespace)
        await world.stop()
    return found, calls


def _config(kubeconfig: Path, namespace: str):  # type: ignore[no-untyped-def]
    # One worker: writes come in the same order each time.
    return config_for(
        kubeconfig,
        namespace,
        queue={"workers": 1, "first_retry_seconds": 0.05, "longest_retry_seconds": 0.5},
    )


async def test_the_number_of_writes_is_known(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        _, calls = await undisturbed(client, kubeconfig, namespace)
        assert len(calls) >= WRITES
        assert {(str(call.resource), call.name) for call in calls} >= EXPECTED


# Killed in the middle of whatever it does: nothing is closed.
@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("number", range(WRITES))
async def test_killed_at_a_write(kubeconfig: Path, namespace: str, number: int, moment: Moment) -> None:
    seen = 0
    killed = asyncio.Event()

    async def die(at: Moment, call: Call) -> None:
        nonlocal seen
        if at is not moment or killed.is_set():
            return
        if seen == number:
            killed.set()
            # What a process that is gone does next.
            await asyncio.Event().wait()
        seen += 1

    async with client_of(kubeconfig) as client, kubelets(client, namespace):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        async with running(_config(kubeconfig, namespace), SmallPlanner(), hook=die) as first:
            async with asyncio.timeout(15):
                await killed.wait()
            await first.kill()
        async with running(_config(kubeconfig, namespace), SmallPlanner()) as second:
            await eventually_async(pool_serves(client, namespace, "long", 1))
            await second.quiet()
            found = await state(client, namespace)
            assert {name for _, name in EXPECTED} <= {_name(each) for each in found}
            assert len(found) == len(EXPECTED)
            # Nothing is left for a third.
            writes = second.writes()
            second.operator._enqueue_all()
            await second.quiet()
            assert second.writes() == writes
            await second.stop()


def _name(text: str) -> str:
    return str(json.loads(text)[0]["name"])
