"""What cert-manager is asked for, and what a pool makes of what came. Tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.planning.actions import ApplyChild, FailedAction, IssueCertificate
from prfaas_operator.planning.failure import fold
from prfaas_operator.planning.geography import Geography, RegionFact
from prfaas_operator.planning.issuing import certificate_ready, certificate_spec, unusable
from prfaas_operator.planning.peers import peers_text
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.upkeep import certificate_action, no_certificate, pool_identity_of
from prfaas_operator.planning.values import (
    ChildKind,
    Issuer,
    ObservedCertificate,
    ObservedChild,
    ObservedRequest,
)
from tests.operator.planning.pool_world import NOW, SETTINGS, observed

ISSUER = Issuer("region-eu", "ClusterIssuer", "cert-manager.io", 86_400)
POOL = observed(issuer=ISSUER, authority_id="")
IDENTITY = pool_identity_of(POOL, SETTINGS)


def certificate(**changes: Any) -> ObservedCertificate:
    values: dict[str, Any] = {
        "name": "long-tls",
        "uid": "u",
        "resource_version": "1",
        "ours": True,
        "identity": IDENTITY,
        "not_before": NOW,
        "not_after": datetime(2030, 1, 1, tzinfo=UTC),
        "authority_id": "a1",
    }
    return ObservedCertificate(**{**values, **changes})


def request(ready: bool | None = True, message: str = "", **changes: Any) -> ObservedRequest:
    made = certificate_action(POOL, SETTINGS, NOW)
    assert isinstance(made, ApplyChild)
    values: dict[str, Any] = {
        "name": made.name,
        "uid": "c",
        "resource_version": "7",
        "ours": True,
        "recorded_owned_fields": "h",
        "actual_owned_fields": "h",
        "content": made.manifest["spec"],
    }
    return ObservedRequest(ObservedChild(**{**values, **changes}), ready, message)


def test_it_is_asked_for_what_the_operator_would_issue_itself() -> None:
    spec = certificate_spec(ISSUER, secret_name="s", identity=IDENTITY, labels={"a": "b"})
    assert spec["uris"] == [IDENTITY]
    assert "dnsNames" not in spec
    assert (spec["duration"], spec["renewBefore"]) == ("24h0m0s", "8h0m0s")
    assert spec["secretTemplate"] == {"labels": {"a": "b"}}
    assert spec["privateKey"]["rotationPolicy"] == "Always"
    assert set(spec["usages"]) == {"digital signature", "server auth", "client auth"}


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (None, "no Secret"),
        (certificate(identity=""), "just one URI"),
        (certificate(identity="spiffe://other"), "has to name"),
        (certificate(authority_id=""), "ca.crt"),
        (certificate(), ""),
    ],
)
def test_a_secret_that_pods_cannot_live_on(there: ObservedCertificate | None, why: str) -> None:
    found = unusable(there, IDENTITY)
    assert why in found if why else found == ""


@pytest.mark.parametrize(
    ("asked", "there", "status", "reason", "words"),
    [
        (None, None, "False", Reason.CERTIFICATE_PENDING, "region-eu"),
        (request(None), None, "False", Reason.CERTIFICATE_PENDING, "nothing was said"),
        (request(False, "vault sealed"), None, "False", Reason.CERTIFICATE_PENDING, "vault sealed"),
        # The renewal fails: what is there is valid still, and the condition tells before it is not.
        (request(False, "vault sealed"), certificate(), "False", Reason.CERTIFICATE_PENDING, "vault sealed"),
        (request(True), None, "False", Reason.CERTIFICATE_PENDING, "no Secret"),
        (request(True), certificate(identity=""), "False", Reason.CERTIFICATE_WRONG, "URI"),
        (request(True), certificate(authority_id=""), "False", Reason.CERTIFICATE_WRONG, "ca.crt"),
        (request(True), certificate(), "True", Reason.CERTIFICATE_ISSUED, "2030-01-01"),
    ],
)
def test_certificate_ready(
    asked: ObservedRequest | None,
    there: ObservedCertificate | None,
    status: str,
    reason: Reason,
    words: str,
) -> None:
    found = certificate_ready(ISSUER, asked, there, IDENTITY)
    assert (str(found.status), found.reason) == (status, reason)
    assert words in found.message


def test_the_operator_issues_nothing_beside_it_and_keeps_up_what_asks() -> None:
    old = certificate(not_before=NOW - timedelta(days=9), not_after=NOW)
    assert certificate_action(replace(POOL, request=request(), certificate=old), SETTINGS, NOW) is None
    changed = certificate_action(replace(POOL, request=request(content={"uris": []})), SETTINGS, NOW)
    assert isinstance(changed, ApplyChild)
    assert (changed.kind, changed.resource_version) == (ChildKind.CERTIFICATE, "7")
    drifted = request(actual_owned_fields="x", taken_over_by="somebody")
    back = certificate_action(replace(POOL, request=drifted), SETTINGS, NOW)
    assert isinstance(back, ApplyChild)
    assert back.drift


def test_pods_are_made_once_there_is_a_certificate() -> None:
    waiting = plan_pool(POOL, SETTINGS, NOW)
    kinds = {action.kind for action in waiting.actions if isinstance(action, ApplyChild)}
    assert kinds == {ChildKind.CONFIG_MAP, ChildKind.BUDGET, ChildKind.CERTIFICATE}
    assert not any(isinstance(action, IssueCertificate) for action in waiting.actions)
    assert "region-eu" in no_certificate(POOL, SETTINGS)
    there = replace(POOL, request=request(), certificate=certificate())
    made = plan_pool(there, SETTINGS, NOW)
    assert ChildKind.DEPLOYMENT in {each.kind for each in made.actions if isinstance(each, ApplyChild)}


def test_a_foreign_certificate_of_that_name_is_left_alone() -> None:
    plan = plan_pool(replace(POOL, request=request(ours=False)), SETTINGS, NOW)
    assert plan.actions == ()
    assert plan.status is not None
    accepted = find(plan.status.conditions, ConditionType.ACCEPTED)
    assert accepted is not None
    assert accepted.reason == Reason.CHILD_NOT_OWNED


@pytest.mark.parametrize("issuer", [ISSUER, None])
def test_sidecars_are_told_the_own_regions_bundle_where_an_issuer_may_change(issuer: Issuer | None) -> None:
    where = Geography("eu", "eu", {"eu": RegionFact("eu", ("eu",), trust="OLD AND NEW")})
    text = peers_text(replace(POOL, issuer=issuer, geography=where), SETTINGS)
    # The operator's own authority has both in every ca.crt while it is replaced.
    assert ("OLD AND NEW" in text) == (issuer is not None)


def test_without_cert_manager_the_remedy_is_named() -> None:
    plan = plan_pool(POOL, SETTINGS, NOW)
    (action,) = [
        each for each in plan.actions if isinstance(each, ApplyChild) and each.kind is ChildKind.CERTIFICATE
    ]
    failed = FailedAction(action, "NotFound", "404 page not found", retryable=False)
    folded = fold(plan, POOL, failed, NOW)
    assert folded.status is not None
    for type_ in (ConditionType.CERTIFICATE_READY, ConditionType.ACCEPTED):
        told = find(folded.status.conditions, type_)
        assert told is not None
        assert (told.status, told.reason) == (ConditionStatus.FALSE, Reason.CERT_MANAGER_MISSING)
        assert "Install cert-manager" in told.message
