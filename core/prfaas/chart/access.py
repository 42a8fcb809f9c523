"""What each part asks of the API server, and why. The chart's RBAC and docs/access.md are generated from it.

A test compares the calls that the operator makes against a real API server with this list, both ways: what is
missing, and what nobody needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prfaas.api import keys


class Scope(StrEnum):
    """Where a right holds."""

    WATCHED = "watched"
    """In every namespace, or in each of `watchNamespaces` when they are set."""
    CLUSTER = "cluster"
    """In the cluster, whatever `watchNamespaces` says: kinds that belong to no namespace."""
    OWN = "own"
    """In the namespace of the chart's release only."""


@dataclass(frozen=True, slots=True)
class Access:
    """One right. `names` limits it to objects with these names; create cannot be limited so, list and watch
    only when they ask for one name.
    """

    part: str
    scope: Scope
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    reason: str
    names: tuple[str, ...] = ()


_POOLS = ("prefillpools", "decodepools")
_FOLLOW = ("list", "watch")
_READ = ("get", "list", "watch")
# No rule can limit this to names.
_MAKE = ("create",)
_WRITE = ("create", "patch", "delete")
_OPERATOR, _GATEWAY = "operator", "gateway"
_MIRROR = "mirror"
"""What the operator may do beside that with `federation.source: Hub`."""
_ISSUER = "issuer"
"""What the operator may do beside that with `certificates.issuerRef`."""
REGION_IN_HUB: Final = "region"
"""A region's account in the hub, made by `prfaas federation join`. `<region>` and `<leases>` are its own."""
_WATCHED, _CLUSTER, _OWN = Scope.WATCHED, Scope.CLUSTER, Scope.OWN

ACCESS: Final = (
    Access(
        _OPERATOR, _CLUSTER, keys.GROUP, ("regions",), _FOLLOW,
        "which regions there are, where their gateways are, and whom to believe there",
    ),
    Access(
        _OPERATOR, _CLUSTER, keys.GROUP, ("regions/status",), ("patch",),
        "how regions are seen from here, and this cluster's report",
    ),
    Access(
        _OPERATOR, _CLUSTER, keys.GROUP, ("kvlinks",), ("list",),
        "which links there are, what they may carry and what they carry",
    ),
    Access(
        _OPERATOR, _CLUSTER, keys.GROUP, ("kvlinks/status",), ("patch",),
        "what comes over the links that end in this region",
    ),
    Access(
        _OPERATOR, _WATCHED, keys.GROUP, (*_POOLS, "prefillroutes", "modelkvprofiles"), _FOLLOW,
        "what users want",
    ),
    Access(
        _OPERATOR, _WATCHED, keys.GROUP, (*(f"{name}/status" for name in (*_POOLS, "prefillroutes")),),
        ("patch",), "conditions and counts, by server-side apply",
    ),
    Access(
        _OPERATOR, _WATCHED, keys.GROUP, ("prefillpools/scale", "decodepools/scale"), ("patch",),
        "replicas of pools in Managed mode, as an HPA writes them",
    ),
    Access(
        _OPERATOR, _WATCHED, keys.GROUP, ("prefillpools/finalizers", "decodepools/finalizers"), ("update",),
        "owner references that block deletion, where the cluster's admission asks for this",
    ),
    Access(
        _OPERATOR, _WATCHED, "apps", ("deployments",), (*_READ, "create", "patch", "delete"),
        "one Deployment per revision of a pool",
    ),
    Access(
        _OPERATOR, _WATCHED, "apps", ("deployments/scale",), ("patch",),
        "replicas of the pools' own Deployments",
    ),
    Access(
        _OPERATOR, _WATCHED, "", ("pods",), (*_FOLLOW, "patch"),
        "readiness, and the marks prfaas.io/drain-since and pod-deletion-cost",
    ),
    Access(
        _OPERATOR, _WATCHED, "", ("secrets",), (*_READ, "create", "patch"),
        "the pools' certificates; whether Secrets that a pod template names exist",
    ),
    Access(
        _OPERATOR, _WATCHED, "", ("configmaps",), (*_READ, "create", "patch"),
        "who may pull KV from whom; whether ConfigMaps that a pod template names exist",
    ),
    Access(
        _OPERATOR, _WATCHED, "", ("persistentvolumeclaims", "serviceaccounts"), ("get",),
        "whether what a pod template names exists, and can be shared by several pods",
    ),
    Access(
        _OPERATOR, _WATCHED, "policy", ("poddisruptionbudgets",), (*_READ, "create", "patch", "delete"),
        "one budget per pool of several instances, unless the user has one",
    ),
    Access(
        _OPERATOR, _WATCHED, "autoscaling", ("horizontalpodautoscalers",), _FOLLOW,
        "whether an HPA and Managed mode fight over a pool",
    ),
    Access(
        _OPERATOR, _WATCHED, "events.k8s.io", ("events",), ("create", "patch"),
        "what happened to a pool or route, for kubectl describe",
    ),
    Access(
        _OPERATOR, _OWN, "coordination.k8s.io", ("leases",), ("get", "update"),
        "which replica leads, and which one adds up the clusters' reports",
        (keys.OPERATOR_LEASE, keys.AGGREGATOR_LEASE),
    ),
    Access(
        _OPERATOR, _OWN, "coordination.k8s.io", ("leases",), (*_FOLLOW, "patch"),
        "which clusters of the federation are alive, this one among them",
    ),
    Access(
        _OPERATOR, _OWN, "", ("pods",), ("list",),
        "the gateways of this cluster, which tell how they see other regions",
    ),
    Access(
        _OPERATOR, _OWN, "", ("secrets",), ("get", "patch"),
        "the region's authority, and its rotation", (keys.CA_SECRET,),
    ),
    Access(
        _OPERATOR, _OWN, "", ("secrets",), ("get", "patch"),
        "the gateways' certificate", (keys.GATEWAY_TLS_SECRET,),
    ),
    Access(
        _OPERATOR, _OWN, "", ("configmaps",), ("get", "patch"),
        "what gateways are told", (keys.GATEWAY_POLICY_CONFIG_MAP,),
    ),
    Access(
        _OPERATOR, _OWN, "", ("configmaps",), ("get", "patch"),
        "what has come over each link this month", (keys.EGRESS_CONFIG_MAP,),
    ),
    Access(
        _MIRROR, _CLUSTER, keys.GROUP, ("kvlinks",), _FOLLOW,
        "which links were mirrored",
    ),
    Access(
        _MIRROR, _CLUSTER, keys.GROUP, ("regions", "kvlinks"), _WRITE,
        "Regions and links of the hub",
    ),
    Access(
        _MIRROR, _WATCHED, keys.GROUP, (*_POOLS, "prefillroutes", "modelkvprofiles"), _WRITE,
        "what the hub wants of this cluster",
    ),
    Access(
        _MIRROR, _OWN, "", ("configmaps",), ("get", "patch"),
        "which hub is pinned, and whether its deletes are accepted", (keys.HUB_CONFIG_MAP,),
    ),
    Access(
        _ISSUER, _WATCHED, "cert-manager.io", ("certificates",), (*_FOLLOW, "create", "patch"),
        "what asks cert-manager for the pools' certificates",
    ),
    Access(
        _ISSUER, _OWN, "cert-manager.io", ("certificates",), ("get", "patch"),
        "what asks it for the gateways' certificate", (keys.GATEWAY_TLS_SECRET,),
    ),
    Access(
        _ISSUER, _OWN, "cert-manager.io", ("certificates",), _MAKE,
        "the same, when there is none yet",
    ),
    Access(
        REGION_IN_HUB, _CLUSTER, keys.GROUP,
        (*_POOLS, "prefillroutes", "modelkvprofiles", "regions", "kvlinks"), _READ,
        "what is wanted of the region's clusters",
    ),
    Access(
        REGION_IN_HUB, _CLUSTER, "", ("namespaces",), ("get",),
        "whether it is the hub that is known", ("kube-system",),
    ),
    Access(
        REGION_IN_HUB, _CLUSTER, keys.GROUP, ("regions/status",), ("patch",),
        "the report of the region's clusters", ("<region>",),
    ),
    Access(
        REGION_IN_HUB, _OWN, "coordination.k8s.io", ("leases",), ("get", "patch"),
        "that the region's clusters are alive", ("<leases>",),
    ),
    Access(
        _OPERATOR, _OWN, "coordination.k8s.io", ("leases",), _MAKE,
        "the same, when there is none yet",
    ),
    Access(
        _OPERATOR, _OWN, "", ("secrets", "configmaps"), _MAKE,
        "the same, when there are none yet",
    ),
    Access(
        _GATEWAY, _WATCHED, "", ("pods",), ("list", "watch"),
        "where engines are, and which are ready or drain",
    ),
    Access(
        _GATEWAY, _OWN, "", ("configmaps",), _FOLLOW,
        "which models, pools and routes there are", (keys.GATEWAY_POLICY_CONFIG_MAP,),
    ),
)  # fmt: skip

