"""What the executor does when the server refuses a child, by an API that remembers what it was asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prfaas.kube import errors
from prfaas.kube.resources import Object, Resource
from prfaas_operator.planning.actions import Action, ApplyChild, IssueCertificate, ScaleChild
from prfaas_operator.planning.values import ChildKind
from prfaas_operator.runtime.certificates import load_authority, new_authority
from prfaas_operator.runtime.executor import Executor, failed
from prfaas_operator.runtime.facts import deployment
from prfaas_operator.runtime.store import Store


class RefusingApi:
    """Refuses Deployments, and does all else."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def create(self, resource: Resource, body: Object, **_: Any) -> Object:
        return self._write(resource, body, dry_run=False)

    async def apply(self, resource: Resource, body: Object, *, dry_run: bool = False, **_: Any) -> Object:
        if resource.kind == "Deployment":
            raise errors.Invalid("spec.template: no", status=422, reason="Invalid")
        return self._write(resource, body, dry_run=dry_run)

    async def get(self, resource: Resource, namespace: str, name: str, **_: Any) -> Object:
        raise errors.NotFound(f"{resource.kind} {namespace}/{name}", status=404)

    async def scale(self, resource: Resource, _: str, name: str, replicas: int, **__: Any) -> Object:
        self.written.append(f"{resource.kind} {name} to {replicas}")
        return {"metadata": {"resourceVersion": "9"}, "spec": {"replicas": replicas}}

    def _write(self, resource: Resource, body: Object, *, dry_run: bool) -> Object:
        metadata = {**body["metadata"], "uid": body["metadata"]["name"]}
        if not dry_run:
            self.written.append(f"{resource.kind} {metadata['name']}")
            metadata["resourceVersion"] = "9"
        return {**body, "kind": resource.kind, "metadata": metadata}


def manifest(kind: str, name: str) -> Object:
    return {"kind": kind, "metadata": {"namespace": "ns", "name": name}}


def executor(api: RefusingApi) -> Executor:
    made = Executor(api, Store(lambda *_: None), certificate_valid=timedelta(days=1))  # type: ignore[arg-type]
    made.authority = load_authority(new_authority("eu", now=datetime.now(UTC)), source="a test")
    return made


def actions(version: str | None) -> list[Action]:
    """A certificate, a list of peers, and a Deployment whose template the server refuses."""
    return [
        IssueCertificate(manifest("Secret", "tls"), "spiffe://x", version, "due"),
        ApplyChild(ChildKind.CONFIG_MAP, manifest("ConfigMap", "peers"), version, "its content changes"),
        ApplyChild(ChildKind.DEPLOYMENT, manifest("Deployment", "new"), None, "a new revision"),
        ApplyChild(ChildKind.DEPLOYMENT, manifest("Deployment", "old"), version, "drift"),
    ]


async def test_what_running_pods_live_on_is_renewed_though_a_new_template_is_refused() -> None:
    """Else their certificate would end while nobody corrects the template."""
    api = RefusingApi()
    failure = await executor(api).run("ns", actions("5"))
    assert failure is not None
    assert (failure.code, failure.retryable, failure.action) == ("Invalid", False, actions("5")[2])
    assert api.written == ["Secret tls", "ConfigMap peers"]


async def test_what_runs_is_scaled_before_a_template_is_refused_once_more() -> None:
    api = RefusingApi()
    scale = ScaleChild("old", "uid", "5", 1, 2, "the pool says so")
    failure = await executor(api).run("ns", [scale, actions(None)[2], replace(scale, name="later")])
    assert failure is not None
    assert failure.action == actions(None)[2]
    assert api.written == ["Deployment old to 2"]


async def test_nothing_is_made_for_a_pool_whose_first_template_is_refused() -> None:
    api = RefusingApi()
    assert await executor(api).run("ns", actions(None)) is not None
    assert api.written == []


@pytest.mark.parametrize(
    ("error", "retryable", "code"),
    [
        (errors.NotFound("deployment is gone", status=404, reason="NotFound"), True, "NotFound"),
        (errors.Conflict("modified", status=409, reason="Conflict"), True, "Conflict"),
        (errors.AlreadyExists("there", status=409, reason="AlreadyExists"), False, "AlreadyExists"),
        (errors.Forbidden("no", status=403, reason="Forbidden"), False, "Forbidden"),
    ],
)
def test_who_was_overtaken_tries_again(error: errors.KubeError, retryable: bool, code: str) -> None:
    failure = failed(ScaleChild("d", "uid", "5", 1, 2, "the pool says so"), error)
    assert (failure.retryable, failure.code) == (retryable, code)


def test_a_kind_that_is_not_served_does_not_come_by_itself() -> None:
    error = errors.from_answer(404, b"404 page not found", doing="scale")
    assert not failed(ScaleChild("d", "uid", "5", 1, 2, "the pool says so"), error).retryable


async def test_the_next_pass_sees_a_scale_before_the_watch_brings_it() -> None:
    """Else it would take back the marks of pods that are about to end."""
    api = RefusingApi()
    made = executor(api)
    store = made._store
    labels = {"prfaas.io/pool": "long", "prfaas.io/pool-kind": "PrefillPool"}
    about = {"namespace": "ns", "name": "old", "uid": "uid", "resourceVersion": "5", "labels": labels}
    store.deployments.put(deployment({"metadata": about, "spec": {"replicas": 3}}))
    assert await made.run("ns", [ScaleChild("old", "uid", "5", 3, 1, "the pool says so")]) is None
    known = store.deployments.get("ns", "old")
    assert known is not None
    assert (known.value.replicas, known.value.resource_version, known.resource_version) == (1, "9", "9")
    # One that was decided on another version says nothing of this one.
    assert await made.run("ns", [ScaleChild("old", "uid", "7", 3, 2, "late")]) is None
    assert store.deployments.get("ns", "old") == known
