"""One table per small policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prfaas.api.v1alpha1 import CapacityStatus, PoolStatus, Scaling
from prfaas.pod_troubles import scheduler_words
from prfaas_operator.planning.actions import ScalePool
from prfaas_operator.planning.capacity import measure
from prfaas_operator.planning.certificates import due_at, seconds_until_due, why_due
from prfaas_operator.planning.children import budget_is_wanted, contains
from prfaas_operator.planning.drain import GATEWAYS_SEE_SECONDS, choose_victims, plan_drain
from prfaas_operator.planning.overrides import BadOverride, hold_of
from prfaas_operator.planning.partner import partner_keys, summarise
from prfaas_operator.planning.peers import peers_text
from prfaas_operator.planning.pods import is_broken, is_ending
from prfaas_operator.planning.references import resolve, wanted
from prfaas_operator.planning.replicas import managed_target, plan_size
from prfaas_operator.planning.selectors import selects
from prfaas_operator.planning.values import (
    FieldManager,
    FoundReference,
    ObservedCertificate,
    ObservedDeployment,
    ObservedPod,
    PartnerPool,
    PoolKey,
    UserBudget,
)
from tests.operator.planning.pool_world import CRASHING, NOW, SETTINGS, observed, settled, spec
from tests.operator.planning.test_route_plans import route_spec


def pod(name: str, **changes: Any) -> ObservedPod:
    values: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "revision": "r",
        "created_at": NOW - timedelta(hours=1),
        "phase": "Running",
        "ready": True,
        "ready_changed_at": NOW - timedelta(minutes=50),
        "node": "n",
    }
    return ObservedPod(**{**values, **changes})


def waiting(name: str, **changes: Any) -> ObservedPod:
    values = {
        "phase": "Pending",
        "ready": False,
        "node": "",
        "pending_reason": "Unschedulable",
        "ready_changed_at": None,
    }
    return pod(name, **{**values, **changes})


# --- drain


def test_victims_are_those_that_serve_nobody_then_marked_then_youngest() -> None:
    pods = [
        pod("old"),
        pod("young", ready_changed_at=NOW - timedelta(minutes=1)),
        pod("marked", drain_since=NOW),
        pod("loading", ready=False),
        waiting("pending"),
    ]
    order = [each.name for each in choose_victims(pods, 5)]
    assert order == ["pending", "loading", "marked", "young", "old"]


def test_a_victim_is_marked_seen_and_then_the_deployment_shrinks() -> None:
    pods = [pod("a"), pod("b", ready_changed_at=NOW)]
    first = plan_drain(pods, 1, NOW)
    assert [(mark.name, mark.drain_since) for mark in first.marks] == [("b", NOW)]
    assert (first.may_shrink, first.wait_seconds) == (False, GATEWAYS_SEE_SECONDS)
    pods[1] = replace(pods[1], drain_since=NOW)
    later = plan_drain(pods, 1, NOW + timedelta(seconds=1))
    assert (later.marks, later.may_shrink, later.wait_seconds) == ((), False, 1.0)
    assert plan_drain(pods, 1, NOW + timedelta(seconds=2)).may_shrink


def test_who_serves_nobody_is_not_waited_for() -> None:
    assert plan_drain([pod("a"), waiting("b")], 1, NOW) == plan_drain([pod("a")], 1, NOW)


def test_a_reversed_decision_removes_marks() -> None:
    [mark] = plan_drain([pod("a"), pod("b", drain_since=NOW)], 2, NOW).marks
    assert (mark.name, mark.drain_since) == ("b", None)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_marks_settle(count: int, marked: int, replicas: int) -> None:
    pods = [pod(f"p{i}", drain_since=NOW if i < marked else None) for i in range(count)]
    marks = {mark.name: mark.drain_since for mark in plan_drain(pods, replicas, NOW).marks}
    after = [replace(each, drain_since=marks.get(each.name, each.drain_since)) for each in pods]
    again = plan_drain(after, replicas, NOW + timedelta(seconds=3))
    assert again.marks == ()
    assert again.may_shrink
    assert sum(each.drain_since is not None for each in after) == max(0, count - replicas)


# --- pods


@pytest.mark.parametrize(
    ("each", "broken"),
    [
        (pod("p"), False),
        (pod("p", ready=False, ready_changed_at=NOW - timedelta(seconds=5)), False),
        (pod("p", ready=False, ready_changed_at=NOW - timedelta(seconds=61)), True),
        (pod("p", ready=False, ready_changed_at=NOW, troubles=(replace(CRASHING, lasting=False),)), False),
        (pod("p", ready=False, ready_changed_at=NOW, troubles=(CRASHING,)), True),
        (waiting("p", created_at=NOW - timedelta(seconds=11)), True),
        (waiting("p", created_at=NOW - timedelta(seconds=9)), False),
    ],
)
def test_broken(each: ObservedPod, broken: bool) -> None:
    assert is_broken(each, NOW) is broken


def test_an_end_that_nobody_confirms_stops_counting() -> None:
    ends = pod("p", deletion_ends_at=NOW)
    assert is_ending(ends, NOW + timedelta(seconds=29))
    assert not is_ending(ends, NOW + timedelta(seconds=30))


# --- replicas


@pytest.mark.parametrize(
    ("scaling", "changes", "reason", "written"),
    [
        ({"mode": "Static"}, {}, "Static", None),
        ({"mode": "External"}, {"autoscalers": ("keda",)}, "External", None),
        ({"mode": "Managed", "maxReplicas": 8}, {}, "Managed", None),
        ({"mode": "Managed", "minReplicas": 4, "maxReplicas": 8}, {}, "Managed", 4),
        (
            {"mode": "Managed", "minReplicas": 4, "maxReplicas": 8},
            {"autoscalers": ("h",)},
            "AutoscalerOnManagedPool",
            None,
        ),
        (
            {"mode": "Managed", "minReplicas": 4, "maxReplicas": 8},
            {"replicas_managers": (FieldManager("argocd-controller", "Apply", ""),)},
            "ReplicasOwnedByManifest",
            None,
        ),
        (
            {"mode": "Managed", "minReplicas": 4, "maxReplicas": 8},
            {"replicas_in_last_applied": True},
            "ReplicasOwnedByManifest",
            None,
        ),
        (
            {"mode": "Managed", "minReplicas": 4, "maxReplicas": 8},
            {
                "replicas_managers": (
                    FieldManager("kubectl-create", "Update", ""),
                    FieldManager("kubectl", "Update", "scale"),
                    FieldManager("prfaas-operator-scale", "Apply", "scale"),
                )
            },
            "Managed",
            4,
        ),
    ],
)
def test_who_decides_on_replicas(
    scaling: dict[str, Any], changes: dict[str, Any], reason: str, written: int | None
) -> None:
    wanted_spec = spec(scaling=scaling)
    sizing = plan_size(observed(spec=wanted_spec, **changes), wanted_spec, NOW)
    assert sizing.active.reason == reason
    assert (sizing.scale.replicas if sizing.scale is not None else None) == written
    assert sizing.desired == (2 if written is None else written)


def test_managed_writes_the_pools_scale_and_says_so() -> None:
    world = settled(replicas=2)
    scaling = {"mode": "Managed", "minReplicas": 3, "maxReplicas": 5}
    world.change(replicas=2, scaling=scaling)
    plan = world.step()
    assert any(isinstance(action, ScalePool) for action in plan.actions)
    decision = world.pool.status.scaling
    assert decision is not None
    assert decision.last_decision is not None
    assert (decision.last_decision.from_replicas, decision.last_decision.to_replicas) == (2, 3)
    world.settle()
    assert world.ready == 3
    assert world.plan().is_empty


@given(st.integers(0, 100), st.integers(0, 50), st.integers(1, 50))
def test_managed_stays_within_its_bounds_and_is_a_fixed_point(asked: int, low: int, high: int) -> None:
    scaling = Scaling.model_validate({"mode": "Managed", "minReplicas": min(low, high), "maxReplicas": high})
    target, limited = managed_target(asked, scaling)
    assert min(low, high) <= target <= high
    assert (limited is None) == (target == asked)
    assert managed_target(target, scaling) == (target, None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"replicas": 3, "until": "2026-03-01T13:00:00Z", "reason": "x"}', "Hold"),
        ('{"replicas": 3, "until": "2026-03-01T12:00:00Z"}', "NoneType"),
        ('{"replicas": -1, "until": "2026-03-01T13:00:00Z"}', "BadOverride"),
        ('{"replicas": 3, "until": "tomorrow"}', "BadOverride"),
        ('{"replicas": 3, "until": "2026-03-01T13:00:00"}', "BadOverride"),
        ("three", "BadOverride"),
        ("[]", "BadOverride"),
    ],
)
def test_holds(text: str, kind: str) -> None:
    hold = hold_of({"prfaas.io/hold": text}, NOW)
    assert type(hold).__name__ == kind
    if isinstance(hold, BadOverride):
        assert "prfaas.io/hold" in hold.message


# --- capacity


def test_gates_are_a_quota_and_name_their_queue() -> None:
    gated = waiting("p", gates=("kueue.x-k8s.io/admission",), pending_reason="SchedulingGated")
    found = measure([gated], [], None, NOW)
    assert found.limited is not None
    assert found.limited.reason == "QuotaPending"
    assert "kueue.x-k8s.io/admission" in found.limited.message
    assert found.waiting_revisions == {"r"}


def test_who_waits_for_a_predecessor_to_end_lacks_nothing() -> None:
    ends = pod("old", deletion_ends_at=NOW + timedelta(seconds=60))
    assert measure([waiting("new"), ends], [], None, NOW).limited is None
    assert measure([waiting("new"), waiting("newer"), ends], [], None, NOW).limited is not None


def test_a_refusal_by_quota_is_found_in_the_deployment() -> None:
    failure = 'pods "x" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=1'
    refused = ObservedDeployment("d", "u", "1", True, "r", 2, NOW, True, False, failure, "", "")
    found = measure([], [refused], None, NOW)
    assert found.limited is not None
    assert found.limited.reason == "QuotaPending"
    assert "exceeded quota: gpus" in found.limited.message


def test_times_to_ready_are_measured_and_kept() -> None:
    pods = [
        pod("a", created_at=NOW, ready_changed_at=NOW + timedelta(seconds=100)),
        pod("b", created_at=NOW + timedelta(1), ready_changed_at=NOW + timedelta(days=1, seconds=40)),
        pod("restarted", restarts=1),
    ]
    status = measure(pods, [], None, NOW).status
    assert status is not None
    assert status.last_pending_to_ready_seconds == 40
    assert status.median_pending_to_ready_seconds == 70
    assert measure([], [], status, NOW).status == status
    assert measure([], [], None, NOW).status is None
    assert isinstance(status, CapacityStatus)


@pytest.mark.parametrize(
    ("words", "short"),
    [
        (
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 "
            "No preemption victims found.",
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        ),
        (
            "0/1 nodes are available: 1 node(s) were full. no new claims to deallocate, x",
            "0/1 nodes are available: 1 node(s) were full",
        ),
        ("", ""),
    ],
)
def test_scheduler_words(words: str, short: str) -> None:
    assert scheduler_words(words) == short
    assert len(scheduler_words("word " * 1000)) <= 240


# --- certificates

CERTIFICATE = ObservedCertificate("s", "u", "1", True, "spiffe://a", NOW, NOW + timedelta(days=30), "ca")


@pytest.mark.parametrize(
    ("certificate", "later", "word"),
    [
        (None, timedelta(0), "there was none"),
        (CERTIFICATE, timedelta(days=19), None),
        (CERTIFICATE, timedelta(days=20), "two thirds"),
        (replace(CERTIFICATE, identity="spiffe://b"), timedelta(0), "spiffe://b"),
        (replace(CERTIFICATE, authority_id="other"), timedelta(0), "another authority"),
        (replace(CERTIFICATE, not_after=None), timedelta(0), "none that can be read"),
        (replace(CERTIFICATE, identity=""), timedelta(0), "none that can be read"),
    ],
)
def test_when_a_certificate_is_due(
    certificate: ObservedCertificate | None, later: timedelta, word: str | None
) -> None:
    why = why_due(certificate, identity="spiffe://a", authority_id="ca", now=NOW + later)
    assert (why is None) if word is None else (why is not None and word in why)


@given(st.integers(1, 10**8))
def test_looking_again_finds_it_due(life_seconds: int) -> None:
    end: datetime = NOW + timedelta(seconds=life_seconds)
    certificate = replace(CERTIFICATE, not_after=end)
    wait = seconds_until_due(certificate, NOW)
    assert wait is not None
    assert NOW < due_at(NOW, end) < end
    at = NOW + timedelta(seconds=wait, microseconds=1)
    assert why_due(certificate, identity="spiffe://a", authority_id="ca", now=at) is not None


# --- references and children

VOLUMES = {
    "volumes": [
        {"name": "w", "persistentVolumeClaim": {"claimName": "weights"}},
        {"name": "c", "configMap": {"name": "settings", "optional": True}},
    ],
    "containers": [
        {"name": "engine", "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}]}
    ],
}


def test_references_name_their_field() -> None:
    pool_spec = spec(
        model={"name": "chat", "profileRef": {"name": "h200"}}, workload={"template": {"spec": VOLUMES}}
    )
    assert {(each.kind, each.name) for each in wanted(pool_spec)} == {
        ("ModelKVProfile", "h200"),
        ("PersistentVolumeClaim", "weights"),
        ("Secret", "t"),
    }
    found = resolve(pool_spec, [], 1)
    assert (found.status, found.reason) == ("False", "ProfileNotFound")
    for words in ("spec.model.profileRef.name", "Secret t", "env[T]", "volumes[w]"):
        assert words in found.message


@pytest.mark.parametrize(
    ("modes", "instances", "reason"),
    [
        (("ReadWriteOnce",), 1, "Resolved"),
        (("ReadWriteOnce",), 2, "VolumeNotShareable"),
        (("ReadWriteOncePod",), 2, "VolumeNotShareable"),
        (("ReadWriteOnce", "ReadWriteMany"), 2, "Resolved"),
        (("ReadOnlyMany",), 2, "Resolved"),
    ],
)
def test_a_volume_for_one_node(modes: tuple[str, ...], instances: int, reason: str) -> None:
    pool_spec = spec(workload={"template": {"spec": VOLUMES}})
    there = [FoundReference("PersistentVolumeClaim", "weights", modes), FoundReference("Secret", "t")]
    assert resolve(pool_spec, there, instances).reason == reason


def test_a_users_budget_that_selects_the_pods_replaces_ours() -> None:
    pool = observed()
    assert budget_is_wanted(pool, 2, {"app": "x"})
    assert not budget_is_wanted(pool, 1, {"app": "x"})
    theirs = replace(pool, user_budgets=(UserBudget("b", {"matchLabels": {"app": "x"}}),))
    assert not budget_is_wanted(theirs, 2, {"app": "x"})
    assert budget_is_wanted(theirs, 2, {"app": "y"})


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_selectors(selector: dict[str, Any] | None, matches: bool) -> None:
    assert selects(selector, {"a": "1"}) is matches


def test_defaults_of_the_server_are_no_difference() -> None:
    assert contains({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 2}})
    assert not contains({"b": {"c": 2}}, {"b": {"c": 3}})
    assert not contains({}, {"a": None})


# --- partners and peers


def test_partners_come_from_routes_both_ways() -> None:
    keys = partner_keys([("ns", route_spec()), ("ns", route_spec(decode="other"))])
    long, chat, other = (
        PoolKey("PrefillPool", "ns", "long"),
        PoolKey("DecodePool", "ns", "chat"),
        PoolKey("DecodePool", "ns", "other"),
    )
    assert keys == {long: {chat, other}, chat: {long}, other: {long}}


def test_a_partner_whose_status_lags_counts_as_rolling() -> None:
    key = PoolKey("DecodePool", "ns", "chat")
    status = settled().pool.status
    now = summarise(key, identity="i", generation=status.observed_generation or 0, status=status)
    assert (now.rolling, now.new_ready, now.desired) == (False, 2, 2)
    lagging = summarise(key, identity="i", generation=99, status=status)
    assert (lagging.rolling, lagging.new_ready) == (True, 0)
    assert summarise(key, identity="i", generation=1, status=PoolStatus()).desired == 0


@pytest.mark.parametrize(
    ("kind", "other", "accept", "dial"),
    [("PrefillPool", "DecodePool", ["spiffe://p"], []), ("DecodePool", "PrefillPool", [], ["spiffe://p"])],
)
def test_peers_are_the_other_side_only(kind: Any, other: Any, accept: list[str], dial: list[str]) -> None:
    partner = PartnerPool(PoolKey(other, "ns", "p"), "spiffe://p", False, False, 1, 1)
    document = yaml.safe_load(peers_text(observed(kind, partners=(partner,)), SETTINGS))
    assert document["accept"] == accept
    assert [each["identity"] for each in document["dial"]] == dial
    assert document["gateways"] == list(SETTINGS.gateway_patterns())
