"""What was observed: the values that the runtime fills from its informers and the policies decide on.

`actions` has what comes out. An observed value holds only what a policy reads: a thousand pools stay small.
Times are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from prfaas.api.keys import PoolKind
from prfaas.api.v1alpha1 import PoolSpec, PoolStatus, PrefillRouteSpec, PrefillRouteStatus
from prfaas.pod_troubles import ContainerTrouble, PodTrouble
from prfaas_operator.planning.autoscale.verdict import ScalingVerdict
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.measured import NOTHING_MEASURED, RouteMeasured

NOWHERE = Geography("", "")
"""One cluster, and no other region."""

Manifest = dict[str, Any]
"""An object of the Kubernetes API as its JSON has it."""


@dataclass(frozen=True, slots=True, order=True)
class PoolKey:
    """Names one pool of this cluster."""

    kind: PoolKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class RouteKey:
    """Names one route of this cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"PrefillRoute {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """A stored object that this version cannot read: which field (`spec.model.name`), and what is wrong with
    it.
    """

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class FieldManager:
    """One entry of managedFields that owns `spec.replicas` of a pool. `subresource` is `scale` for writes
    through it.
    """

    manager: str
    operation: str
    subresource: str


class ChildKind(StrEnum):
    """Kinds of objects that belong to a pool."""

    DEPLOYMENT = "Deployment"
    SECRET = "Secret"  # noqa: S105  (the name of a kind)
    CONFIG_MAP = "ConfigMap"
    CERTIFICATE = "Certificate"
    BUDGET = "PodDisruptionBudget"


@dataclass(frozen=True, slots=True)
class ObservedChild:
    """A ConfigMap or a PodDisruptionBudget of the pool.

    Attributes:
        ours: its controller is this pool (by uid). One that is not ours is never touched.
        recorded_owned_fields: the annotation `prfaas.io/owned-fields`.
        actual_owned_fields: the same hash over what managedFields say now that `prfaas-operator` owns. A
            difference means that somebody took a field over.
        taken_over_by: who, as far as managedFields tell, or "".
        content: `data` of a ConfigMap, `spec` of a PodDisruptionBudget.
    """

    name: str
    uid: str
    resource_version: str
    ours: bool
    recorded_owned_fields: str
    actual_owned_fields: str
    content: Mapping[str, Any]
    taken_over_by: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs in the operator's stead: an issuer of cert-manager's, and for how long it is to sign."""

    name: str
    kind: str
    group: str
    valid_seconds: int


@dataclass(frozen=True, slots=True)
class ObservedRequest:
    """The pool's Certificate of cert-manager's.

    Attributes:
        ready: its condition Ready; None while it has none of this generation.
        message: cert-manager's words about that.
    """

    child: ObservedChild
    ready: bool | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ObservedCertificate:
    """The pool's Secret with its certificate, as far as it is public.

    Attributes:
        identity: the only URI SAN; empty when the Secret holds no readable certificate.
        authority_id: SHA-256 (hexadecimal) of the authority's certificate in `ca.crt`; compared with
            `ObservedPool.authority_id`.
    """

    name: str
    uid: str
    resource_version: str
    ours: bool
    identity: str
    not_before: datetime | None
    not_after: datetime | None
    authority_id: str


