"""The operator in trouble: servers that go or fall silent, conflicts, rivals, and what happened while it was
away.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.kube import errors
from prfaas.kube.resources import CONFIG_MAPS, DEPLOYMENTS, LEASES, PREFILL_POOLS
from prfaas_operator.planning.values import ObservedPool
from prfaas_operator.runtime.elector import LeaseLost
from tests.helpers import eventually_async
from tests.kube.fault_proxy import fault_proxy, status, times
from tests.operator.runtime_world import (
    SmallPlanner,
    client_of,
    config_for,
    kubelets,
    pool_body,
    pool_serves,
    running,
)

if TYPE_CHECKING:
    from prfaas_cluster.apiserver import ApiServer


@pytest.fixture(autouse=True)
def no_log_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own handler of a log file writes in the loop, which the rules for tests do not allow."""
    monkeypatch.setattr(logging.getLogger("prfaas.kube"), "propagate", False)


async def readiness(world: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{world.operator.health.port}/readyz") as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("code", "reason", "only"),
    [
        (409, "Conflict", "PATCH /apis/apps"),
        (409, "Conflict", "/status"),
        (410, "Expired", "watch=true"),
        (429, "TooManyRequests", "PATCH"),
        (500, "InternalError", "PATCH /api/v1"),
        (503, "ServiceUnavailable", "POST"),
        (403, "Forbidden", "POST /apis/events.k8s.io"),
    ],
)
async def test_a_refusal_that_passes_is_overcome(
    kubeconfig: Path, namespace: str, tmp_path: Path, code: int, reason: str, only: str
) -> None:
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        fault_proxy(kubeconfig, tmp_path) as proxy,
        running(config_for(proxy.kubeconfig, namespace), SmallPlanner()) as world,
    ):
        proxy.answer = times(2, lambda: status(code, reason), only)
        await client.create(PREFILL_POOLS, pool_body(namespace))
        if "watch" in only:
            await eventually_async(lambda: proxy.asked("watch=true") > 0)
            proxy.cut_watches()
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await world.stop()


async def test_a_template_that_the_server_refuses_changes_nothing_and_is_no_endless_loop(
    kubeconfig: Path, namespace: str
) -> None:
    planner = SmallPlanner()
    planner.deployment_patch = {"strategy": {"type": "Nonsense"}}
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), planner) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(lambda: len(planner.failures) >= 1)
        await world.quiet()
        failure = planner.failures[-1]
        assert (failure.code, failure.retryable) == ("Invalid", False)
        assert "strategy" in failure.message
        names = {each["metadata"]["name"] for each in await client.list(CONFIG_MAPS, namespace)}
        assert "long-prefill-peers" not in names
        assert not await client.list(DEPLOYMENTS, namespace)


async def test_a_version_that_moved_on_is_never_overwritten(kubeconfig: Path, namespace: str) -> None:
    """A plan that was made from an old version of a child must not take effect."""

    class Late(SmallPlanner):
        def pool(self, pool: ObservedPool, now: Any) -> Any:
            plan = super().pool(pool, now)
            actions = tuple(
                dataclasses.replace(action, resource_version="1")
                if getattr(action, "resource_version", None) is not None
                else action
                for action in plan.actions
            )
            return dataclasses.replace(plan, actions=actions)

    planner = Late()
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        running(config_for(kubeconfig, namespace), planner),
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await client.scale(PREFILL_POOLS, namespace, "long", 2, field_manager="t")
        await eventually_async(lambda: any(each.code == "Conflict" for each in planner.failures))
        assert planner.failures[-1].retryable
        deployment = await client.get(DEPLOYMENTS, namespace, "long-r1")
        assert deployment["spec"]["replicas"] == 1


