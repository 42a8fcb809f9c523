"""The chart's values: one model, from which values.yaml, its schema and the README's table are generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Name = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$", max_length=63)]
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
RegionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
TrustDomain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=255)]
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
Repository = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-]+[a-z0-9]+)*$")]
Registry = Annotated[str, StringConstraints(pattern=r"^([a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._/-]+)?)?$")]
Tag = Annotated[str, StringConstraints(pattern=r"^([a-z0-9_][a-z0-9._-]{0,127})?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^[0-9]+(ms|s|m|h)$")]
Header = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9-]{1,64})?$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
AccountName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=317
    ),
]
Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]
HostPath = Annotated[str, StringConstraints(pattern=r"^(/[^/]+)+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Level = Literal["debug", "info", "warning", "error"]
Labels = dict[str, str]
Free = dict[str, Any]
"""Copied into the manifest as it is; the API server checks it."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class PullSecret(Section):
    name: str = Field(min_length=1, description="Name of a Secret in the release's namespace.")


class ImageRegistry(Section):
    registry: Registry = Field(default="prfaas.io", description="Registry and prefix of all images.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When images are pulled."
    )
    pull_secrets: list[PullSecret] = Field(
        default=[],
        max_length=16,
        description="Secrets to pull with, for operator and gateway. For pools: pools.imagePullSecrets.",
    )


class Image(Section):
    repository: Repository = Field(default="", description="Name below the registry.")
    tag: Tag = Field(
        default="", description="Tag; the chart's appVersion when empty. Ignored when a digest is given."
    )
    digest: Digest = Field(default="", description="sha256:… of the manifest. Recommended: tags move.")


class ServiceAccount(Section):
    create: bool = Field(default=True, description="Make a service account.")
    name: Name = Field(default="", description="Its name; made from the release's name when empty.")
    annotations: Labels = Field(default={}, description="Its annotations.")


class Scheduling(Section):
    """What every Deployment of the chart has."""

    replicas: int = Field(default=2, ge=0, le=100, description="Pods. Two survive the loss of a node.")
    resources: Free = Field(default={}, description="Requests and limits.")
    node_selector: Labels = Field(default={}, description="Labels of the nodes to run on.")
    tolerations: list[Free] = Field(default=[], description="Tolerations of nodes' taints.")
    affinity: Free = Field(default={}, description="Affinity rules.")
    topology_spread_constraints: list[Free] = Field(
        default=[], description="Spread over nodes and zones; over nodes, where possible, when empty."
    )
    priority_class_name: str = Field(default="", description="Priority class of the pods.")
    pod_labels: Labels = Field(default={}, description="Further labels of the pods.")
    pod_annotations: Labels = Field(default={}, description="Annotations of the pods.")
    extra_env: list[Free] = Field(default=[], description="Further environment variables.")
    log_level: Level = Field(default="info", description="Least severe level that is logged.")
    service_account: ServiceAccount = Field(default=ServiceAccount(), description="Service account.")


class PoolParts(Section):
    """What the operator puts into the pods of pools."""

    sidecar: Image = Field(default=Image(repository="sidecar"), description="Image.")
    connector: Image = Field(default=Image(repository="connector"), description="Image.")
    image_pull_secrets: list[SecretName] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"uniqueItems": True},
        description="Names of Secrets to pull these two with, added to those of a pool's own template. They "
        "have to exist in the pools' namespaces.",
    )
    connector_as_image_volume: bool = Field(
        default=False,
        description="Mount the connector's image instead of copying it at each start. Needs nodes that mount "
        "images as volumes (Kubernetes 1.35 and containerd 2.1, or later); a new revision of a pool takes it "
        "up.",
    )
    prefill_cidrs: list[Cidr] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"uniqueItems": True},
        description="Networks in which decode sidecars may dial prefill pods, as the cluster's pod network. "
        "Any address when empty: who answers has to prove by TLS to be a pool of the route in each case.",
    )


class Budget(Section):
    enabled: bool = Field(
        default=True, description="Make a PodDisruptionBudget, where there are two pods or more."
    )
    max_unavailable: int = Field(default=1, ge=1, le=100, description="Pods that may be evicted at once.")


