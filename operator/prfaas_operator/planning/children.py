"""The objects that belong to a pool, as they are to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prfaas.api.keys import (
    ANNOTATION_INJECTION,
    API_VERSION,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    LABEL_POOL_KIND,
    LABEL_REVISION,
    LABEL_ROLE,
    MANAGED_BY,
    disruption_budget,
    peers_config_map,
    role_of,
    tls_secret,
)
from prfaas_operator.injection.names import PEERS_KEY
from prfaas_operator.injection.results import Injected
from prfaas_operator.planning import issuing
from prfaas_operator.planning.actions import ApplyChild
from prfaas_operator.planning.selectors import selects
from prfaas_operator.planning.values import ChildKind, Issuer, Manifest, ObservedChild, ObservedPool, PoolKey

# The engine's startup probe allows for an hour. Until then a Deployment that waits is not stuck, which GitOps
# tools would show as degraded and the usual alerts of a cluster would page for.
_PROGRESS_SECONDS = 3900
# A rollout never goes by the Deployment's own strategy: this one only limits what a template that somebody
# else changed can do before it is put back.
_STRATEGY = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def pod_labels(key: PoolKey) -> dict[str, str]:
    """Labels that every pod of a pool bears, and by which they are found."""
    return {LABEL_POOL: key.name, LABEL_POOL_KIND: key.kind}


def selector_text(key: PoolKey) -> str:
    """The same as a selector in text, for `status.selector`."""
    return ",".join(f"{label}={value}" for label, value in pod_labels(key).items())


def deployment_name(key: PoolKey, revision: str) -> str:
    return f"{key.name}-{revision}"


def deployment(pool: ObservedPool, revision: str, injected: Injected, replicas: int) -> Manifest:
    """A revision's Deployment."""
    labels = {**pod_labels(pool.key), LABEL_REVISION: revision}
    template = injected.template
    metadata = template.get("metadata") or {}
    roles = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_ROLE: role_of(pool.key.kind)}
    return {
        "apiVersion": "apps/v1",
        "kind": ChildKind.DEPLOYMENT.value,
        "metadata": _metadata(
            pool,
            deployment_name(pool.key, revision),
            labels={LABEL_REVISION: revision},
            annotations={ANNOTATION_INJECTION: injected.info.annotation()},
        ),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": _PROGRESS_SECONDS,
            "strategy": _STRATEGY,
            "selector": {"matchLabels": labels},
            "template": {
                **template,
                "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), **roles, **labels}},
            },
        },
    }


def tls_secret_shell(pool: ObservedPool) -> Manifest:
    """The Secret with the pool's certificate, without its data."""
    return {
        "apiVersion": "v1",
        "kind": ChildKind.SECRET.value,
        "metadata": _metadata(pool, tls_secret(pool.key.kind, pool.key.name)),
        "type": "kubernetes.io/tls",
    }


def certificate_request(pool: ObservedPool, issuer: Issuer, identity: str) -> Manifest:
    """The Certificate that has cert-manager write the pool's Secret."""
    name = tls_secret(pool.key.kind, pool.key.name)
    labels = {**pod_labels(pool.key), LABEL_MANAGED_BY: MANAGED_BY}
    return {
        "apiVersion": issuing.API_VERSION,
        "kind": ChildKind.CERTIFICATE.value,
        "metadata": _metadata(pool, name),
        "spec": issuing.certificate_spec(issuer, secret_name=name, identity=identity, labels=labels),
    }


def peers(pool: ObservedPool, text: str) -> Manifest:
    """The ConfigMap with peers.yaml."""
    return {
        "apiVersion": "v1",
        "kind": ChildKind.CONFIG_MAP.value,
        "metadata": _metadata(pool, peers_config_map(pool.key.kind, pool.key.name)),
        "data": {PEERS_KEY: text},
    }


def budget(pool: ObservedPool) -> Manifest:
    """The PodDisruptionBudget: one instance at a time, and broken ones whenever."""
    return {
        "apiVersion": "policy/v1",
        "kind": ChildKind.BUDGET.value,
        "metadata": _metadata(pool, disruption_budget(pool.key.kind, pool.key.name)),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": pod_labels(pool.key)},
        },
    }


def budget_is_wanted(pool: ObservedPool, desired: int, template_labels: Mapping[str, str]) -> bool:
    """Not for one instance, whose eviction would only be delayed, and not beside a budget of the user's: the
    eviction API refuses pods that two budgets select.
    """
    labels = {**template_labels, **pod_labels(pool.key), LABEL_MANAGED_BY: MANAGED_BY}
    labels[LABEL_ROLE] = role_of(pool.key.kind)
    return desired > 1 and not any(selects(each.selector, labels) for each in pool.user_budgets)


def child_if_different(
    pool: ObservedPool, kind: ChildKind, manifest: Manifest, part: str, observed: ObservedChild | None
) -> ApplyChild | None:
    """Apply a small child when it is missing, its `part` (data, spec) differs, or a field was taken over."""
    if observed is None:
        return ApplyChild(kind, manifest, None, "it is missing")
    if is_drifted(observed.recorded_owned_fields, observed.actual_owned_fields):
        if may_not_repair(pool, kind, observed.name):
            return None
        why = f"{observed.taken_over_by or 'somebody else'} changed it"
        return ApplyChild(kind, manifest, observed.resource_version, why, drift=True)
    if not contains(observed.content, manifest[part]):
        return ApplyChild(kind, manifest, observed.resource_version, "its content changes")
    return None


def may_not_repair(pool: ObservedPool, kind: ChildKind, name: str) -> bool:
    """Whether a child stays for now as somebody else has made it."""
    return pool.repair_pauses.get(f"{kind} {name}", 0.0) > 0


def is_drifted(recorded: str, actual: str) -> bool:
    """Whether somebody took over a field of the operator's. A child without a record was applied half way."""
    return recorded != actual


def contains(observed: Any, desired: Any) -> bool:
    """Whether every value that is desired is there; what the server added does not matter."""
    if isinstance(desired, Mapping):
        return isinstance(observed, Mapping) and all(
            key in observed and contains(observed[key], value) for key, value in desired.items()
        )
    return bool(observed == desired)


def _metadata(
    pool: ObservedPool,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    metadata: Manifest = {
        "name": name,
        "namespace": pool.key.namespace,
        "labels": {**pod_labels(pool.key), LABEL_MANAGED_BY: MANAGED_BY, **(labels or {})},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": pool.key.kind,
                "name": pool.key.name,
                "uid": pool.uid,
                "controller": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata
