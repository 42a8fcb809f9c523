"""What a real API server makes of the CRDs: defaults, subresources, merging, columns, and the examples."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiException

from prfaas.api.v1alpha1 import (
    ApiModel,
    CapacityStatus,
    ChargedTo,
    Condition,
    ConditionStatus,
    DecodePool,
    EffectiveMode,
    HoldStatus,
    KVStatus,
    LocalOnlyStatus,
    PairStatus,
    PlacedStatus,
    PoolStatus,
    PrefillPool,
    PrefillRoute,
    PrefillRouteStatus,
    RevisionStatus,
    RouteObservation,
    RoutePlanStatus,
    ScalingDecision,
    ScalingStatus,
)
from tests.api.crd_cases import POOLS, changed, minimal
from tests.api.crd_client import Resources
from tests.cluster_fixtures import client_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
NOON = "2026-01-02T12:00:00Z"
TIME = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def resources(kubeconfig: Path, namespace: str) -> Iterator[Resources]:
    with client_of(kubeconfig) as api:
        yield Resources(api, namespace)


def condition(type_: str, status: str = "True", reason: str = "Serving", message: str = "") -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": NOON,
    }


def test_the_server_fills_in_the_same_defaults_as_the_models(resources: Resources) -> None:
    for body in (minimal("PrefillPool"), minimal("DecodePool")):
        stored = resources.create(body)
        model = PrefillPool if body["kind"] == "PrefillPool" else DecodePool
        filled = model.model_validate(body).spec
        assert model.model_validate(stored).spec == filled
        assert stored["spec"]["replicas"] == 1
        assert stored["spec"]["kv"] == {"arena": "4Gi"}
        assert stored["spec"]["rollout"] == {"maxUnavailable": 1, "maxSurge": 0}
        assert "status" not in stored
        assert "finalizers" not in stored["metadata"]
        assert "annotations" not in stored["metadata"]
    route = minimal("PrefillRoute")
    stored = resources.create(route)
    assert stored["spec"]["mode"] == "Observe"
    assert stored["spec"]["threshold"] == {"mode": "Auto"}
    assert PrefillRoute.model_validate(stored).spec == PrefillRoute.model_validate(route).spec


def test_a_part_that_is_given_gets_the_defaults_of_its_other_fields(resources: Resources) -> None:
    body = changed(
        minimal("PrefillPool"), {"spec.rollout": {"maxSurge": 2}, "spec.sidecar": {"resources": {}}}
    )
    stored = resources.create(body)
    assert stored["spec"]["rollout"] == {"maxUnavailable": 1, "maxSurge": 2}
    assert stored["spec"]["sidecar"] == {"upgrade": "OnNextRollout", "resources": {}}


def test_the_pod_template_is_kept_to_the_letter(resources: Resources) -> None:
    pod = yaml.safe_load((EXAMPLES / "prefillpool.yaml").read_text())["spec"]["workload"]["template"]
    body = changed(minimal("PrefillPool"), {"spec.workload.template": pod})
    assert resources.create(body)["spec"]["workload"]["template"] == pod


@pytest.mark.parametrize("kind", POOLS)
def test_scale_reads_and_writes_engine_instances(resources: Resources, kind: str) -> None:
    resources.create(minimal(kind))
    selector = f"prfaas.io/pool=example,prfaas.io/pool-kind={kind}"
    resources.apply_status(kind, "example", {"replicas": 3, "selector": selector}, "operator")

    scale = resources.scale(kind, "example")
    assert scale["spec"]["replicas"] == 1
    assert scale["status"] == {"replicas": 3, "selector": selector}

    resources.set_scale(kind, "example", 7)
    assert resources.get(kind, "example")["spec"]["replicas"] == 7
    with pytest.raises(ApiException) as refused:
        resources.set_scale(kind, "example", 10_001)
    assert refused.value.status == 422


def test_a_manifest_without_replicas_leaves_them_to_whoever_scales(resources: Resources) -> None:
    resources.apply(minimal("DecodePool"), "gitops")
    resources.set_scale("DecodePool", "example", 5)
    stored = resources.apply(minimal("DecodePool"), "gitops")
    assert stored["spec"]["replicas"] == 5
    assert owners_of_replicas(stored) == []


def test_a_manifest_with_replicas_shows_as_their_owner(resources: Resources) -> None:
    stored = resources.apply(changed(minimal("DecodePool"), {"spec.replicas": 2}), "gitops")
    assert owners_of_replicas(stored) == [("gitops", "Apply")]


def owners_of_replicas(stored: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (entry["manager"], entry["operation"])
        for entry in stored["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]


def test_spec_and_status_do_not_touch_each_other(resources: Resources) -> None:
    created = resources.create(changed(minimal("PrefillPool"), {"status": {"replicas": 9}}))
    assert "status" not in created
    after = resources.apply_status("PrefillPool", "example", {"replicas": 2}, "operator")
    assert after["metadata"]["generation"] == created["metadata"]["generation"]
    assert after["status"] == {"replicas": 2}


@pytest.mark.parametrize("kind", [*POOLS, "PrefillRoute"])
def test_two_managers_share_the_conditions(resources: Resources, kind: str) -> None:
    resources.create(minimal(kind))
    resources.apply_status(kind, "example", {"conditions": [condition("Ready")]}, "operator")
    resources.apply_status(kind, "example", {"conditions": [condition("CostWithinBudget")]}, "finance")
    stored = resources.get(kind, "example")["status"]["conditions"]
    assert {each["type"] for each in stored} == {"Ready", "CostWithinBudget"}

    with pytest.raises(ApiException) as refused:
        resources.apply_status(kind, "example", {"conditions": [condition("Ready", "False")]}, "finance")
    assert refused.value.status == 409

    resources.apply_status(kind, "example", {"conditions": []}, "finance")
    stored = resources.get(kind, "example")["status"]["conditions"]
    assert [each["type"] for each in stored] == ["Ready"]


def test_two_managers_share_the_prefill_pools_of_a_route(resources: Resources) -> None:
    resources.apply(minimal("PrefillRoute"), "gitops")
    second = changed(minimal("PrefillRoute"), {"spec": {"prefillPoolRefs": [{"name": "spot"}]}})
    stored = resources.apply(second, "spot-controller")
    assert [each["name"] for each in stored["spec"]["prefillPoolRefs"]] == ["long", "spot"]


def test_every_field_of_a_pools_status_comes_back_as_it_was_written(resources: Resources) -> None:
    status = PoolStatus(
        observed_generation=1,
        replicas=3,
        ready_replicas=2,
        updated_replicas=1,
        desired_replicas=4,
        selector="prfaas.io/pool=example",
        current_revision="5c9d",
        update_revision="77aa",
        limited_by="NoCapacity",
        revisions=(RevisionStatus(name="5c9d", replicas=3, ready=2, fingerprint="1f" * 32),),
        kv=KVStatus(fingerprint="1f" * 32, arena_bytes=4 << 40, charged_to=ChargedTo.SIDECAR),
        capacity=CapacityStatus(
            pending_replicas=1,
            pending_since=TIME,
            last_pending_to_ready_seconds=80,
            median_pending_to_ready_seconds=95,
        ),
        hold=HoldStatus(replicas=8, until=TIME),
        scaling=ScalingStatus(
            last_decision=ScalingDecision(time=TIME, from_replicas=2, to_replicas=3, reason="Held")
        ),
        clusters=(
            PlacedStatus(
                name="eu",
                region="eu",
                desired_replicas=4,
                ready_replicas=2,
                reason="Serving",
                message="no",
                stale=True,
            ),
        ),
        placed="eu 2/4",
        conditions=(Condition.model_validate(condition("Ready")),),
    )
    assert unset(status) == []
    resources.create(minimal("PrefillPool"))
    stored = resources.apply_status("PrefillPool", "example", status.to_api(), "operator")["status"]
    assert PoolStatus.model_validate(stored) == status
    assert stored == status.to_api()


def test_every_field_of_a_routes_status_comes_back_as_it_was_written(resources: Resources) -> None:
    pair = PairStatus(
        prefill_pool="long",
        compatible=ConditionStatus.FALSE,
        reason="FingerprintMismatch",
        ready_prefill=1,
        ready_decode=2,
    )
    status = PrefillRouteStatus(
        observed_generation=1,
        effective_threshold_tokens=4096,
        effective_mode=EffectiveMode.LOCAL_ONLY,
        local_only=LocalOnlyStatus(until=TIME),
        plan=RoutePlanStatus(
            threshold_tokens=19_400,
            remote_percent=49.6,
            binds="prefill of long binds at 4 of 4 instances",
            made_at=TIME,
            valid_until=TIME,
            stale_because="no plan in time",
        ),
        observed=RouteObservation(
            updated_at=TIME,
            hours=24.0,
            requests=120_000,
            remote_percent=12.5,
            saving_per_day="31.4±2.1h",
            spent_per_day="12.0±6.0h",
            ttft_difference="-1.20±0.31s",
            measured_ttft_difference="-0.90±0.12s",
            measured_requests=1500,
            late_percent=0.4,
            fallen_back_gateways=1,
        ),
        pairs=(pair,),
        conditions=(Condition.model_validate(condition("Ready")),),
    )
    assert unset(status) == []
    resources.create(minimal("PrefillRoute"))
    stored = resources.apply_status("PrefillRoute", "example", status.to_api(), "operator")["status"]
    assert stored == status.to_api()


def unset(status: ApiModel) -> list[str]:
    """Fields that a test of all of them has forgotten."""
    return sorted(set(type(status).model_fields) - status.model_fields_set)


def test_columns_of_a_pool_say_whether_it_is_well_and_why_not(resources: Resources) -> None:
    resources.create(minimal("PrefillPool"))
    new = resources.table("PrefillPool", wide=False)[0]
    assert (new["Model"], new["Desired"], new["Ready"]) == ("chat", None, None)

    status = {
        "desiredReplicas": 4,
        "readyReplicas": 2,
        "limitedBy": "NoCapacity",
        "conditions": [
            condition("Ready", "False", "NotEnoughReady", "2 of 4 instances are ready"),
            condition("Reconciling", "True", "RollingOut", "2 of 4 instances are of revision 5c9d"),
        ],
    }
    resources.apply_status("PrefillPool", "example", status, "operator")
    narrow = resources.table("PrefillPool", wide=False)[0]
    assert list(narrow) == [
        "Name",
        "Model",
        "Desired",
        "Available",
        "Ready",
        "Reason",
        "Progress",
        "Limited-By",
        "Clusters",
        "Age",
    ]
    assert list(narrow.values())[:-1] == [
        "example",
        "chat",
        4,
        2,
        "False",
        "NotEnoughReady",
        "RollingOut",
        "NoCapacity",
        None,
    ]
    wide = resources.table("PrefillPool", wide=True)[0]
    assert wide["Message"] == "2 of 4 instances are ready"
    assert (wide["Mode"], wide["Engine"]) == ("Static", "VLLM")


def test_columns_of_a_route_say_what_is_in_force(resources: Resources) -> None:
    resources.create(changed(minimal("PrefillRoute"), {"spec.mode": "Enforce"}))
    status = {
        "effectiveMode": "LocalOnly",
        "effectiveThresholdTokens": 4096,
        "localOnly": {"until": NOON},
        "plan": {
            "thresholdTokens": 4096,
            "remotePercent": 30,
            "binds": "prefill of long binds",
            "madeAt": NOON,
            "validUntil": NOON,
        },
        "observed": {
            "updatedAt": NOON,
            "hours": 24,
            "requests": 9000,
            "remotePercent": 30,
            "savingPerDay": "31.4±2.1h",
            "ttftDifference": "-1.20±0.31s",
            "measuredTtftDifference": "-0.90±0.12s",
        },
        "conditions": [condition("Ready", "True", "LocalOnly")],
    }
    resources.apply_status("PrefillRoute", "example", status, "operator")
    narrow = resources.table("PrefillRoute", wide=False)[0]
    columns = ["Name", "Decode", "Mode", "Threshold", "Saving/Day", "TTFT", "Ready", "Reason", "Age", "Binds"]
    assert list(narrow) == columns
    assert [narrow[name] for name in columns if name != "Age"] == [
        "example",
        "chat",
        "LocalOnly",
        4096,
        "31.4±2.1h",
        "-1.20±0.31s",
        "True",
        "LocalOnly",
        "prefill of long binds",
    ]
    wide = resources.table("PrefillRoute", wide=True)[0]
    assert (wide["Wanted"], wide["Local-Until"]) == ("Enforce", NOON)
    assert wide["Measured"] == "-0.90±0.12s"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_are_taken_as_they_are(resources: Resources, file: Path) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    assert documents
    for document in documents:
        resources.create(document, dry_run="All", field_validation="Strict")