@dataclass(frozen=True, slots=True)
class ObservedDeployment:
    """One revision's Deployment.

    Attributes:
        revision: label `prfaas.io/revision` of the pods that it selects.
        replicas: `spec.replicas`.
        is_current: `status.observedGeneration` has reached `metadata.generation`.
        failure: message of the Deployment's condition ReplicaFailure (a quota or an admission rule said no),
            or "".
        injection: annotation `prfaas.io/injection`.
        taken_over_by: who owns fields now that the operator has set, as far as managedFields tell, or "".
    """

    name: str
    uid: str
    resource_version: str
    ours: bool
    revision: str
    replicas: int
    created_at: datetime
    is_current: bool
    deleted: bool
    failure: str
    recorded_owned_fields: str
    actual_owned_fields: str
    taken_over_by: str = ""
    injection: str = ""


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod that bears the labels of the pool.

    Attributes:
        phase: `status.phase`.
        ready: condition Ready is True.
        ready_changed_at: lastTransitionTime of the condition Ready.
        scheduled_at: lastTransitionTime of PodScheduled=True, None while it is not scheduled.
        node: `spec.nodeName`, or "".
        gates: names of `spec.schedulingGates`.
        pending_reason: reason of PodScheduled=False (`Unschedulable`, `SchedulingGated`), or "".
        pending_message: the scheduler's words.
        troubles: of its containers while it is not ready, the engine's first.
        trouble: of the pod as a whole; also of one that is ended or ends.
        restarts: of the engine's container.
        deletion_ends_at: `metadata.deletionTimestamp`, which is when the grace period ends; None: not being
            deleted.
        drain_since: annotation `prfaas.io/drain-since`, None when absent.
    """

    name: str
    uid: str
    revision: str
    created_at: datetime
    phase: str = "Pending"
    ready: bool = False
    ready_changed_at: datetime | None = None
    scheduled_at: datetime | None = None
    node: str = ""
    gates: tuple[str, ...] = ()
    pending_reason: str = ""
    pending_message: str = ""
    troubles: tuple[ContainerTrouble, ...] = ()
    trouble: PodTrouble | None = None
    restarts: int = 0
    deletion_ends_at: datetime | None = None
    drain_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What a pod's sidecar told on `/status`. Fields are None while the engine is not connected.

    Attributes:
        fingerprint_fields: the fields of the fingerprint by name, where the sidecar tells them.
    """

    engine_connected: bool
    fingerprint: str | None = None
    role: str | None = None
    block_tokens: int | None = None
    max_model_tokens: int | None = None
    served_models: tuple[str, ...] = ()
    arena_bytes: int | None = None
    fingerprint_fields: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An object that a pool's spec names. `references.wanted` lists them; the runtime looks each up.

    Attributes:
        kind: Secret, ConfigMap, PersistentVolumeClaim, ServiceAccount or ModelKVProfile.
        field: path of the first field in the pool that names it.
        writable: a PersistentVolumeClaim that is mounted for writing.
    """

    kind: str
    name: str
    field: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class FoundReference:
    """A reference that is there. `access_modes` are a PersistentVolumeClaim's."""

    kind: str
    name: str
    access_modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserBudget:
    """A PodDisruptionBudget of the namespace that is no child of a pool, with its `spec.selector` as
    stored.
    """

    name: str
    selector: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class PartnerPool:
    """A pool at the other end of a route, as far as a rollout in pairs and the list of peers need it.

    `partner.summarise` makes one from an `ObservedPool`.

    Attributes:
        identity: what its certificates say in the own region.
        regions: where it runs; empty: in the own cluster.
        remote_identities: what its certificates say in other regions.
        rolling: it has pods of an old revision.
        stalled: its rollout is stopped.
        desired: replicas that it is to have.
        new_ready: ready pods of its newest revision.
    """

    key: PoolKey
    identity: str
    rolling: bool
    stalled: bool
    desired: int
    new_ready: int
    regions: tuple[str, ...] = ()
    remote_identities: tuple[str, ...] = ()
    here: bool = True


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """A pool and all that belongs to it.

    Attributes:
        spec: the parsed spec, None when the stored one cannot be read; then `problems` says why.
        status: the status that was last written, so that only a change is an event.
        deleted: it has a deletionTimestamp.
        annotations: those of `prfaas.io/`.
        replicas_managers: who owns `spec.replicas` by managedFields.
        replicas_in_last_applied: the annotation of `kubectl apply` (last-applied-configuration) holds them.
        autoscalers: names of the HorizontalPodAutoscalers that target it.
        found: what `references.wanted` asked for and is there.
        authority_id: SHA-256 of the certificate of `prfaas-ca`; empty while there is none, and then nothing
            is issued.
        issuer: who signs instead of that authority; then `request` is what asks it to.
        reports: what the sidecars told, by pod name.
        partners: pools at the other ends of its routes.
        leftovers: kind and name of children of an earlier pool of the same name. The garbage collector takes
            them; until then nothing can be made under their names.
        scaling: what the autoscaler says of it; None: nothing yet, or it is not managed.
        repair_pauses: by kind and name of a child, for how many seconds it is not put back, because it was
            too often.
    """

    key: PoolKey
    uid: str
    generation: int
    resource_version: str
    created_at: datetime
    deleted: bool
    annotations: Mapping[str, str]
    spec: PoolSpec | None
    problems: tuple[SpecProblem, ...]
    status: PoolStatus
    replicas_managers: tuple[FieldManager, ...] = ()
    replicas_in_last_applied: bool = False
    autoscalers: tuple[str, ...] = ()
    deployments: tuple[ObservedDeployment, ...] = ()
    pods: tuple[ObservedPod, ...] = ()
    peers: ObservedChild | None = None
    budget: ObservedChild | None = None
    user_budgets: tuple[UserBudget, ...] = ()
    certificate: ObservedCertificate | None = None
    authority_id: str = ""
    issuer: Issuer | None = None
    request: ObservedRequest | None = None
    found: tuple[FoundReference, ...] = ()
    reports: Mapping[str, EngineReport] | None = None
    partners: tuple[PartnerPool, ...] = ()
    leftovers: tuple[str, ...] = ()
    geography: Geography = NOWHERE
    scaling: ScalingVerdict | None = None
    repair_pauses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObservedRoute:
    """A route, and the pools that it names as far as they exist.

    Attributes:
        pools: by key, only those that the route names; a missing key is a missing pool.
        decode_pool_taken_by: another route that names the same decode pool and is older (then by name), or
            None.
        measured: what gateways have counted, and the plan of its threshold.
        closed_links: why no new KV may come from a region, by region.
    """

    key: RouteKey
    uid: str
    generation: int
    resource_version: str
    created_at: datetime
    deleted: bool
    annotations: Mapping[str, str]
    spec: PrefillRouteSpec | None
    problems: tuple[SpecProblem, ...]
    status: PrefillRouteStatus
    pools: Mapping[PoolKey, RoutedPool]
    decode_pool_taken_by: RouteKey | None = None
    geography: Geography = NOWHERE
    measured: RouteMeasured = NOTHING_MEASURED
    closed_links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoutedPool:
    """What a route needs to know of a pool.

    Attributes:
        model: `spec.model.name`, None when the pool's spec cannot be read.
        ready_pods: ready pods that do not drain.
        fingerprints: fingerprint -> number of ready pods, of those whose engine told one.
        fingerprint_fields: fingerprint -> its fields, where a sidecar tells them.
        here: the own cluster runs it; others: the other regions that do; unknown: clusters of its placement
            that no Region has.
    """

    key: PoolKey
    model: str | None
    ready_pods: int
    fingerprints: Mapping[str, int]
    fingerprint_fields: Mapping[str, Mapping[str, str]] | None = None
    here: bool = True
    others: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
