"""The operator against a real API server: a pool's life, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

from prfaas.kube import errors
from prfaas.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EVENTS, LEASES, PREFILL_POOLS, SECRETS
from tests.helpers import eventually_async
from tests.operator.runtime_world import (
    SmallPlanner,
    client_of,
    config_for,
    kubelets,
    pool_body,
    pool_serves,
    running,
)


async def test_a_pool_is_made_scaled_and_deleted_and_its_object_stays_untouched(
    kubeconfig: Path, namespace: str
) -> None:
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))

        async def is_certified() -> bool:
            found = {each["metadata"]["name"]: each for each in await client.list(SECRETS, namespace)}
            return found.get("long-prefill-tls", {}).get("type") == "kubernetes.io/tls"

        await eventually_async(is_certified)

        await client.scale(PREFILL_POOLS, namespace, "long", 3, field_manager="an-autoscaler")
        await eventually_async(pool_serves(client, namespace, "long", 3))
        await world.quiet()

        body = await client.get(PREFILL_POOLS, namespace, "long")
        assert body["metadata"]["annotations"] == {"example.org/note": "the user's own"}
        assert "finalizers" not in body["metadata"]
        assert "labels" not in body["metadata"]
        managers = {
            (entry["manager"], entry.get("subresource", "")) for entry in body["metadata"]["managedFields"]
        }
        assert not [
            each
            for each in managers
            if each[0].startswith(("kopf", "prfaas-operator")) and each[1] != "status"
        ]

        await client.delete(PREFILL_POOLS, namespace, "long")
        await eventually_async(lambda: len(world.operator.store.prefill_pools) == 0)
        await world.quiet()
        try:
            await client.get(PREFILL_POOLS, namespace, "long")
        except errors.NotFound:
            pass
        else:
            raise AssertionError("a deleted pool is held back")

        told = await client.list(EVENTS, namespace)
        assert {event["reason"] for event in told} >= {"Starting", "Serving"}
        await world.stop()
        lease = await client.get(LEASES, namespace, "prfaas-operator")
        assert not lease["spec"].get("holderIdentity")


async def test_an_unchanged_pass_writes_nothing(kubeconfig: Path, namespace: str) -> None:
    planner = SmallPlanner()
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        running(config_for(kubeconfig, namespace), planner) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await world.quiet()
        writes, passes = world.writes(), planner.pool_passes
        world.operator._enqueue_all()
        await eventually_async(lambda: planner.pool_passes > passes)
        await world.quiet()
        assert world.writes() == writes


async def test_a_child_that_somebody_changed_is_put_back(kubeconfig: Path, namespace: str) -> None:
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        running(config_for(kubeconfig, namespace), SmallPlanner()) as world,
    ):
        await client.create(PREFILL_POOLS, pool_body(namespace))
        await eventually_async(pool_serves(client, namespace, "long", 1))
        await world.quiet()
        await client.apply(
            CONFIG_MAPS,
            {
                "metadata": {"namespace": namespace, "name": "long-prefill-peers"},
                "data": {"peers.yaml": "accept: ['*']"},
            },
            field_manager="somebody",
            force=True,
        )

        async def is_back() -> bool:
            body = await client.get(CONFIG_MAPS, namespace, "long-prefill-peers")
            return bool(body["data"]["peers.yaml"] == "accept: []\n")

        await eventually_async(is_back)


async def test_an_object_of_the_same_name_that_is_not_the_pools_is_left_alone(
    kubeconfig: Path, namespace: str
) -> None:
    planner = SmallPlanner()
    async with client_of(kubeconfig) as client:
        mine = {"metadata": {"namespace": namespace, "name": "long-prefill-peers"}, "data": {"mine": "1"}}
        await client.create(CONFIG_MAPS, mine)
        async with running(config_for(kubeconfig, namespace), planner):
            await client.create(PREFILL_POOLS, pool_body(namespace))
            await eventually_async(lambda: any(each.code == "AlreadyExists" for each in planner.failures))
            assert not planner.failures[-1].retryable
            body = await client.get(CONFIG_MAPS, namespace, "long-prefill-peers")
            assert body["data"] == {"mine": "1"}
            # The dry run of all children comes before the first change.
            assert not await client.list(DEPLOYMENTS, namespace)
