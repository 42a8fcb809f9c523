"""The chart's admission policy and the mirror's own rules say the same, before a real API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client as official
from kubernetes.dynamic import DynamicClient

from prfaas.api import keys
from prfaas_operator.federation.pod_rules import forbidden
from tests.chart.rendering import render
from tests.cluster_fixtures import client_of
from tests.helpers import eventually

SERVING = "serving"
ACCOUNTS = frozenset({"engines", "serving/loaders"})
CONTAINER = {"name": "engine", "image": "example.org/e:1"}


def privileged(**context: Any) -> dict[str, Any]:
    return {**CONTAINER, "securityContext": context}


PODS: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, True),
    "listed account": ({"serviceAccountName": "engines"}, True),
    "account listed with its namespace": ({"serviceAccountName": "loaders"}, True),
    "default account": ({"serviceAccountName": "default"}, True),
    "other account": ({"serviceAccountName": "admin"}, False),
    "other account by the old field": ({"serviceAccount": "admin"}, False),
    "host network": ({"hostNetwork": True}, False),
    "host network off": ({"hostNetwork": False}, True),
    "host processes": ({"hostPID": True}, False),
    "host memory": ({"hostIPC": True}, False),
    "host path": ({"volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]}, False),
    "claim": ({"volumes": [{"name": "m", "persistentVolumeClaim": {"claimName": "m"}}]}, True),
    "privileged": ({"containers": [privileged(privileged=True)]}, False),
    "privileged init container": ({"initContainers": [{**privileged(privileged=True), "name": "i"}]}, False),
    "capability": ({"containers": [privileged(capabilities={"add": ["SYS_ADMIN"]})]}, False),
    "harmless capability": ({"containers": [privileged(capabilities={"add": ["IPC_LOCK"]})]}, True),
    "windows": ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, False),
}


def pool(pod: dict[str, Any], *, cluster: str = "us", namespace: str = SERVING, mirrored: bool = True) -> Any:
    labels = {keys.LABEL_MIRRORED: "true"} if mirrored else {}
    return {
        "apiVersion": keys.API_VERSION,
        "kind": keys.PREFILL_POOL,
        "metadata": {"namespace": namespace, "name": "long", "labels": labels},
        "spec": {
            "model": {"name": "chat"},
            "engine": {"type": "VLLM"},
            "workload": {"template": {"spec": {"containers": [CONTAINER], **copy.deepcopy(pod)}}},
            "placement": {"clusters": [{"name": cluster}]},
        },
    }


@pytest.fixture(scope="module")
def pools(api_server: Any) -> Iterator[Any]:
    """The collection of pools, with the policy in force."""
    rendered = render(
        {
            "region": "us",
            "federation.source": "Hub",
            "federation.allowedNamespaces": [SERVING],
            "federation.allowedServiceAccounts": sorted(ACCOUNTS),
        }
    )
    with client_of(api_server.kubeconfig) as api:
        core = official.CoreV1Api(api)
        dynamic = DynamicClient(api)
        made = []
        for name in (SERVING, "closed"):
            core.create_namespace({"metadata": {"name": name}})
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            resource = dynamic.resources.get(api_version="admissionregistration.k8s.io/v1", kind=kind)
            for document in rendered.of_kind(kind):
                resource.create(body=document)
                made.append((resource, document["metadata"]["name"]))
        found = dynamic.resources.get(api_version=keys.API_VERSION, kind=keys.PREFILL_POOL)
        eventually(
            lambda: not is_taken(found, pool(PODS["host path"][0])),
            within_seconds=60,
            what="the policy is in force",
        )
        yield found
        for resource, name in reversed(made):
            resource.delete(name=name)
        for name in (SERVING, "closed"):
            core.delete_namespace(name)


def is_taken(pools: Any, body: Any) -> bool:
    try:
        pools.create(body=body, namespace=body["metadata"]["namespace"], dry_run="All")
    except official.ApiException as error:
        if error.status != 422:
            raise
        return False
    return True


@pytest.mark.parametrize("case", PODS)
def test_policy_and_mirror_agree(pools: Any, case: str) -> None:
    pod, allowed = PODS[case]
    body = pool(pod)
    assert (forbidden(body["spec"], SERVING, ACCOUNTS) == ()) == allowed
    assert is_taken(pools, body) == allowed


def test_only_mirrored_objects_of_this_cluster_are_looked_at(pools: Any) -> None:
    bad = PODS["host network"][0]
    assert is_taken(pools, pool(bad, mirrored=False))
    assert is_taken(pools, pool(bad, cluster="eu"))
    assert not is_taken(pools, pool({}, namespace="closed"))
    assert is_taken(pools, pool({}, namespace="closed", mirrored=False))
