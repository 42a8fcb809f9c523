"""The rendered chart before a real API server: what it takes, and what its pod security and its RBAC say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiClient, ApiException
from kubernetes.dynamic import DynamicClient

from prfaas.chart.access import ACCESS, Access, Scope
from prfaas.kube.client import connect
from prfaas.kube.reflect import Contact, Synced
from prfaas_gateway.cluster.watch import pods, snapshots
from prfaas_gateway.config import Cluster
from tests.chart.rendering import CHART, Rendered, render
from tests.cluster_fixtures import client_of

PRODUCTION = CHART / "ci" / "production-values.yaml"
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
CALL_SECONDS = 20.0


@pytest.fixture
def api(kubeconfig: Path) -> Iterator[ApiClient]:
    with client_of(kubeconfig) as connection:
        yield connection


@pytest.fixture
def restricted(api: ApiClient, namespace: str) -> str:
    client.CoreV1Api(api).patch_namespace(namespace, {"metadata": {"labels": RESTRICTED}})
    return namespace


def _dry_run(api: ApiClient, document: dict[str, Any]) -> None:
    resource = DynamicClient(api).resources.get(api_version=document["apiVersion"], kind=document["kind"])
    resource.server_side_apply(
        body=document,
        name=document["metadata"]["name"],
        namespace=document["metadata"].get("namespace"),
        field_manager="prfaas-tests",
        query_params=[("dryRun", "All"), ("fieldValidation", "Strict")],
    )


@pytest.mark.parametrize("case", ["defaults", "small", "operator-only"])
def test_the_server_takes_every_object_with_strict_validation(
    api: ApiClient, namespace: str, case: str
) -> None:
    files = [] if case == "defaults" else [CHART / "ci" / f"{case}-values.yaml"]
    documents = render(files=files, namespace=namespace).documents
    assert documents
    for document in documents:
        _dry_run(api, document)


def test_the_server_takes_a_chart_for_some_namespaces(api: ApiClient, namespace: str) -> None:
    rendered = render({"watchNamespaces": [namespace]}, files=[PRODUCTION], namespace=namespace)
    assert {"Role", "NetworkPolicy", "HorizontalPodAutoscaler"} <= rendered.kinds()
    for document in rendered.documents:
        _dry_run(api, document)


def test_strict_validation_notices_a_field_that_does_not_exist(api: ApiClient, namespace: str) -> None:
    (deployment, *_) = render(namespace=namespace).of_kind("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(ApiException, match="imagePolicy"):
        _dry_run(api, deployment)


def test_pods_are_admitted_where_restricted_is_enforced(api: ApiClient, restricted: str) -> None:
    for pod in _pods(render(files=[PRODUCTION], namespace=restricted), restricted):
        client.CoreV1Api(api).create_namespaced_pod(
            restricted, pod, dry_run="All", _request_timeout=CALL_SECONDS
        )


def test_the_enforcement_is_real(api: ApiClient, restricted: str) -> None:
    for pod in _pods(render(namespace=restricted), restricted):
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(ApiException, match="violates PodSecurity"):
            client.CoreV1Api(api).create_namespaced_pod(restricted, pod, dry_run="All")


def _pods(rendered: Rendered, namespace: str) -> list[dict[str, Any]]:
    pods = []
    for deployment in rendered.of_kind("Deployment"):
        template = deployment["spec"]["template"]
        # No controller and no scheduler is there that would know these.
        spec = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
        about = {**template["metadata"], "name": deployment["metadata"]["name"], "namespace": namespace}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec})
    assert len(pods) >= 2
    return pods


class Rights:
    """Asks the server what a service account of the chart may do, as that account."""

    def __init__(self, server: Any, part: str, own: str) -> None:
        self.kubeconfig = server.kubeconfig_of(
            f"system:serviceaccount:{own}:prfaas-{part}", ["system:serviceaccounts", "system:authenticated"]
        )

    def allow(self, verb: str, group: str, resource: str, namespace: str | None, name: str = "") -> bool:
        plural, _, subresource = resource.partition("/")
        attributes = client.V1ResourceAttributes(
            group=group, resource=plural, subresource=subresource, verb=verb, namespace=namespace, name=name
        )
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        with client_of(self.kubeconfig) as api:
            answer = client.AuthorizationV1Api(api).create_self_subject_access_review(
                review, _request_timeout=CALL_SECONDS
            )
        return bool(answer.status.allowed)


def _install_roles(api: ApiClient, rendered: Rendered) -> list[dict[str, Any]]:
    kinds = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    documents = [each for kind in kinds for each in rendered.of_kind(kind)]
    for document in documents:
        resource = DynamicClient(api).resources.get(api_version=document["apiVersion"], kind=document["kind"])
        resource.server_side_apply(
            body=document,
            name=document["metadata"]["name"],
            namespace=document["metadata"].get("namespace"),
            field_manager="prfaas-tests",
            force_conflicts=True,
        )
    return documents


@pytest.fixture
def roles(api: ApiClient, namespace: str) -> Iterator[Any]:
    """Installs the chart's roles into the server; they go when the test ends."""
    installed: list[dict[str, Any]] = []

    def install(values: dict[str, Any] | None = None) -> None:
        installed.extend(_install_roles(api, render(values, namespace=namespace)))

    yield install
    for document in installed:
        resource = DynamicClient(api).resources.get(api_version=document["apiVersion"], kind=document["kind"])
        resource.delete(name=document["metadata"]["name"], namespace=document["metadata"].get("namespace"))


