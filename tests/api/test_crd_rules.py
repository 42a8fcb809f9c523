"""Each rule of the CRDs, by objects that a real API server takes and objects that it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiException

from prfaas.api.crds.definitions import KINDS, root_schema
from prfaas.api.v1alpha1.schema import VALIDATIONS
from tests.api.crd_cases import ACCEPTED, REFUSED, UPDATES, Case, Update, changed, minimal
from tests.api.crd_client import CLUSTER_SCOPED, Resources
from tests.cluster_fixtures import client_of

DRY_RUN = {"dry_run": "All", "field_validation": "Strict"}


@pytest.fixture
def resources(kubeconfig: Path, namespace: str) -> Iterator[Resources]:
    with client_of(kubeconfig) as api:
        yield Resources(api, namespace)


@pytest.fixture(scope="module")
def anywhere(api_server: Any) -> Iterator[Resources]:
    """For dry runs, which leave nothing behind."""
    with client_of(api_server.kubeconfig) as api:
        yield Resources(api, "default")


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_is_accepted(anywhere: Resources, case: Case) -> None:
    for body in case.objects():
        anywhere.create(body, **DRY_RUN)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_is_refused_with_a_reason(anywhere: Resources, case: Case) -> None:
    for body in case.objects():
        with pytest.raises(ApiException) as refused:
            anywhere.create(body, **DRY_RUN)
        assert refused.value.status == 422
        assert case.refusal is not None
        assert case.refusal in message_of(refused.value)


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_updates(resources: Resources, update: Update) -> None:
    for kind in update.kinds:
        name = resources.create(minimal(kind))["metadata"]["name"]
        change = changed({}, update.changes)
        try:
            if update.refusal is None:
                resources.merge(kind, name, change)
                continue
            with pytest.raises(ApiException) as refused:
                resources.merge(kind, name, change)
            assert refused.value.status == 422
            assert update.refusal in message_of(refused.value)
        finally:
            if kind in CLUSTER_SCOPED:
                resources.delete_cluster_scoped(kind, name)


def test_a_misspelt_field_is_refused_when_asked_to_be_strict(anywhere: Resources) -> None:
    body = changed(minimal("PrefillPool"), {"spec.kv.arenas": "1Gi"})
    with pytest.raises(ApiException) as refused:
        anywhere.create(body, **DRY_RUN)
    assert 'unknown field "spec.kv.arenas"' in message_of(refused.value)


def test_every_cel_rule_has_an_example_that_breaks_it() -> None:
    refusals = [case.refusal for case in (*REFUSED, *UPDATES) if case.refusal]
    messages = {message for kind in KINDS for message in rule_messages(root_schema(kind))}
    assert messages
    assert {message for message in messages if not any(text in message for text in refusals)} == set()


def rule_messages(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for rule in schema.get(VALIDATIONS, ()):
            yield rule["message"]
        for value in schema.values():
            yield from rule_messages(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from rule_messages(value)


def message_of(error: ApiException) -> str:
    return str(json.loads(error.body)["message"])