class Operator(Scheduling):
    image: Image = Field(default=Image(repository="operator"), description="Image.")
    resources: Free = Field(
        default={"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        description="Requests and limits. 1,000 pools need less than 200 MiB.",
    )
    config: Free = Field(default={}, description="Further settings of operator.yaml (docs/operator.md).")
    pod_disruption_budget: Budget = Field(default=Budget(), description="Budget of the operator's pods.")
    port: Port = Field(default=8080, description="Port of health and metrics.")


class Autoscaling(Section):
    enabled: bool = Field(default=False, description="Let an HPA own the number of gateways.")
    min_replicas: int = Field(default=2, ge=1, le=100, description="Least gateways.")
    max_replicas: int = Field(default=10, ge=1, le=1000, description="Most gateways.")
    target_cpu_percent: int = Field(
        default=70, ge=1, le=1000, description="Wanted CPU use, in percent of the request."
    )
    metrics: list[Free] = Field(
        default=[], description="Metrics in place of the CPU's, as autoscaling/v2 has them."
    )
    behavior: Free = Field(default={}, description="How fast, as autoscaling/v2 has it.")


class Service(Section):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(default="ClusterIP", description="Type.")
    port: Port = Field(default=80, description="Port that clients use.")
    annotations: Labels = Field(default={}, description="Annotations.")
    internal_traffic_policy: Literal["Cluster", "Local"] = Field(
        default="Cluster", description="Which pods are used."
    )


class PeerService(Section):
    enabled: bool = Field(
        default=False,
        description="Let gateways of other regions in: peer port 7410, by mutual TLS, and a Service for it. "
        "spec.peer.address of this cluster's Region says how they find it (docs/federation.md).",
    )
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="LoadBalancer", description="Type. TLS ends in the gateways: the way there may only pass TCP."
    )
    port: Port = Field(default=7410, description="Port of the Service.")
    node_port: int = Field(default=0, ge=0, le=65535, description="Port of the nodes; chosen when 0.")
    annotations: Labels = Field(default={}, description="Annotations.")


class HttpRoute(Section):
    enabled: bool = Field(
        default=False, description="Make an HTTPRoute, where the cluster serves the Gateway API."
    )
    parent_refs: list[Free] = Field(default=[], max_length=32, description="Gateways that it attaches to.")
    hostnames: list[str] = Field(default=[], max_length=16, description="Host names that it answers to.")
    annotations: Labels = Field(default={}, description="Annotations.")


class Gateway(Scheduling):
    enabled: bool = Field(default=True, description="Run gateways.")
    image: Image = Field(default=Image(repository="gateway"), description="Image.")
    resources: Free = Field(
        default={"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        description="Requests and limits. Memory grows with tokenizers and large prompts (docs/gateway.md).",
    )
    tenant_header: Header = Field(
        default="", description="Header, set by a trusted proxy, that names the tenant. None when empty."
    )
    drain_seconds: int = Field(
        default=60, ge=1, le=3600, description="Seconds that running requests get when a gateway stops."
    )
    state_size: str = Field(
        default="1Gi", min_length=1, description="Room for the last snapshot and tokenizers (an emptyDir)."
    )
    config: Free = Field(default={}, description="Further settings of gateway.yaml (docs/gateway.md).")
    autoscaling: Autoscaling = Field(default=Autoscaling(), description="Autoscaling.")
    service: Service = Field(default=Service(), description="Service.")
    peer: PeerService = Field(default=PeerService(), description="For gateways of other regions.")
    http_route: HttpRoute = Field(default=HttpRoute(), description="HTTPRoute.")
    pod_disruption_budget: Budget = Field(default=Budget(), description="Budget of the gateways' pods.")


class AdmissionPolicy(Section):
    enabled: bool = Field(
        default=True,
        description="With source Hub: a ValidatingAdmissionPolicy that refuses what a hub must not do here, "
        "whoever tries it in the hub's name.",
    )


class Federation(Section):
    """This cluster among others (docs/federation.md)."""

    source: Literal["Local", "Hub"] = Field(
        default="Local",
        description="Where what is wanted comes from. Local: from this cluster's own API server, by kubectl "
        "or Git. Hub: it is mirrored from another cluster (prfaas federation join).",
    )
    cluster: Name = Field(
        default="",
        description="Name of this cluster; the region's when empty. Needed where a region has several.",
    )
    hub_secret: SecretName = Field(
        default="prfaas-hub",
        description="Secret with the way to the hub, key kubeconfig; prfaas federation join makes it.",
    )
    hub_namespace: Name = Field(
        default="",
        description="Namespace of the hub's operator; what the kubeconfig's context says when empty.",
    )
    allowed_namespaces: list[Namespace] = Field(
        default=[],
        max_length=256,
        json_schema_extra={"uniqueItems": True},
        description="Namespaces that the hub may write into. They have to exist here.",
    )
    allowed_service_accounts: list[AccountName] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"uniqueItems": True},
        description="Service accounts that mirrored pods may use beside default: NAME or NAMESPACE/NAME.",
    )
    allowed_host_paths: list[HostPath] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"uniqueItems": True},
        description="Folders of nodes that mirrored pods may mount, read-only, with all below them: weights "
        "that lie on the nodes.",
    )
    host_ports: list[Port] = Field(
        default=[],
        max_length=2,
        description="First and last port of nodes that pools may use with reach HostPort. None when empty. "
        "Their namespaces need the Pod Security level privileged.",
    )
    kv_proxy_address: str = Field(
        default="",
        max_length=261,
        pattern=r"^(.+:[0-9]{1,5})?$",
        description="host:port under which other regions find this region's proxy for KV, for pools with "
        "reach Passthrough.",
    )
    admission_policy: AdmissionPolicy = Field(
        default=AdmissionPolicy(), description="Rules for mirrored objects at the API server."
    )


