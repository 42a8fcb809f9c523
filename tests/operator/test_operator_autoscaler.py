"""Mode Managed at a real API server: sidecars tell of load, the operator decides, writes and says why."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from prfaas.api import keys
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import (
    DECODE_POOLS,
    EVENTS,
    KV_LINKS,
    PREFILL_POOLS,
    PREFILL_ROUTES,
    REGIONS,
    Object,
)
from prfaas_operator.runtime.planning_adapter import Planning
from tests.helpers import eventually_async
from tests.operator.runtime_world import client_of, config_for, kubelets, pool_body, running

pytestmark = pytest.mark.timeout(300)


class Engines:
    """What all sidecars tell. `share` is how busy each engine is; `silent`: they do not say."""

    def __init__(self) -> None:
        self.share = 0.0
        self.waiting = 0.0
        self.silent = False
        self.asked = 0
        self._busy_seconds: dict[str, float] = {}

    async def load(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.silent:
            return web.json_response({"version": 1, "running": None, "waiting": None, "error": "asleep"})
        running = 1.0 if self.share else 0.0
        return web.json_response(
            {
                "version": 1,
                "incarnation": "one",
                "running": running,
                "waiting": self.waiting,
                "kv_cache_usage": self.share,
                "totals": {},
                "kv_samples": [],
            }
        )

    async def status(self, _: web.Request) -> web.Response:
        return web.json_response({"version": 1, "engine_connected": False})


@asynccontextmanager
async def engines() -> AsyncIterator[tuple[Engines, int]]:
    told = Engines()
    app = web.Application()
    app.router.add_get("/load", told.load)
    app.router.add_get("/status", told.status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield told, runner.addresses[0][1]
    finally:
        await runner.cleanup()


def settings(kubeconfig: Path, namespace: str, **autoscaler: Any) -> Any:
    given = {"interval_seconds": 1, "unknown_seconds": 1.5, "start_seconds": 1, **autoscaler}
    # A busy machine is no other leader.
    election = {"identity": "operator-0", "lease_seconds": 60, "renew_deadline_seconds": 40}
    return config_for(kubeconfig, namespace, autoscaler=given, leader_election=election)


def planning(config: Any) -> Planning:
    return Planning(config.injection_settings(), gateway_namespace="own", gateway_name="gateway")


def managed(namespace: str, replicas: int = 1, **scaling: Any) -> Object:
    behaviour = {"growWindowSeconds": 0, "shrinkWindowSeconds": 1, "coolDownSeconds": 0, "idleSeconds": 1}
    return pool_body(
        namespace,
        replicas=replicas,
        scaling={"mode": "Managed", "maxReplicas": 4, "behaviour": behaviour, **scaling},
    )


async def pool(client: KubeClient, namespace: str) -> Object:
    return await client.get(PREFILL_POOLS, namespace, "long")


async def reason(client: KubeClient, namespace: str, type_: str) -> str:
    conditions = ((await pool(client, namespace)).get("status") or {}).get("conditions") or ()
    return next((str(each["reason"]) for each in conditions if each["type"] == type_), "")


async def test_load_grows_and_shrinks_a_pool_and_each_change_is_told_with_its_inputs(
    kubeconfig: Path, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(kubeconfig, namespace)
    with caplog.at_level(logging.INFO, logger="prfaas_operator.decisions"):
        async with (
            client_of(kubeconfig) as client,
            kubelets(client, namespace),
            engines() as (told, port),
            running(config, planning(config), report_port=port) as world,
        ):
            told.share = 1.0
            told.waiting = 5.0
            await client.create(PREFILL_POOLS, managed(namespace))

            async def size(wanted: int) -> bool:
                body = await pool(client, namespace)
                return bool(body["spec"]["replicas"] == wanted)

            await eventually_async(lambda: size(4), within_seconds=60)

            async def said() -> bool:
                return await reason(client, namespace, "ScalingLimited") == "TooManyReplicas"

            await eventually_async(said, within_seconds=60)
            body = await pool(client, namespace)
            scaling = body["status"]["scaling"]
            latest, first = scaling["history"][0], scaling["history"][-1]
            assert scaling["lastDecision"] == latest
            assert (first["from"], latest["to"]) == (1, 4)
            assert latest["reason"] in {"QueueGrew", "LoadRose"}
            assert {each["name"] for each in latest["inputs"]} >= {"ready", "utilisation", "queued"}
            assert scaling["explanation"]["needed"] > 4
            assert any("maxReplicas" in each for each in scaling["explanation"]["wouldChange"])
            managers = {each["manager"] for each in body["metadata"]["managedFields"] if "scale" in str(each)}
            assert keys.MANAGER_SCALE in managers

            async def told_once_each() -> bool:
                """One Event for each change; Events come after the status that they go with."""
                events = [
                    each for each in await client.list(EVENTS, namespace) if each["reason"] == "Resized"
                ]
                history = (await pool(client, namespace))["status"]["scaling"]["history"]
                told = sum(each.get("series", {}).get("count", 1) for each in events)
                return bool(history[0]["to"] == 1 and told == len(history))

            told.share = told.waiting = 0.0
            await eventually_async(lambda: size(1), within_seconds=60)
            await eventually_async(told_once_each, within_seconds=60)
            sizes = world.operator.metrics.scaling_sizes
            assert sizes["PrefillPool", namespace, "long"][0] == 1
            await world.quiet()
            await world.stop()
    lines = [json.loads(each.message) for each in caplog.records if '"decision":"scaling"' in each.message]
    assert any(line["desired"] > line["replicas"] for line in lines)
    assert all(line["message"] for line in lines)


async def test_engines_that_do_not_tell_keep_the_size_and_are_a_condition(
    kubeconfig: Path, namespace: str
) -> None:
    config = settings(kubeconfig, namespace)
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        engines() as (told, port),
        running(config, planning(config), report_port=port) as world,
    ):
        told.silent = True
        await client.create(PREFILL_POOLS, managed(namespace, replicas=2))

        async def unknown() -> bool:
            return await reason(client, namespace, "ScalingActive") == "LoadUnknown"

        await eventually_async(unknown, within_seconds=60)
        assert (await pool(client, namespace))["spec"]["replicas"] == 2
        told.silent, told.share = False, 0.6

        async def known() -> bool:
            return await reason(client, namespace, "ScalingActive") == "Managed"

        await eventually_async(known, within_seconds=60)
        await world.stop()


async def test_an_idle_pool_goes_to_zero_and_its_steady_state_writes_nothing(
    kubeconfig: Path, namespace: str
) -> None:
    config = settings(kubeconfig, namespace)
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        engines() as (told, port),
        running(config, planning(config), report_port=port) as world,
    ):
        await client.create(PREFILL_POOLS, managed(namespace, minReplicas=0))

        async def empty() -> bool:
            body = await pool(client, namespace)
            return bool(body["spec"]["replicas"] == 0 and body["status"].get("readyReplicas") == 0)

        await eventually_async(empty, within_seconds=60)
        body = await pool(client, namespace)
        assert body["status"]["scaling"]["lastDecision"]["reason"] == "Idle"
        # The last decision was about one instance, the next ones are about none.
        await more_rounds(world, 3)
        await world.quiet()
        writes = world.writes()
        await more_rounds(world, 3)
        assert world.writes() == writes
        assert told.asked > 0
        await world.stop()


async def test_a_hold_and_static_pools_are_left_to_whom_they_belong(kubeconfig: Path, namespace: str) -> None:
    config = settings(kubeconfig, namespace)
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        engines() as (told, port),
        running(config, planning(config), report_port=port) as world,
    ):
        told.share = 1.0
        held = managed(namespace)
        held["metadata"]["annotations"][keys.ANNOTATION_HOLD] = json.dumps(
            {"replicas": 2, "until": "2099-01-01T00:00:00Z", "reason": "a test"}
        )
        await client.create(PREFILL_POOLS, held)

        async def is_held() -> bool:
            body = await pool(client, namespace)
            return bool((body.get("status") or {}).get("readyReplicas") == 2)

        await eventually_async(is_held, within_seconds=60)
        await more_rounds(world, 2)
        body = await pool(client, namespace)
        assert body["spec"]["replicas"] == 1
        assert await reason(client, namespace, "ScalingActive") == "Held"
        await world.stop()


async def more_rounds(world: Any, count: int) -> None:
    wanted = rounds_of(world) + count
    await eventually_async(lambda: rounds_of(world) >= wanted, within_seconds=60)


def rounds_of(world: Any) -> float:
    return float(
        sum(
            sample.value
            for metric in world.operator.metrics.scaling_rounds.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.labels["result"] == "ok"
        )
    )


async def test_nothing_grows_behind_a_link_that_a_kvlink_calls_saturated(
    kubeconfig: Path, namespace: str
) -> None:
    # Regions and links belong to no namespace: names of this test alone.
    own, other = f"us-{namespace[-6:]}", f"eu-{namespace[-6:]}"
    link: Object = {
        "apiVersion": keys.API_VERSION,
        "kind": "KVLink",
        "metadata": {"name": f"{own}-{other}"},
        "spec": {
            "source": {"region": own},
            "destination": {"region": other},
            "capacityBitsPerSecond": 10**10,
        },
    }
    congested = {
        "type": "Congested",
        "status": "True",
        "reason": "Saturated",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    config = settings(kubeconfig, namespace).model_copy(update={"region": own})
    async with (
        client_of(kubeconfig) as client,
        kubelets(client, namespace),
        engines() as (told, port),
        running(config, planning(config), report_port=port) as world,
    ):
        told.share, told.waiting = 1.0, 9.0
        region = {
            "apiVersion": keys.API_VERSION,
            "kind": "Region",
            "metadata": {"name": other},
            "spec": {},
        }
        try:
            await client.create(REGIONS, region)
            await client.create(KV_LINKS, link)
            await client.patch(
                KV_LINKS,
                None,
                link["metadata"]["name"],
                {"status": {"utilisationPercent": 97, "conditions": [congested]}},
                field_manager="test",
                subresource="status",
            )
            decode = {**pool_body(namespace, "chat"), "kind": "DecodePool"}
            decode["spec"]["placement"] = {"clusters": [{"name": other}]}
            await client.create(DECODE_POOLS, decode)
            await client.create(PREFILL_ROUTES, route_to_chat(namespace))
            await client.create(PREFILL_POOLS, managed(namespace))

            async def limited() -> bool:
                return await reason(client, namespace, "ScalingLimited") == "LinkSaturated"

            await eventually_async(limited, within_seconds=60)
            body = await pool(client, namespace)
            assert body["spec"]["replicas"] == 1
            explanation = body["status"]["scaling"]["explanation"]
            assert explanation["needed"] > 1
            assert link["metadata"]["name"] in explanation["limitMessage"]
            assert body["status"]["limitedBy"] == "LinkSaturated"
            await world.stop()
        finally:
            await client.delete(KV_LINKS, None, link["metadata"]["name"])
            await client.delete(REGIONS, None, other)


def route_to_chat(namespace: str) -> Object:
    return {
        "apiVersion": keys.API_VERSION,
        "kind": "PrefillRoute",
        "metadata": {"namespace": namespace, "name": "chat"},
        "spec": {
            "decodePoolRef": {"name": "chat"},
            "prefillPoolRefs": [{"name": "long"}],
            "mode": "Enforce",
        },
    }
