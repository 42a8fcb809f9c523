"""Names of the kinds that the project reads or writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = dict[str, Any]
"""An object of the Kubernetes API as its JSON has it."""

GROUP = "prfaas.io"
VERSION = "v1alpha1"


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection of the API. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL path of the collection, or of one object of it; no namespace means all of them."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
# Of cert-manager, where it is installed.
CERTIFICATES = Resource("cert-manager.io", "v1", "certificates", "Certificate")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
PREFILL_POOLS = Resource(GROUP, VERSION, "prefillpools", "PrefillPool")
DECODE_POOLS = Resource(GROUP, VERSION, "decodepools", "DecodePool")
PREFILL_ROUTES = Resource(GROUP, VERSION, "prefillroutes", "PrefillRoute")
MODEL_KV_PROFILES = Resource(GROUP, VERSION, "modelkvprofiles", "ModelKVProfile")
REGIONS = Resource(GROUP, VERSION, "regions", "Region", namespaced=False)
KV_LINKS = Resource(GROUP, VERSION, "kvlinks", "KVLink", namespaced=False)

CUSTOM_RESOURCES = (PREFILL_POOLS, DECODE_POOLS, PREFILL_ROUTES, MODEL_KV_PROFILES)
FEDERATION_RESOURCES = (REGIONS, KV_LINKS)
BY_KIND = {
    resource.kind: resource
    for resource in (
        *CUSTOM_RESOURCES,
        *FEDERATION_RESOURCES,
        NAMESPACES,
        PODS,
        SECRETS,
        CONFIG_MAPS,
        PERSISTENT_VOLUME_CLAIMS,
        SERVICE_ACCOUNTS,
        DEPLOYMENTS,
        REPLICA_SETS,
        POD_DISRUPTION_BUDGETS,
        AUTOSCALERS,
        LEASES,
        CERTIFICATES,
        EVENTS,
        DEFINITIONS,
    )
}