PARTS: Final = (_OPERATOR, _MIRROR, _ISSUER, _GATEWAY, REGION_IN_HUB)
_TITLES = {
    _MIRROR: "Operator with `federation.source: Hub`",
    _ISSUER: "Operator with `certificates.issuerRef`",
    REGION_IN_HUB: "A region's account in the hub (`prfaas federation join`)",
}


def chart_document() -> dict[str, dict[str, list[dict[str, list[str]]]]]:
    """The rules by part and scope, as the chart's templates read them."""
    document: dict[str, dict[str, list[dict[str, list[str]]]]] = {}
    for access in ACCESS:
        if access.part == REGION_IN_HUB:
            # Joining makes it, for each region with its own names.
            continue
        rule = {"apiGroups": [access.group], "resources": [*access.resources], "verbs": [*access.verbs]}
        if access.names:
            rule["resourceNames"] = [*access.names]
        document.setdefault(access.part, {}).setdefault(access.scope.value, []).append(rule)
    return document


def markdown() -> str:
    """The whole declaration as a page of the documentation."""
    lines = [
        "# What the parts may do in a cluster",
        "",
        "Generated by `python -m prfaas.chart` from `core/prfaas/chart/access.py`, as are the chart's roles.",
        "*Watched* is every namespace, or each of the chart's `watchNamespaces`; *cluster* is what belongs",
        "to no namespace; *own* is the release's.",
        "Sidecars and engines have no rights: their pods need no service account of the project's.",
        "",
    ]
    for part in PARTS:
        lines += [
            f"## {_TITLES.get(part, part.capitalize())}",
            "",
            "| where | group | resources | verbs | why |",
            "|---|---|---|---|---|",
        ]
        for access in ACCESS:
            if access.part == part:
                group = access.group or "core"
                resources = ", ".join(f"`{name}`" for name in access.resources)
                names = f" (only `{', '.join(access.names)}`)" if access.names else ""
                verbs = ", ".join(access.verbs)
                lines.append(f"| {access.scope} | {group} | {resources}{names} | {verbs} | {access.reason} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
