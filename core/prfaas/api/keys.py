"""Names of the contract in docs/control-plane.md: group, labels, annotations, field managers, objects."""

from __future__ import annotations

from typing import Final, Literal

GROUP: Final = "prfaas.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "prfaas.io/v1alpha1"
CATEGORY: Final = "prfaas"

PoolKind = Literal["PrefillPool", "DecodePool"]
PREFILL_POOL: Final = "PrefillPool"
DECODE_POOL: Final = "DecodePool"
PREFILL_ROUTE: Final = "PrefillRoute"
MODEL_KV_PROFILE: Final = "ModelKVProfile"
REGION: Final = "Region"
KV_LINK: Final = "KVLink"

# A Deployment is named <pool>-<hash> and a pod <pool>-<hash>-<hash>-<suffix>; all must stay below 63.
POOL_NAME_MAX_CHARACTERS: Final = 40

LABEL_POOL: Final = "prfaas.io/pool"
LABEL_POOL_KIND: Final = "prfaas.io/pool-kind"
LABEL_REVISION: Final = "prfaas.io/revision"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "prfaas"
LABEL_ROLE: Final = "llm-d.ai/role"
ROLE_PREFILL: Final = "prefill"
ROLE_DECODE: Final = "decode"

ANNOTATION_DRAIN_SINCE: Final = "prfaas.io/drain-since"
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
DRAINING_DELETION_COST: Final = "-1000"
ANNOTATION_OWNED_FIELDS: Final = "prfaas.io/owned-fields"
ANNOTATION_INJECTION: Final = "prfaas.io/injection"
ANNOTATION_HOLD: Final = "prfaas.io/hold"
ANNOTATION_LOCAL_ONLY: Final = "prfaas.io/local-only"

# Of a cluster's Lease in the hub: the cluster.
LABEL_CLUSTER: Final = "prfaas.io/cluster"

# Objects that the mirror made from those of the hub (docs/federation.md).
LABEL_MIRRORED: Final = "prfaas.io/mirrored"
ANNOTATION_MIRRORED_FROM: Final = "prfaas.io/mirrored-from"
ANNOTATION_ACCEPT_DELETES: Final = "prfaas.io/accept-deletes"
# On the Secret of the authority: it is being replaced; the value is the time of the last step.
ANNOTATION_ROTATE_CA: Final = "prfaas.io/rotate-ca"

MANAGER_CHILDREN: Final = "prfaas-operator"
MANAGER_STATUS: Final = "prfaas-operator-status"
MANAGER_SCALE: Final = "prfaas-operator-scale"
MANAGER_CLI: Final = "prfaas-cli"
MANAGER_MIRROR: Final = "prfaas-mirror"
MANAGER_AGGREGATOR: Final = "prfaas-aggregator"
MANAGER_LINKS: Final = "prfaas-links"

# Objects in the operator's own namespace.
CA_SECRET: Final = "prfaas-ca"  # noqa: S105  (the name of a Secret)
GATEWAY_TLS_SECRET: Final = "prfaas-gateway-tls"  # noqa: S105  (the name of a Secret)
GATEWAY_POLICY_CONFIG_MAP: Final = "prfaas-gateway-policy"
GATEWAY_POLICY_KEY: Final = "snapshot.json"
OPERATOR_LEASE: Final = "prfaas-operator"
HUB_CONFIG_MAP: Final = "prfaas-hub"
HUB_KUBECONFIG_SECRET: Final = "prfaas-hub"  # noqa: S105  (the name of a Secret)
EGRESS_CONFIG_MAP: Final = "prfaas-egress"
AGGREGATOR_LEASE: Final = "prfaas-aggregator"


def role_of(kind: PoolKind) -> str:
    """The role of a pool's pods: `prefill` or `decode`."""
    return ROLE_PREFILL if kind == PREFILL_POOL else ROLE_DECODE


def tls_secret(kind: PoolKind, pool: str) -> str:
    """Name of the Secret with a pool's certificate."""
    return f"{pool}-{role_of(kind)}-tls"


def peers_config_map(kind: PoolKind, pool: str) -> str:
    """Name of the ConfigMap that says whom a pool's sidecars may talk to."""
    return f"{pool}-{role_of(kind)}-peers"


def disruption_budget(kind: PoolKind, pool: str) -> str:
    """Name of a pool's PodDisruptionBudget."""
    return f"{pool}-{role_of(kind)}"


def cluster_lease(cluster: str) -> str:
    """Name of a cluster's Lease in the hub."""
    return f"prfaas-region-{cluster}"


def manager_of_cluster(cluster: str) -> str:
    """Field manager of a cluster's report in the hub."""
    return f"prfaas-cluster-{cluster}"
