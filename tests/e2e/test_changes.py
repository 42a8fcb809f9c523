"""Scaling, draining and rolling updates while clients ask."""

from __future__ import annotations

import pytest

from prfaas_cluster import engine_pods
from tests.e2e.stage import CHART, SERVING, Stage, restarts, until
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_scaling_down_under_load_loses_no_request(fleet: Stage) -> None:
    with Traffic(fleet.gateway_url) as traffic:
        until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
        fleet.kubectl("scale", "decodepool/chat", "--replicas=1", f"--namespace={SERVING}")
        fleet.until_ready("decodepool", "chat", 1)
        until(lambda: len(fleet.pool_pods("DecodePool", "chat")) == 1, "one decode pod is left")
        before = traffic.answered
        until(
            lambda: traffic.answered >= before + 3, "clients are answered by what is left", within_seconds=120
        )
    assert traffic.failures == []


def test_scaling_up_through_the_scale_subresource(fleet: Stage) -> None:
    fleet.kubectl("scale", "decodepool/chat", "--replicas=2", f"--namespace={SERVING}")
    fleet.until_ready("decodepool", "chat", 2)


def test_a_rolling_update_under_load_loses_no_request(fleet: Stage) -> None:
    before = {pod["metadata"]["uid"] for pod in fleet.pool_pods("DecodePool", "chat")}
    template = engine_pods.pod_template(fleet.host, arguments=("--seed", "7"))
    with Traffic(fleet.gateway_url) as traffic:
        until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
        fleet.apply(
            engine_pods.pool("PrefillPool", "long", SERVING, template, replicas=1),
            engine_pods.pool("DecodePool", "chat", SERVING, template, replicas=2),
        )
        fleet.until_ready("decodepool", "chat", 2)
        fleet.until_ready("prefillpool", "long", 1)
        remote = traffic.remote
        until(lambda: traffic.remote > remote, "the new engines work together", within_seconds=120)
    assert traffic.failures == []
    after = fleet.pool_pods("DecodePool", "chat")
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in after)
    assert all("--seed" in pod["spec"]["containers"][0]["args"] for pod in after)


def test_upgrading_the_release_restarts_no_engine(fleet: Stage) -> None:
    pools = (("PrefillPool", "long"), ("DecodePool", "chat"))
    before = restarts([pod for pool in pools for pod in fleet.pool_pods(*pool)])
    operators = {
        pod["metadata"]["uid"] for pod in fleet.pods("app.kubernetes.io/component=operator", "prfaas")
    }
    upgraded = {
        **fleet.values,
        "operator": {**fleet.values["operator"], "podAnnotations": {"example.org/upgrade": "2"}},
        "pools": {**fleet.values["pools"], "sidecar": {**fleet.values["pools"]["sidecar"], "tag": "next"}},
    }
    with Traffic(fleet.gateway_url) as traffic:
        fleet.helm("upgrade", "prfaas", str(CHART), "--wait", "--timeout=180s", values=upgraded)
        until(
            lambda: operators.isdisjoint(
                pod["metadata"]["uid"] for pod in fleet.pods("app.kubernetes.io/component=operator", "prfaas")
            ),
            "the operator's pods are new ones",
        )
        answered = traffic.answered
        until(lambda: traffic.answered >= answered + 3, "clients are answered", within_seconds=120)
    assert traffic.failures == []
    assert restarts([pod for pool in pools for pod in fleet.pool_pods(*pool)]) == before
    fleet.helm("rollback", "prfaas", "--wait", "--timeout=180s")
    assert restarts([pod for pool in pools for pod in fleet.pool_pods(*pool)]) == before