async def test_what_happened_while_it_was_away_is_made_up_for(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client, kubelets(client, namespace):
        await client.create(PREFILL_POOLS, pool_body(namespace, "stays"))
        await client.create(PREFILL_POOLS, pool_body(namespace, "goes"))
        async with running(config_for(kubeconfig, namespace), SmallPlanner()) as first:
            await eventually_async(pool_serves(client, namespace, "stays", 1))
            await eventually_async(pool_serves(client, namespace, "goes", 1))
            await first.stop()
        await client.delete(PREFILL_POOLS, namespace, "goes")
        await client.create(PREFILL_POOLS, pool_body(namespace, "comes"))
        await client.scale(PREFILL_POOLS, namespace, "stays", 2, field_manager="t")
        async with running(config_for(kubeconfig, namespace), SmallPlanner()) as second:
            await eventually_async(pool_serves(client, namespace, "stays", 2))
            await eventually_async(pool_serves(client, namespace, "comes", 1))
            known = {fact.name for fact in second.operator.store.prefill_pools}
            assert known == {"stays", "comes"}
            await second.stop()


async def test_a_watch_of_users_objects_that_falls_silent_turns_readiness_red(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    config = config_for(kubeconfig, namespace)
    async with (
        client_of(kubeconfig) as client,
        fault_proxy(kubeconfig, tmp_path) as proxy,
    ):
        config = config_for(proxy.kubeconfig, namespace)
        async with running(config, SmallPlanner()) as world:
            await eventually_async(lambda: not world.operator.health.troubles())
            assert (await readiness(world))[0] == 200
            await eventually_async(lambda: proxy.asked("prefillpools?watch=true") > 0)
            proxy.silent.add("prefillpools")
            await client.create(PREFILL_POOLS, pool_body(namespace))
            await eventually_async(
                lambda: any(
                    "PrefillPool is silent" in each.what for each in world.operator.health.troubles()
                ),
                within_seconds=20,
            )
            code, text = await readiness(world)
            assert (code, "the watch of PrefillPool is silent: 1 objects are behind\n" in text) == (503, True)
            proxy.silent.clear()
            # What was swallowed comes with the next word of the watch, or its next list.
            proxy.cut_watches()
            await eventually_async(lambda: not world.operator.health.troubles(), within_seconds=20)
            await world.stop()


async def test_an_object_that_went_unnoticed_is_noticed(kubeconfig: Path, namespace: str) -> None:
    """kopf does not tell of what went between two lists; the audit does."""
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(lambda: len(world.operator.store.prefill_pools) == 1)
        (fact,) = world.operator.store.prefill_pools
        ghost = dataclasses.replace(fact, name="ghost", uid="ghost")
        world.operator.store.prefill_pools.put(ghost)
        await eventually_async(lambda: len(world.operator.store.prefill_pools) == 1)
        assert world.operator.store.prefill_pools.get(namespace, "ghost") is None


async def test_a_stolen_lease_ends_the_process_without_another_write(
    kubeconfig: Path, namespace: str
) -> None:
    async with (
        client_of(kubeconfig) as client,
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await eventually_async(world.operator.elector.leading.is_set)
        await world.quiet()
        thief = {"spec": {"holderIdentity": "thief", "leaseTransitions": 7, "leaseDurationSeconds": 60}}
        await client.patch(LEASES, namespace, "prfaas-operator", thief, field_manager="thief")
        with pytest.raises(LeaseLost):
            await world.task
        lease = await client.get(LEASES, namespace, "prfaas-operator")
        assert lease["spec"]["holderIdentity"] == "thief"
        with pytest.raises(Exception, match="does not hold the lease"):
            await world.operator.client.create(
                CONFIG_MAPS, {"metadata": {"namespace": namespace, "name": "x"}}
            )


# aiohttp leaves TLS connections that the restart broke to the garbage collector.
async def test_the_api_server_is_restarted(own_api_server: ApiServer) -> None:
    namespace = "default"
    long_lease = {
        "identity": "operator-0",
        "lease_seconds": 60,
        "renew_deadline_seconds": 40,
        "retry_seconds": 0.3,
    }
    async with (
        client_of(own_api_server.kubeconfig) as client,
        kubelets(client, namespace),
        running(
            config_for(own_api_server.kubeconfig, namespace, leader_election=long_lease), SmallPlanner()
        ) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await asyncio.to_thread(own_api_server.restart)
        await eventually_async(
            lambda: _scaled(client, namespace), within_seconds=30, what="the API server takes a write"
        )
        await eventually_async(pool_serves(client, namespace, "long", 2), within_seconds=30)
        assert not world.task.done()
        await world.stop()


async def _scaled(client: Any, namespace: str) -> bool:
    try:
        await client.scale(PREFILL_POOLS, namespace, "long", 2, field_manager="t")
    except errors.KubeError:
        return False
    return True


async def test_what_a_sidecar_tells_reaches_the_planner(kubeconfig: Path, namespace: str) -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            return web.Response(status=503)
        return web.json_response(
            {"version": 1, "engine_connected": True, "fingerprint": "f" * 64, "served_models": ["chat"]}
        )

    app = web.Application()
    app.router.add_get("/status", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen: list[Any] = []

    class Watching(SmallPlanner):
        def pool(self, pool: ObservedPool, now: Any) -> Any:
            seen.append(pool.reports)
            return super().pool(pool, now)

    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        running(config_for(kubeconfig, namespace), Watching(), report_port=runner.addresses[0][1]) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(lambda: bool(seen) and "long-r1-0" in (seen[-1] or {}))
        assert seen[-1]["long-r1-0"].fingerprint == "f" * 64
        await world.quiet()
        assert asked == 2
        await world.stop()
    await runner.cleanup()
