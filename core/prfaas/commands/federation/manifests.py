"""The objects that make clusters known to one another, as values."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from prfaas.api import keys
from prfaas.chart.access import ACCESS, REGION_IN_HUB, Scope
from prfaas.kube.resources import Object, Resource

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(_RBAC, "v1", "roles", "Role")
ROLE_BINDINGS = Resource(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)

LABELS = {keys.LABEL_MANAGED_BY: keys.MANAGED_BY}
KUBECONFIG_KEY = "kubeconfig"
UID_KEY, OFFERED_KEY = "uid", "offered"


def account_name(region: str) -> str:
    """Of the region's ServiceAccount in the hub, and of its roles."""
    return f"prfaas-region-{region}"


def region_object(name: str, spec: Mapping[str, Any], *, mirrored_from: str | None = None) -> Object:
    """A Region. `mirrored_from`: as the mirror of the hub with this origin would write it."""
    metadata: dict[str, Any] = {"name": name}
    if mirrored_from is not None:
        metadata["labels"] = {keys.LABEL_MIRRORED: "true"}
        metadata["annotations"] = {keys.ANNOTATION_MIRRORED_FROM: mirrored_from}
    return {
        "apiVersion": keys.API_VERSION,
        "kind": keys.REGION,
        "metadata": metadata,
        "spec": dict(spec),
    }


def hub_objects(region: str, clusters: Sequence[str], namespace: str) -> list[tuple[Resource, Object]]:
    """What a region needs in the hub: an account, its rights, and a Lease for each of its clusters."""
    name = account_name(region)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return [
        (
            SERVICE_ACCOUNTS,
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _about(name, namespace)},
        ),
        (CLUSTER_ROLES, _role("ClusterRole", name, None, _rules(Scope.CLUSTER, region, clusters))),
        (CLUSTER_ROLE_BINDINGS, _binding("ClusterRole", name, None, subject)),
        (ROLES, _role("Role", name, namespace, _rules(Scope.OWN, region, clusters))),
        (ROLE_BINDINGS, _binding("Role", name, namespace, subject)),
    ]


def lease_object(cluster: str, namespace: str) -> Object:
    """A cluster's Lease, before its operator has ever renewed it."""
    about = _about(keys.cluster_lease(cluster), namespace)
    about["labels"] = {**about["labels"], keys.LABEL_CLUSTER: cluster}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": about}


def kubeconfig(*, server: str, ca: bytes | None, token: str, namespace: str, verify: bool = True) -> Object:
    """A kubeconfig of the region's account."""
    cluster: dict[str, Any] = {"server": server}
    if not verify:
        cluster["insecure-skip-tls-verify"] = True
    elif ca is not None:
        cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "hub", "cluster": cluster}],
        "users": [{"name": "region", "user": {"token": token}}],
        "contexts": [
            {"name": "hub", "context": {"cluster": "hub", "user": "region", "namespace": namespace}}
        ],
        "current-context": "hub",
    }


def hub_secret(namespace: str, config: Object) -> Object:
    """The Secret that the operator reads the way to the hub from."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _about(keys.HUB_KUBECONFIG_SECRET, namespace),
        "type": "Opaque",
        # JSON is YAML, and leaves nothing to quoting.
        "data": {KUBECONFIG_KEY: base64.b64encode(json.dumps(config).encode()).decode()},
    }


def pin(namespace: str, uid: str) -> Object:
    """The hub, pinned."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": keys.HUB_CONFIG_MAP, "namespace": namespace},
        "data": {UID_KEY: uid},
    }


def _about(name: str, namespace: str | None) -> dict[str, Any]:
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": dict(LABELS)}


def _role(kind: str, name: str, namespace: str | None, rules: list[dict[str, list[str]]]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": _about(name, namespace),
        "rules": rules,
    }


def _binding(kind: str, name: str, namespace: str | None, subject: Mapping[str, str]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": _about(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": name},
        "subjects": [dict(subject)],
    }


def _rules(scope: Scope, region: str, clusters: Sequence[str]) -> list[dict[str, list[str]]]:
    names = {"<region>": [region], "<leases>": [keys.cluster_lease(each) for each in clusters]}
    rules = []
    for access in ACCESS:
        if access.part != REGION_IN_HUB or access.scope is not scope:
            continue
        rule = {"apiGroups": [access.group], "resources": [*access.resources], "verbs": [*access.verbs]}
        if access.names:
            rule["resourceNames"] = [found for each in access.names for found in names.get(each, [each])]
        rules.append(rule)
    return rules
