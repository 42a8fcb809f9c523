"""What Argo CD and Flux make of pools and routes, for every combination of what their status can say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.dynamic import DynamicClient
from lupa.lua51 import LuaRuntime

from prfaas.api.conditions import kstatus as own_kstatus
from prfaas.api.v1alpha1.conditions import Condition, ConditionStatus
from tests.chart.rendering import CHART, CHECKOUT
from tests.cluster_fixtures import client_of

GITOPS = CHECKOUT / "docs" / "gitops"
HEALTH = (GITOPS / "argocd" / "health.lua").read_text()
STATES = ("True", "False", "Unknown", None)
ARGO_OF_KSTATUS = {"Current": "Healthy", "InProgress": "Progressing", "Failed": "Degraded"}


def argo_health(obj: Mapping[str, Any]) -> tuple[str, str]:
    """Runs the script as Argo CD does: Lua 5.1, the object as the global `obj`, nothing that reaches out."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.execute("io, os, require, package, dofile, loadfile = nil")
    lua.globals().obj = _table(lua, obj)
    result = lua.execute(HEALTH)
    return str(result.status), str(result.message)


def _table(lua: LuaRuntime, value: Any) -> Any:
    if isinstance(value, Mapping):
        return lua.table_from({key: _table(lua, item) for key, item in value.items()})
    if isinstance(value, list):
        return lua.table_from([_table(lua, item) for item in value])
    return value


def kstatus(obj: Mapping[str, Any]) -> str:
    """The rules of sigs.k8s.io/cli-utils/pkg/kstatus for kinds that it does not know, stated anew.

    In this order: an object that is being deleted; a status of another generation; then the conditions in the
    order of their list, of which Reconciling and Stalled count when True; then Ready.
    """
    metadata, status = obj["metadata"], obj.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    observed = status.get("observedGeneration")
    if observed is not None and observed != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] == "Reconciling":
            return "InProgress"
        if condition["status"] == "True" and condition["type"] == "Stalled":
            return "Failed"
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


def objects() -> Iterator[dict[str, Any]]:
    """Every status that the operator may write: it never says Reconciling and Stalled at the same time."""
    for ready, reconciling, stalled, stale in itertools.product(STATES, STATES, STATES, (False, True)):
        if (reconciling, stalled) == ("True", "True") or ready is None:
            continue
        said = {"Ready": ready, "Reconciling": reconciling, "Stalled": stalled}
        conditions = [
            {"type": name, "status": state, "reason": f"{name}Reason", "message": f"{name} message",
             "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for name, state in said.items() if state is not None
        ]  # fmt: skip
        yield {
            "kind": "PrefillPool",
            "metadata": {"generation": 3},
            "status": {"observedGeneration": 2 if stale else 3, "conditions": conditions},
        }


def test_there_are_enough_cases() -> None:
    seen = {kstatus(each) for each in objects()}
    assert seen == {"Current", "InProgress", "Failed"}
    assert len(list(objects())) == 90


def test_flux_argo_cd_and_the_project_agree_about_every_status() -> None:
    for obj in objects():
        status = obj["status"]
        conditions = tuple(
            Condition(
                type=each["type"],
                status=ConditionStatus(each["status"]),
                reason=each["reason"],
                message=each["message"],
                observed_generation=3,
                last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
            )
            for each in status["conditions"]
        )
        own = own_kstatus(conditions, observed_generation=status["observedGeneration"], generation=3)
        assert str(own) == kstatus(obj), obj
        assert argo_health(obj)[0] == ARGO_OF_KSTATUS[kstatus(obj)], obj


@pytest.mark.parametrize("kind", ["PrefillPool", "DecodePool", "PrefillRoute"])
def test_argo_cd_waits_for_an_operator_that_has_said_nothing(kind: str) -> None:
    new = {"kind": kind, "metadata": {"generation": 1}}
    assert argo_health(new) == ("Progressing", "the operator has not seen this generation yet")


def test_argo_cd_shows_reason_and_message() -> None:
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "ProfileNotFound",
        "message": "make ModelKVProfile x",
    }
    status = {"observedGeneration": 1, "conditions": [stalled]}
    obj = {"kind": "PrefillPool", "metadata": {"generation": 1}, "status": status}
    assert argo_health(obj) == ("Degraded", "ProfileNotFound: make ModelKVProfile x")


def test_a_profile_is_healthy_as_soon_as_it_is_there() -> None:
    assert argo_health({"kind": "ModelKVProfile", "metadata": {"generation": 1}})[0] == "Healthy"


def test_the_examples_use_values_that_the_chart_has() -> None:
    from prfaas.chart.values import Values

    for values in (
        _one(GITOPS / "flux" / "release.yaml", "HelmRelease")["spec"]["values"],
        _one(GITOPS / "argocd" / "application.yaml", "Application", "prfaas")["spec"]["source"]["helm"][
            "valuesObject"
        ],
    ):
        Values.model_validate(values)


def test_the_examples_name_paths_that_the_repository_has() -> None:
    for name, path in (("prfaas-crds", CHECKOUT / "crds"), ("prfaas", CHART)):
        application = _one(GITOPS / "argocd" / "application.yaml", "Application", name)
        assert CHECKOUT / application["spec"]["source"]["path"] == path
    assert (CHECKOUT / "crds" / "prfaas-crds.yaml").is_file()
    release = _one(GITOPS / "flux" / "release.yaml", "HelmRelease")
    assert (CHECKOUT / release["spec"]["chart"]["spec"]["chart"]).resolve() == CHART


def test_flux_applies_pools_after_what_they_depend_on() -> None:
    documents = _documents(GITOPS / "flux" / "kustomizations.yaml")
    kustomizations = {
        each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "Kustomization"
    }
    sources = {each["metadata"]["name"] for each in documents if each["kind"] == "GitRepository"}
    for spec in kustomizations.values():
        assert spec["sourceRef"]["name"] in sources
        assert spec["wait"] is True
        assert {each["name"] for each in spec.get("dependsOn", [])} <= kustomizations.keys()
    assert kustomizations["pools"]["dependsOn"] == [{"name": "prfaas"}]


def test_the_plain_definitions_can_be_applied_server_side(kubeconfig: Path) -> None:
    with client_of(kubeconfig) as api:
        for document in _documents(CHECKOUT / "crds" / "prfaas-crds.yaml"):
            resource = DynamicClient(api).resources.get(
                api_version=document["apiVersion"], kind=document["kind"]
            )
            resource.server_side_apply(
                body=document,
                name=document["metadata"]["name"],
                field_manager="kustomize-controller",
                force_conflicts=True,
                query_params=[("dryRun", "All"), ("fieldValidation", "Strict")],
            )


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _one(path: Path, kind: str, name: str = "prfaas") -> dict[str, Any]:
    (found,) = [
        each for each in _documents(path) if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found