class ProxyService(Section):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="LoadBalancer", description="Type."
    )
    port: Port = Field(default=7411, description="Port that sidecars of other regions dial.")
    annotations: Labels = Field(default={}, description="Annotations.")


class IssuerRef(Section):
    name: str = Field(
        default="", max_length=253, description="Its name. Empty: the operator issues, from Secret prfaas-ca."
    )
    kind: str = Field(
        default="ClusterIssuer",
        min_length=1,
        max_length=63,
        description="ClusterIssuer, or Issuer: one of "
        "this name in the release's and in each pool's namespace.",
    )
    group: TrustDomain = Field(default="cert-manager.io", description="Its API group.")


class Certificates(Section):
    issuer_ref: IssuerRef = Field(
        default=IssuerRef(),
        description="Issuer of cert-manager's that signs certificates of pools and gateways.",
    )


class TlsRoute(Section):
    enabled: bool = Field(
        default=False,
        description="Make a TLSRoute, where the cluster serves it (Gateway API, experimental channel): a "
        "Gateway passes KV of other regions on to the proxy, whose Service may be ClusterIP then.",
    )
    parent_refs: list[Free] = Field(
        default=[],
        description="Gateways, with a listener of protocol TLS and mode Passthrough. Needed when enabled.",
    )
    annotations: Labels = Field(default={}, description="Annotations.")
    labels: Labels = Field(default={}, description="Labels.")


