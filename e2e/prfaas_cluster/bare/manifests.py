"""Objects that a new cluster gets: its DNS, and nodes that exist in name only."""

from __future__ import annotations

from typing import Any

from prfaas_cluster.bare.layout import Layout
from prfaas_cluster.bare.settings import CLUSTER_DOMAIN, DNS_IMAGE, FAKE_NODE_ANNOTATION, MOST_PODS

Object = dict[str, Any]

_NAMESPACE = "kube-system"
_LABELS = {"k8s-app": "kube-dns"}
_COREFILE = f"""\
.:53 {{
    errors
    health {{
        lameduck 1s
    }}
    ready
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    prometheus :9153
    cache 5
    reload
}}
"""


def dns(layout: Layout) -> list[Object]:
    """CoreDNS as every cluster has it. It knows the cluster's names and no others: nothing leads outside."""
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": _NAMESPACE}
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "failureThreshold": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    template = {
        "metadata": {"labels": _LABELS},
        "spec": {
            "serviceAccountName": "coredns",
            "priorityClassName": "system-cluster-critical",
            "dnsPolicy": "Default",
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
        },
    }
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    ports = [{"name": name, "port": 53, "protocol": protocol} for name, protocol in
             (("dns", "UDP"), ("dns-tcp", "TCP"))]  # fmt: skip
    return [
        _object("v1", "ServiceAccount", "coredns", _NAMESPACE),
        _object("rbac.authorization.k8s.io/v1", "ClusterRole", "system:coredns", rules=rules),
        _object(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "system:coredns",
            roleRef={
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:coredns",
            },
            subjects=[account],
        ),
        _object("v1", "ConfigMap", "coredns", _NAMESPACE, data={"Corefile": _COREFILE}),
        _object(
            "apps/v1",
            "Deployment",
            "coredns",
            _NAMESPACE,
            spec={"replicas": 1, "selector": {"matchLabels": _LABELS}, "template": template},
        ),
        _object(
            "v1",
            "Service",
            "kube-dns",
            _NAMESPACE,
            spec={"clusterIP": str(layout.dns_address), "selector": _LABELS, "ports": ports},
        ),
    ]


def fake_node(number: int) -> Object:
    """A node that kwok keeps Ready. Only pods that tolerate its taint come to it."""
    name = f"fake-{number}"
    room = {"cpu": "64", "memory": "512Gi", "pods": str(MOST_PODS), "nvidia.com/gpu": "8"}
    node = _object(
        "v1",
        "Node",
        name,
        spec={"taints": [{"key": FAKE_NODE_ANNOTATION, "value": "fake", "effect": "NoSchedule"}]},
        status={"allocatable": room, "capacity": room},
    )
    node["metadata"]["annotations"] = {FAKE_NODE_ANNOTATION: "fake"}
    node["metadata"]["labels"] = {
        "type": "kwok",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    return node


def _object(api_version: str, kind: str, name: str, namespace: str | None = None, **rest: Any) -> Object:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
