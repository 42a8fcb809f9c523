"""Children that are the pool's own and that the operator has not seen, at a real API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prfaas.api import keys
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, PREFILL_POOLS, Object
from prfaas_operator.planning.actions import ApplyChild, IssueCertificate
from prfaas_operator.planning.values import ChildKind
from prfaas_operator.runtime.certificates import load_authority, new_authority
from prfaas_operator.runtime.executor import Executor
from prfaas_operator.runtime.store import Store
from tests.operator.runtime_world import client_of, pool_body

LABELS = {keys.LABEL_POOL: "long", keys.LABEL_POOL_KIND: "PrefillPool"}


def executor(client: KubeClient) -> Executor:
    made = Executor(client, Store(lambda *_: None), certificate_valid=timedelta(days=1))
    made.authority = load_authority(new_authority("eu", now=datetime.now(UTC)), source="a test")
    return made


def manifest(namespace: str, name: str, pool: Object) -> dict[str, Any]:
    owner = {
        "apiVersion": keys.API_VERSION,
        "kind": "PrefillPool",
        "name": "long",
        "uid": pool["metadata"]["uid"],
        "controller": True,
    }
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": name, "labels": LABELS, "ownerReferences": [owner]},
        "data": {"peers.yaml": "accept: []\n"},
    }


def apply(namespace: str, pool: Object) -> ApplyChild:
    return ApplyChild(ChildKind.CONFIG_MAP, manifest(namespace, "peers", pool), None, "it is missing")


@pytest.mark.parametrize(
    "labels_off", [False, True], ids=["its answer was lost", "its labels were taken off"]
)
async def test_an_own_child_that_was_not_seen_is_recognised(
    kubeconfig: Path, namespace: str, labels_off: bool
) -> None:
    """And nobody is told to delete it, which would take the pods that run with it."""
    async with client_of(kubeconfig) as client:
        pool = await client.create(PREFILL_POOLS, pool_body(namespace))
        action = apply(namespace, pool)
        assert await executor(client).run(namespace, [action]) is None
        if labels_off:
            off: Object = {"metadata": {"labels": dict.fromkeys(LABELS)}}
            await client.patch(CONFIG_MAPS, namespace, "peers", off, field_manager="somebody")
        anew = executor(client)
        failure = await anew.run(namespace, [action])
        assert failure is not None
        assert (failure.code, failure.retryable) == ("Conflict", True)
        known = anew._store.config_maps.get(namespace, "peers")
        assert known is not None
        assert (known.owner_uid, known.pool is not None) == (pool["metadata"]["uid"], True)
        assert (await client.get(CONFIG_MAPS, namespace, "peers"))["metadata"]["labels"] == LABELS


async def test_a_certificate_whose_creation_was_not_answered_is_recognised(
    kubeconfig: Path, namespace: str
) -> None:
    async with client_of(kubeconfig) as client:
        pool = await client.create(PREFILL_POOLS, pool_body(namespace))
        shell = {**manifest(namespace, "tls", pool), "kind": "Secret"}
        del shell["data"]
        action = IssueCertificate(shell, "spiffe://x", None, "there is none")
        assert await executor(client).run(namespace, [action]) is None
        failure = await executor(client).run(namespace, [action])
        assert failure is not None
        assert (failure.code, failure.retryable) == ("Conflict", True)


async def test_a_child_of_somebody_else_stays_as_it_is(kubeconfig: Path, namespace: str) -> None:
    async with client_of(kubeconfig) as client:
        pool = await client.create(PREFILL_POOLS, pool_body(namespace))
        theirs: Object = {"metadata": {"namespace": namespace, "name": "peers"}, "data": {"a": "b"}}
        before = await client.create(CONFIG_MAPS, theirs)
        failure = await executor(client).run(namespace, [apply(namespace, pool)])
        assert failure is not None
        assert not failure.retryable
        after = await client.get(CONFIG_MAPS, namespace, "peers")
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