class KvProxy(Section):
    """The region's L4 proxy for KV, for pools with reach Passthrough."""

    enabled: bool = Field(
        default=False,
        description="Run a proxy (HAProxy) through which other regions reach pools with reach Passthrough. "
        "federation.kvProxyAddress tells how they find it.",
    )
    image: str = Field(
        default="docker.io/library/haproxy:3.2-alpine",
        min_length=1,
        max_length=512,
        description="Reference of an HAProxy image, 2.6 or later; by digest where it must not change by "
        "itself.",
    )
    pod_networks: list[Cidr] = Field(
        default=[],
        max_length=64,
        json_schema_extra={"uniqueItems": True},
        description="The cluster's pod networks. Other addresses are refused: the proxy leads nowhere else.",
    )
    replicas: int = Field(default=2, ge=0, le=100, description="Pods. Two survive the loss of a node.")
    max_connections: int = Field(default=4000, ge=1, le=1_000_000, description="Connections of each pod.")
    bind_address: Literal["0.0.0.0", "::"] = Field(  # noqa: S104  (in a pod of its own)
        default="0.0.0.0",  # noqa: S104
        description='Where it listens; "::" for both families.',
    )
    drain_seconds: int = Field(
        default=30, ge=1, le=3600, description="Seconds that open connections get when a pod stops."
    )
    resources: Free = Field(
        default={"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        description="Requests and limits. A connection takes about 40 KiB; a core passes several Gbit/s.",
    )
    node_selector: Labels = Field(default={}, description="Labels of the nodes to run on.")
    tolerations: list[Free] = Field(default=[], description="Tolerations of nodes' taints.")
    affinity: Free = Field(default={}, description="Affinity rules.")
    topology_spread_constraints: list[Free] = Field(
        default=[], description="Spread over nodes and zones; over nodes, where possible, when empty."
    )
    priority_class_name: str = Field(default="", description="Priority class of the pods.")
    pod_labels: Labels = Field(default={}, description="Further labels of the pods.")
    pod_annotations: Labels = Field(default={}, description="Annotations of the pods.")
    service: ProxyService = Field(default=ProxyService(), description="Service.")
    tls_route: TlsRoute = Field(default=TlsRoute(), description="TLSRoute of the Gateway API.")


class Crds(Section):
    enabled: bool = Field(default=True, description="Install the custom resource definitions with the chart.")
    keep: bool = Field(
        default=True, description="Leave them, and so all pools, when the chart is uninstalled."
    )


class Rbac(Section):
    create: bool = Field(default=True, description="Make roles and bindings for operator and gateway.")
    aggregate: bool = Field(
        default=True, description="Add the kinds to the cluster's roles view, edit and admin."
    )


class NetworkPolicy(Section):
    enabled: bool = Field(
        default=True, description="Allow operator and gateway only the traffic that they need."
    )
    api_server_ports: list[Port] = Field(
        default=[443, 6443],
        min_length=1,
        max_length=8,
        description="Ports on which the API server is reached.",
    )
    gateway_clients: list[Free] = Field(
        default=[],
        description="Who may reach the gateways (`from` of an ingress rule); everybody when empty.",
    )
    monitoring: list[Free] = Field(
        default=[], description="Who may reach health and metrics (`from` of a rule); everybody when empty."
    )
    peer_ports: list[Port] = Field(
        default=[7410],
        max_length=16,
        description="Ports on which gateways of other regions are reached.",
    )
    extra_egress: list[Free] = Field(
        default=[], description="Further egress rules, for example of a tracing collector."
    )
    pools: bool = Field(
        default=False,
        description="Also restrict pools in each of watchNamespaces: only gateways reach their engines.",
    )
    peer_cidrs: list[Cidr] = Field(
        default=[],
        max_length=64,
        description="Addresses of other regions: whose sidecars may pull KV (with pools), and with which "
        "gateways speak on the peer port (any when empty).",
    )


class Monitor(Section):
    enabled: bool = Field(default=False, description="Make PodMonitors, where the cluster serves them.")
    interval: Duration = Field(default="30s", description="How often metrics are read.")
    labels: Labels = Field(default={}, description="Labels by which a Prometheus picks them.")
    pools: bool = Field(default=True, description="Also read the sidecars of pools.")


class Rules(Section):
    enabled: bool = Field(default=False, description="Make a PrometheusRule, where the cluster serves them.")
    labels: Labels = Field(default={}, description="Labels by which a Prometheus picks it.")
    runbook_base_url: str = Field(
        default="docs/alerts.md",
        min_length=1,
        description="Where the runbooks are published; an anchor is added.",
    )
    disabled: list[str] = Field(default=[], description="Names of alerts that are left out.")


class Monitoring(Section):
    pod_monitor: Monitor = Field(default=Monitor(), description="PodMonitors.")
    rules: Rules = Field(default=Rules(), description="Alerts.")


class Values(Section):
    """Everything that the chart takes."""

    region: RegionName = Field(
        default="default",
        description="Name of this region, part of every identity: unique among regions that meet.",
    )
    trust_domain: TrustDomain = Field(default="prfaas.internal", description="Trust domain of identities.")
    watch_namespaces: list[Namespace] = Field(
        default=[],
        max_length=256,
        json_schema_extra={"uniqueItems": True},
        description="Namespaces with pools. Empty: all, by a ClusterRole; else a Role in each of them.",
    )
    name_override: Name = Field(default="", description="Replaces the chart's name in names.")
    fullname_override: Name = Field(default="", description="Replaces the whole name.")
    common_labels: Labels = Field(default={}, description="Labels of everything that the chart makes.")
    image: ImageRegistry = Field(default=ImageRegistry(), description="Images in common.")
    crds: Crds = Field(default=Crds(), description="Custom resource definitions.")
    rbac: Rbac = Field(default=Rbac(), description="Rights.")
    operator: Operator = Field(default=Operator(), description="The operator.")
    pools: PoolParts = Field(default=PoolParts(), description="What pools' pods get.")
    gateway: Gateway = Field(default=Gateway(), description="The gateways.")
    certificates: Certificates = Field(default=Certificates(), description="Who issues certificates.")
    federation: Federation = Field(default=Federation(), description="This cluster among others.")
    kv_proxy: KvProxy = Field(default=KvProxy(), description="The proxy for KV of other regions.")
    network_policy: NetworkPolicy = Field(default=NetworkPolicy(), description="Network policies.")
    monitoring: Monitoring = Field(default=Monitoring(), description="Prometheus.")
    global_: Free = Field(
        default={}, alias="global", description="Helm's own; the chart reads nothing from it."
    )
