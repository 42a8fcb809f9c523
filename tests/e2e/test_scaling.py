"""Who decides on the size: Kubernetes' own autoscaler through `/scale`, and the operator in mode Managed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prfaas_cluster.bare.cluster import PROVIDER as BARE
from tests.e2e.external_metrics import external_metrics
from tests.e2e.stage import DECODE, PREFILL, SERVING, Stage, uids, until
from tests.e2e.traffic import Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
METRIC = "requests_waiting"
REQUESTS_PER_ENGINE = 10
MANAGED = {"mode": "Managed", "minReplicas": 2, "maxReplicas": 2}


def test_an_autoscaler_drains_and_adds_engines_by_its_metric(fleet: Stage, tmp_path: Path) -> None:
    if fleet.record.provider != BARE:
        pytest.skip("only a bare cluster's API server reaches the metrics of this process")
    before = fleet.pool_pods("DecodePool", DECODE)
    with external_metrics(fleet, tmp_path) as metrics, _autoscaler(fleet):
        metrics[METRIC] = 2 * REQUESTS_PER_ENGINE
        until(lambda: _autoscaler_wants(fleet) == 2, "the autoscaler sees the load", within_seconds=60)
        active = until(
            lambda: (
                "engines" in (found := fleet.condition("decodepool", DECODE, "ScalingActive"))["message"]
                and found
            ),
            "the pool names its autoscaler",
            within_seconds=30,
        )
        assert (active["status"], active["reason"]) == ("True", "External")
        with Traffic(fleet.gateway_url) as traffic:
            until(lambda: traffic.answered >= 3, "clients are answered", within_seconds=120)
            metrics[METRIC] = REQUESTS_PER_ENGINE // 2
            fleet.until_ready("decodepool", DECODE, 1)
            answered = traffic.answered
            until(lambda: traffic.answered >= answered + 3, "what is left answers", within_seconds=120)
        assert traffic.failures == []
        assert uids(fleet.pool_pods("DecodePool", DECODE)) < uids(before)
        metrics[METRIC] = 2 * REQUESTS_PER_ENGINE
        fleet.until_ready("decodepool", DECODE, 2)
        found = fleet.kubectl.get("hpa", "engines", f"--namespace={SERVING}")["status"]
        assert (found["currentReplicas"], found["desiredReplicas"]) == (2, 2)
        assert {each["type"]: each["status"] for each in found["conditions"]}["ScalingActive"] == "True"


def test_managed_leaves_replicas_to_a_manifest_that_has_them_and_takes_them_over_afterwards(
    fleet: Stage,
) -> None:
    before = uids(fleet.pool_pods("DecodePool", DECODE))
    fleet.apply_fleet(scaling=MANAGED, replicas=2)
    refused = _until_scaling_active(fleet, "ReplicasOwnedByManifest")
    assert refused["status"] == "False"
    assert "remove replicas from the manifest" in refused["message"]

    # kubectl takes the field away, which brings the default: 1, below what the pool is to have at least.
    fleet.apply_fleet(scaling=MANAGED)
    assert _until_scaling_active(fleet, "Managed")["status"] == "True"
    found = fleet.until_ready("decodepool", DECODE, 2)
    assert found["spec"]["replicas"] == 2
    decision = found["status"]["scaling"]["lastDecision"]
    assert (decision["from"], decision["to"], decision["reason"]) == (1, 2, "TooFewReplicas")
    assert _owners_of_replicas(found) == {"prfaas-operator-scale"}
    assert uids(fleet.pool_pods("DecodePool", DECODE)) == before


def test_managed_clamps_what_somebody_writes_and_no_engine_notices(fleet: Stage) -> None:
    before = uids(fleet.pool_pods("DecodePool", DECODE))
    for asked, reason in ((5, "TooManyReplicas"), (0, "TooFewReplicas")):
        fleet.scale_decode(asked)
        until(
            partial(_last_decision_is, fleet, reason),
            f"{asked} replicas are refused with {reason}",
            within_seconds=30,
        )
        assert fleet.until_ready("decodepool", DECODE, 2)["spec"]["replicas"] == 2
    assert uids(fleet.pool_pods("DecodePool", DECODE)) == before


def test_an_autoscaler_on_a_managed_pool_is_a_condition(fleet: Stage) -> None:
    with _autoscaler(fleet):
        found = _until_scaling_active(fleet, "AutoscalerOnManagedPool")
        assert found["status"] == "False"
        assert "HorizontalPodAutoscaler engines" in found["message"]
    _until_scaling_active(fleet, "Managed")
    before = uids(fleet.pool_pods("DecodePool", DECODE))
    fleet.apply_fleet()
    _until_scaling_active(fleet, "External")
    fleet.until_ready("decodepool", DECODE, 2)
    fleet.until_ready("prefillpool", PREFILL, 1)
    assert uids(fleet.pool_pods("DecodePool", DECODE)) == before


@contextmanager
def _autoscaler(fleet: Stage) -> Iterator[None]:
    no_wait = {"stabilizationWindowSeconds": 0}
    fleet.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "engines", "namespace": SERVING},
            "spec": {
                "scaleTargetRef": {"apiVersion": "prfaas.io/v1alpha1", "kind": "DecodePool", "name": DECODE},
                "minReplicas": 1,
                "maxReplicas": 2,
                "metrics": [
                    {
                        "type": "External",
                        "external": {
                            "metric": {"name": METRIC},
                            "target": {"type": "AverageValue", "averageValue": str(REQUESTS_PER_ENGINE)},
                        },
                    }
                ],
                "behavior": {"scaleUp": no_wait, "scaleDown": no_wait},
            },
        }
    )
    try:
        yield
    finally:
        fleet.kubectl("delete", "hpa", "engines", f"--namespace={SERVING}")


def _autoscaler_wants(fleet: Stage) -> int | None:
    status = fleet.kubectl.get("hpa", "engines", f"--namespace={SERVING}").get("status", {})
    is_active = any(
        each["type"] == "ScalingActive" and each["status"] == "True" for each in status.get("conditions", ())
    )
    wanted: int | None = status.get("desiredReplicas")
    return wanted if is_active else None


def _until_scaling_active(fleet: Stage, reason: str) -> dict[str, Any]:
    found: dict[str, Any] = until(
        lambda: (
            (condition := fleet.condition("decodepool", DECODE, "ScalingActive")).get("reason") == reason
            and condition
        ),
        f"ScalingActive has the reason {reason}",
        within_seconds=30,
    )
    return found


def _last_decision_is(fleet: Stage, reason: str) -> bool:
    found = fleet.pool("decodepool", DECODE)["status"]["scaling"]["lastDecision"]
    return bool(found["reason"] == reason)


def _owners_of_replicas(pool: dict[str, Any]) -> set[str]:
    return {
        entry["manager"]
        for entry in pool["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
