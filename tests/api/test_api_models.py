"""The models as values: reading, writing, quantities, conditions, identities and the gateway's snapshot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prfaas.api.conditions import (
    ConditionType,
    Finding,
    Kstatus,
    Reason,
    find,
    kstatus,
    set_condition,
    set_conditions,
)
from prfaas.api.snapshot import DecodeTarget, ModelTarget, PoolTarget, RouteTarget, Snapshot
from prfaas.api.v1alpha1 import (
    Condition,
    ConditionStatus,
    PoolStatus,
    PrefillPool,
    RouteMode,
    ScalingDecision,
    quantity_bytes,
    quantity_value,
)
from prfaas.identity import gateway_identity, pool_identity
from tests.api.crd_cases import changed, minimal

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def test_fields_of_a_newer_version_are_ignored() -> None:
    body = changed(minimal("PrefillPool"), {"spec.kv.codec": "Lossless", "spec.federation": {"hub": "x"}})
    assert PrefillPool.model_validate(body).spec.kv.arena == "4Gi"


def test_a_field_is_written_as_the_api_names_it() -> None:
    decision = ScalingDecision(time=NOW, from_replicas=1, to_replicas=4, reason="Held")
    assert decision.to_api() == {"time": "2026-01-02T12:00:00Z", "from": 1, "to": 4, "reason": "Held"}
    assert ScalingDecision.model_validate(decision.to_api()) == decision
    status = PoolStatus(observed_generation=3, replicas=2)
    assert status.to_api() == {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 0,
        "updatedReplicas": 0,
        "desiredReplicas": 0,
        "revisions": [],
        "conditions": [],
    }


def test_times_are_whole_seconds_in_utc() -> None:
    decision = ScalingDecision.model_validate(
        {"time": "2026-01-02T13:00:00.75+01:00", "from": 0, "to": 1, "reason": "Held"}
    )
    assert decision.time == NOW


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4Gi", 4 << 30),
        ("1.5Ki", 1536),
        ("500m", Decimal("0.5")),
        ("2", 2),
        (3, 3),
        ("1k", 1000),
        ("7E", 7 * 10**18),
    ],
)
def test_quantities(text: str | int, value: Decimal) -> None:
    assert quantity_value(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1e3", "-1", "4gi", "1.2.3", "4KiB", "m", "4Giii", "1mm"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity_value(text)


def test_bytes_are_rounded_up() -> None:
    assert quantity_bytes("1500m") == 2


@given(st.integers(0, 10**9), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi"]))
def test_what_the_schema_takes_the_parser_takes(number: int, unit: str) -> None:
    body = changed(minimal("PrefillPool"), {"spec.kv.arena": f"{number}{unit}"})
    assert quantity_bytes(PrefillPool.model_validate(body).spec.kv.arena) >= number


def finding(status: ConditionStatus, reason: Reason = Reason.SERVING, message: str = "m") -> Finding:
    return Finding(ConditionType.READY, status, reason, message)


def test_the_transition_time_moves_with_the_status_only() -> None:
    first = set_condition((), finding(ConditionStatus.FALSE), generation=1, now=NOW)
    same = set_condition(
        first, finding(ConditionStatus.FALSE, Reason.NOT_ENOUGH_READY), generation=2, now=LATER
    )
    assert same[0].last_transition_time == NOW
    assert (same[0].reason, same[0].observed_generation) == ("NotEnoughReady", 2)
    moved = set_condition(same, finding(ConditionStatus.TRUE), generation=2, now=LATER)
    assert moved[0].last_transition_time == LATER


@given(st.lists(st.tuples(st.sampled_from(ConditionType), st.sampled_from(ConditionStatus)), max_size=12))
def test_finding_the_same_again_changes_nothing(found: list[tuple[ConditionType, ConditionStatus]]) -> None:
    findings = [Finding(type_, status, Reason.SETTLED, "") for type_, status in found]
    once = set_conditions((), findings, generation=1, now=NOW)
    last = {each.type: each for each in findings}.values()
    assert set_conditions(once, last, generation=1, now=LATER) == once
    assert len({condition.type for condition in once}) == len(once)


def test_a_condition_that_is_not_found_any_more_goes() -> None:
    both = set_conditions(
        (),
        [
            finding(ConditionStatus.TRUE),
            Finding(ConditionType.STALLED, ConditionStatus.FALSE, Reason.NOT_STALLED, ""),
        ],
        generation=1,
        now=NOW,
    )
    left = set_conditions(both, [finding(ConditionStatus.TRUE)], generation=1, now=NOW)
    assert [condition.type for condition in left] == ["Ready"]
    assert find(left, ConditionType.STALLED) is None


@pytest.mark.parametrize(
    ("ready", "reconciling", "stalled", "observed", "expected"),
    [
        ("True", "False", "False", 2, Kstatus.CURRENT),
        ("True", "True", "False", 2, Kstatus.IN_PROGRESS),
        ("True", "False", "False", 1, Kstatus.IN_PROGRESS),
        ("False", "False", "False", 2, Kstatus.IN_PROGRESS),
        ("Unknown", "False", "False", 2, Kstatus.IN_PROGRESS),
        ("False", "True", "True", 2, Kstatus.FAILED),
        ("True", "False", "False", None, Kstatus.IN_PROGRESS),
    ],
)
def test_kstatus(ready: str, reconciling: str, stalled: str, observed: int | None, expected: Kstatus) -> None:
    states = {"Ready": ready, "Reconciling": reconciling, "Stalled": stalled}
    conditions = [
        Condition(type=type_, status=ConditionStatus(state), last_transition_time=NOW, reason="R", message="")
        for type_, state in states.items()
    ]
    assert kstatus(conditions, observed_generation=observed, generation=2) is expected


def test_identities() -> None:
    pool = pool_identity(
        trust_domain="example.org", region="eu", namespace="serving", kind="PrefillPool", name="long"
    )
    assert pool == "spiffe://example.org/region/eu/ns/serving/pool/PrefillPool/long"
    gateway = gateway_identity(trust_domain="example.org", region="eu", namespace="prfaas", name="gateway")
    assert gateway == "spiffe://example.org/region/eu/ns/prfaas/gateway/gateway"


@pytest.mark.parametrize(
    ("domain", "region"), [("Example.org", "eu"), ("", "eu"), ("a/b", "eu"), ("a", ".."), ("a", "e/u")]
)
def test_an_identity_cannot_be_bent(domain: str, region: str) -> None:
    with pytest.raises(ValueError, match="use "):
        gateway_identity(trust_domain=domain, region=region, namespace="n", name="g")


def snapshot(threshold_tokens: int = 4096) -> Snapshot:
    pool = PoolTarget(namespace="serving", name="long", identity="spiffe://x", engine_port=8000)
    route = RouteTarget(
        namespace="serving",
        name="chat",
        mode=RouteMode.ENFORCE,
        threshold_tokens=threshold_tokens,
        local_only_until=NOW,
        prefill_pools=(pool,),
    )
    decode = DecodeTarget(
        namespace="serving", name="chat", identity="spiffe://y", engine_port=8000, route=route
    )
    return Snapshot.sealed(
        region="eu", trust_domain="example.org", models=(ModelTarget(name="chat", decode_pools=(decode,)),)
    )


def test_a_snapshot_survives_its_json() -> None:
    text = snapshot().to_json()
    assert Snapshot.from_json(text) == snapshot()
    assert Snapshot.from_json(text).to_json() == text


def test_the_revision_is_that_of_the_content() -> None:
    assert snapshot().revision == snapshot().computed_revision()
    assert snapshot(4096).revision != snapshot(4097).revision


def test_a_snapshot_with_fields_of_a_newer_operator_is_read_and_keeps_its_revision() -> None:
    document = json.loads(snapshot().to_json())
    document["links"] = []
    document["models"][0]["decode_pools"][0]["route"]["prefill_pools"][0]["region"] = "us"
    document["revision"] = "of-the-newer-one"
    read = Snapshot.from_json(json.dumps(document))
    assert read.models == snapshot().models
    assert read.revision == "of-the-newer-one"


def test_a_snapshot_of_another_version_is_refused() -> None:
    document = json.loads(snapshot().to_json()) | {"version": 2}
    with pytest.raises(ValueError, match="upgrade the gateway"):
        Snapshot.from_json(json.dumps(document))
    with pytest.raises(ValidationError, match="trust_domain"):
        Snapshot.from_json('{"version": 1, "region": "eu"}')
