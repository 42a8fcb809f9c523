"""A restart of the operator neither forgets what engines told nor believes what may be outdated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from prfaas.api.conditions import ConditionType
from prfaas.api.v1alpha1 import Condition, ConditionStatus, PoolStatus, RevisionStatus
from prfaas.kube.resources import PREFILL_POOLS
from prfaas_operator.planning.values import EngineReport, ObservedPod
from prfaas_operator.runtime.engine_reports import (
    LONGEST_RETRY_SECONDS,
    RETRIES_PER_SECOND,
    longest_retry_seconds,
)
from prfaas_operator.runtime.planning_adapter import Planning
from prfaas_operator.runtime.recorded_reports import recorded_reports
from tests.helpers import eventually_async, free_port
from tests.operator.runtime_world import client_of, config_for, kubelets, pool_body, running

START = datetime(2026, 1, 1, tzinfo=UTC)
FINGERPRINT = "ab" * 32


def status_of(state: ConditionStatus) -> PoolStatus:
    condition = Condition(
        type=ConditionType.KV_COMPATIBLE,
        status=state,
        observed_generation=1,
        last_transition_time=START,
        reason="FingerprintsAgree",
        message="",
    )
    revision = RevisionStatus(name="r1", replicas=1, ready=1, fingerprint=FINGERPRINT)
    return PoolStatus(conditions=(condition,), revisions=(revision,))


OLD_POD = ObservedPod(
    name="a",
    uid="1",
    revision="r1",
    created_at=START,
    ready=True,
    ready_changed_at=START - timedelta(seconds=1),
)


def recorded(status: PoolStatus, pod: ObservedPod, awaited: set[str]) -> dict[str, EngineReport]:
    return recorded_reports(status, (pod,), awaited=awaited, ready_before=START)


def test_until_its_first_answer_a_pod_counts_as_recorded() -> None:
    found = recorded(status_of(ConditionStatus.TRUE), OLD_POD, {"a"})
    assert found == {"a": EngineReport(engine_connected=True, fingerprint=FINGERPRINT)}


def test_a_pod_that_has_answered_or_failed_to_is_not_taken_from_the_record() -> None:
    assert recorded(status_of(ConditionStatus.TRUE), OLD_POD, set()) == {}


def test_a_pod_that_became_ready_later_is_not_in_the_record() -> None:
    later = replace(OLD_POD, ready_changed_at=START + timedelta(seconds=1))
    assert recorded(status_of(ConditionStatus.TRUE), later, {"a"}) == {}
    assert recorded(status_of(ConditionStatus.TRUE), replace(OLD_POD, revision="r2"), {"a"}) == {}


def test_engines_that_did_not_agree_are_asked_anew() -> None:
    for state in (ConditionStatus.FALSE, ConditionStatus.UNKNOWN):
        assert recorded(status_of(state), OLD_POD, {"a"}) == {}


def test_sidecars_that_do_not_answer_are_asked_a_few_times_a_second_however_many_they_are() -> None:
    assert longest_retry_seconds(1) == LONGEST_RETRY_SECONDS
    for asked in (1000, 10_000):
        assert asked / longest_retry_seconds(asked) <= RETRIES_PER_SECOND


async def test_a_restart_writes_nothing_and_a_sidecar_that_fails_is_noticed(
    kubeconfig: Path, namespace: str
) -> None:
    answers = True

    async def status(_: web.Request) -> web.Response:
        if not answers:
            return web.Response(status=503)
        return web.json_response({"version": 1, "engine_connected": True, "fingerprint": FINGERPRINT})

    app = web.Application()
    app.router.add_get("/status", status)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    config = config_for(kubeconfig, namespace)

    def planning() -> Planning:
        return Planning(
            config.injection_settings(), gateway_namespace=namespace, gateway_name="prfaas-gateway"
        )

    try:
        async with client_of(kubeconfig) as client, kubelets(client, namespace):
            await client.create(PREFILL_POOLS, pool_body(namespace, workload=workload()))

            async def compatible() -> str:
                body = await client.get(PREFILL_POOLS, namespace, "long")
                conditions = (body.get("status") or {}).get("conditions") or []
                return next((each["status"] for each in conditions if each["type"] == "KVCompatible"), "")

            async def is_compatible() -> bool:
                return await compatible() == "True"

            async def is_unknown() -> bool:
                return await compatible() == "Unknown"

            async with running(config, planning(), report_port=port) as world:
                await eventually_async(is_compatible)
                await world.quiet()
                await world.stop()
            async with running(config, planning(), report_port=port) as world:
                await eventually_async(lambda: world.operator.elector.leading.is_set())
                await world.quiet()
                assert world.writes() == 0
                await world.stop()
            answers = False
            async with running(config, planning(), report_port=port) as world:
                await eventually_async(is_unknown)
                await world.stop()
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)


def workload() -> dict[str, object]:
    engine = {
        "name": "engine",
        "image": "example.org/e:1",
        "args": ["--served-model-name=chat"],
        "resources": {"limits": {"memory": "64Gi"}},
    }
    return {"template": {"spec": {"containers": [engine]}}}