def _missing(rights: Rights, access: Access, namespace: str) -> list[str]:
    return [
        f"{verb} {resource}"
        for resource in access.resources
        for verb in access.verbs
        if not rights.allow(verb, access.group, resource, namespace, access.names[0] if access.names else "")
    ]


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_every_declared_right_is_granted_everywhere(
    api_server: Any, roles: Any, namespace: str, part: str
) -> None:
    roles()
    rights = Rights(api_server, part, namespace)
    for access in ACCESS:
        if access.part == part:
            where = "default" if access.scope is Scope.WATCHED else namespace
            assert not _missing(rights, access, where), access.reason


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_with_namespaces_named_the_rights_end_there(
    api_server: Any, roles: Any, namespace: str, part: str
) -> None:
    roles({"watchNamespaces": ["default"]})
    rights = Rights(api_server, part, namespace)
    for access in ACCESS:
        if access.part == part and access.scope is Scope.WATCHED:
            assert not _missing(rights, access, "default"), access.reason
            assert len(_missing(rights, access, "kube-public")) == len(access.resources) * len(access.verbs)


NEVER = [
    ("operator", "update", "prfaas.io", "prefillpools", "default"),
    ("operator", "patch", "prfaas.io", "decodepools", "default"),
    ("operator", "delete", "prfaas.io", "prefillroutes", "default"),
    ("operator", "create", "", "pods", "default"),
    ("operator", "delete", "", "pods", "default"),
    ("operator", "create", "", "pods/exec", "default"),
    ("operator", "create", "rbac.authorization.k8s.io", "clusterrolebindings", None),
    ("operator", "patch", "apiextensions.k8s.io", "customresourcedefinitions", None),
    ("operator", "list", "", "nodes", None),
    ("operator", "impersonate", "", "users", None),
    ("operator", "create", "", "serviceaccounts/token", "default"),
    ("gateway", "get", "", "secrets", "default"),
    ("gateway", "patch", "", "pods", "default"),
    ("gateway", "get", "prfaas.io", "prefillpools", "default"),
]


@pytest.mark.parametrize(("part", "verb", "group", "resource", "where"), NEVER, ids=lambda value: str(value))
def test_what_a_part_must_never_do_is_refused(
    api_server: Any,
    roles: Any,
    namespace: str,
    part: str,
    verb: str,
    group: str,
    resource: str,
    where: str | None,
) -> None:
    roles()
    assert not Rights(api_server, part, namespace).allow(verb, group, resource, where)


async def test_the_gateway_follows_its_config_map_and_the_pods_with_its_own_rights(
    api_server: Any, roles: Any, namespace: str
) -> None:
    roles()
    settings = Cluster(namespace=namespace, state_dir=Path("/nonexistent"))
    kubeconfig = Rights(api_server, "gateway", namespace).kubeconfig
    async with await connect(str(kubeconfig)) as kube:
        for changes in (snapshots(kube, settings, Contact()), pods(kube, None, Contact())):
            async with asyncio.timeout(CALL_SECONDS):
                assert isinstance(await anext(changes), Synced)
            await changes.aclose()


def test_the_gateway_follows_no_other_config_map(api_server: Any, roles: Any, namespace: str) -> None:
    roles()
    rights = Rights(api_server, "gateway", namespace)
    assert rights.allow("watch", "", "configmaps", namespace, "prfaas-gateway-policy")
    assert not rights.allow("watch", "", "configmaps", namespace, "prfaas-operator")
    assert not rights.allow("list", "", "configmaps", namespace)


def test_users_who_may_view_or_edit_a_namespace_get_the_kinds_too(api: ApiClient, roles: Any) -> None:
    roles()
    rbac = client.RbacAuthorizationV1Api(api)
    view, edit = rbac.read_cluster_role("prfaas-view"), rbac.read_cluster_role("prfaas-edit")
    assert view.metadata.labels["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit.metadata.labels
    assert {verb for rule in view.rules for verb in rule.verbs} == {"get", "list", "watch"}
