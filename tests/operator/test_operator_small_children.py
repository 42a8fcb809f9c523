"""ConfigMap and PodDisruptionBudget are applied without a dry run, at a real API server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from prfaas.api import keys
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, POD_DISRUPTION_BUDGETS, PREFILL_POOLS
from prfaas_operator.injection.yaml_text import yaml_text
from prfaas_operator.planning.actions import ApplyChild
from prfaas_operator.planning.children import budget, peers
from prfaas_operator.planning.values import ChildKind, ObservedPool, PoolKey
from prfaas_operator.runtime import facts
from prfaas_operator.runtime.executor import Executor
from prfaas_operator.runtime.store import Store
from tests.operator.planning.pool_world import observed
from tests.operator.runtime_world import client_of, pool_body


async def observed_pool(client: KubeClient, namespace: str) -> ObservedPool:
    body = await client.create(PREFILL_POOLS, pool_body(namespace))
    return observed(key=PoolKey("PrefillPool", namespace, "long"), uid=body["metadata"]["uid"])


def executor(client: KubeClient) -> Executor:
    return Executor(client, Store(lambda *_: None), certificate_valid=timedelta(days=1))


async def test_what_will_be_owned_is_known_before(kubeconfig: Path, namespace: str) -> None:
    """Else each child would look as if somebody had changed it."""
    async with client_of(kubeconfig) as client:
        pool = await observed_pool(client, namespace)
        made = executor(client)
        for kind, resource, manifest in (
            (ChildKind.CONFIG_MAP, CONFIG_MAPS, peers(pool, "accept: []\n")),
            (ChildKind.BUDGET, POD_DISRUPTION_BUDGETS, budget(pool)),
        ):
            action = ApplyChild(kind, manifest, None, "it is missing")
            assert await made.run(namespace, [action]) is None
            body = await client.get(resource, namespace, action.name)
            recorded = facts.recorded_owned_fields(body)
            assert recorded == facts.owned_fields_of(manifest)
            assert recorded == facts.owned_fields(body["metadata"]["managedFields"])
            again = ApplyChild(kind, manifest, body["metadata"]["resourceVersion"], "its content changes")
            assert await made.run(namespace, [again]) is None
            after = await client.get(resource, namespace, action.name)
            assert after["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"], (
                "no new version"
            )


async def test_a_server_that_divides_objects_otherwise_is_believed(
    kubeconfig: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(kubeconfig) as client:
        pool = await observed_pool(client, namespace)
        action = ApplyChild(ChildKind.CONFIG_MAP, peers(pool, "accept: []\n"), None, "it is missing")
        monkeypatch.setattr(facts, "owned_fields_of", lambda _: "what another version would own")
        assert await executor(client).run(namespace, [action]) is None
        body = await client.get(CONFIG_MAPS, namespace, action.name)
        assert facts.recorded_owned_fields(body) == facts.owned_fields(body["metadata"]["managedFields"])


@pytest.mark.parametrize("owner", ["nobody", "another pool"])
async def test_an_object_of_somebody_else_is_not_touched(
    kubeconfig: Path, namespace: str, owner: str
) -> None:
    async with client_of(kubeconfig) as client:
        pool = await observed_pool(client, namespace)
        action = ApplyChild(ChildKind.CONFIG_MAP, peers(pool, "accept: []\n"), None, "it is missing")
        owners = action.manifest["metadata"]["ownerReferences"]
        about = {"namespace": namespace, "name": action.name}
        if owner == "another pool":
            about["ownerReferences"] = [{**owners[0], "uid": "another"}]  # type: ignore[assignment]
        before = await client.create(CONFIG_MAPS, {"metadata": about, "data": {"theirs": "1"}})
        failure = await executor(client).run(namespace, [action])
        assert failure is not None
        assert (failure.code, failure.retryable) == ("AlreadyExists", False)
        after = await client.get(CONFIG_MAPS, namespace, action.name)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_who_changed_a_child_is_known(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        pool = await observed_pool(client, namespace)
        action = ApplyChild(ChildKind.CONFIG_MAP, peers(pool, "accept: []\n"), None, "it is missing")
        assert await executor(client).run(namespace, [action]) is None
        theirs = {"data": {"peers.yaml": "accept: [all]\n"}}
        body = await client.patch(
            CONFIG_MAPS, namespace, action.name, theirs, field_manager="argocd-controller"
        )
        seen = facts.config_map(body).value
        assert seen.recorded_owned_fields != seen.actual_owned_fields
        assert seen.taken_over_by == "argocd-controller"
        assert keys.MANAGER_CHILDREN not in seen.taken_over_by


def test_yaml_is_the_same_whatever_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the revision of pods whose sidecar.upgrade is Rolling."""
    import yaml

    documents = [
        {
            "accept": ["spiffe://example.org/region/eu/ns/a/pool/DecodePool/" + "x" * 200],
            "dial": [],
            "empty": {},
        },
        {"socket_mode": 0o666, "yes": "yes", "no": None, "number": "0123", "float": 1.5, "flag": True},
        {
            "text": "two\nlines",
            "tls": {"identity": "spiffe://x", "addresses": ["0.0.0.0/0:7400", "[::/0]:*"]},
        },
        {"pem": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "quote": 'it\'s: "so" #1'},
    ]
    for document in documents:
        assert yaml_text(document) == yaml.safe_dump(document, sort_keys=False)
