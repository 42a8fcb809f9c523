"""Conditions as API: their types, their reasons, how one changes, and how they sum up for kstatus.

Pure: the time is a parameter. Every type and reason here is part of the interface and is documented in
docs/api.md; reasons are added, never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from prfaas.api.v1alpha1.conditions import MESSAGE_MAX_CHARACTERS, Condition, ConditionStatus


class ConditionType(StrEnum):
    """What a condition is about."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    WORKLOADS_AVAILABLE = "WorkloadsAvailable"
    KV_COMPATIBLE = "KVCompatible"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    PROFILE_FITS = "ProfileFits"
    CERTIFICATE_READY = "CertificateReady"
    REACHABLE = "Reachable"
    TRUST_BUNDLE_VALID = "TrustBundleValid"
    REPORT_FRESH = "ReportFresh"
    HUB_REACHABLE = "HubReachable"
    MIRROR_READY = "MirrorReady"
    TOKEN_VALID = "TokenValid"  # noqa: S105  (a type of condition)
    HEALTHY = "Healthy"
    CONGESTED = "Congested"
    DOWN = "Down"


TYPE_TEXTS: Final = {
    ConditionType.READY: "The object does what it is for. A pool that serves its own clients is ready, "
    "whatever happens to other pools, links and regions.",
    ConditionType.RECONCILING: "The operator is bringing about what is wanted, and expects to get there.",
    ConditionType.STALLED: "It will not get there until somebody changes something.",
    ConditionType.ACCEPTED: "The object makes sense to the operator, and was carried out.",
    ConditionType.RESOLVED_REFS: "All objects that this one names exist.",
    ConditionType.WORKLOADS_AVAILABLE: "The pool's engine instances are there and ready.",
    ConditionType.KV_COMPATIBLE: "KV of the engines concerned means the same to all of them.",
    ConditionType.SCALING_ACTIVE: "Whoever is to decide on the number of engine instances can do so.",
    ConditionType.SCALING_LIMITED: "Something keeps the number of engine instances from what is wanted.",
    ConditionType.PROFILE_FITS: "What is measured of the engines is what the pool's ModelKVProfile says.",
    ConditionType.CERTIFICATE_READY: "With an issuer of cert-manager's: the pool's certificate is issued, "
    "and is what sidecars need.",
    ConditionType.REACHABLE: "Gateways of this cluster can use the region's gateways.",
    ConditionType.TRUST_BUNDLE_VALID: "The region's trustBundle can be read, and its authorities are valid.",
    ConditionType.REPORT_FRESH: "In the hub: each cluster of the region has renewed its Lease lately.",
    ConditionType.HUB_REACHABLE: "On the own region: the hub answers to this cluster's operator.",
    ConditionType.MIRROR_READY: "On the own region: what the hub wants of this cluster is here.",
    ConditionType.TOKEN_VALID: "On the own region: the token for the hub is taken, and not about to end.",
    ConditionType.HEALTHY: "KV gets through the link as it should.",
    ConditionType.CONGESTED: "The link carries as much as it can or may.",
    ConditionType.DOWN: "No KV gets through the link.",
}


class Reason(StrEnum):
    """Why a condition is as it is."""

    # Accepted
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    ENGINE_NOT_SUPPORTED = "EngineNotSupported"
    NOT_IMPLEMENTED = "NotImplemented"
    ENGINE_CONTAINER_MISSING = "EngineContainerMissing"
    FIELD_CONFLICT = "FieldConflict"
    GRACE_PERIOD_TOO_SHORT = "GracePeriodTooShort"
    MEMORY_LIMIT_TOO_SMALL = "MemoryLimitTooSmall"
    TEMPLATE_REJECTED = "TemplateRejected"
    OPERATOR_FORBIDDEN = "OperatorForbidden"
    CHILD_NOT_OWNED = "ChildNotOwned"
    MODEL_MISMATCH = "ModelMismatch"
    ROUTE_CONFLICT = "RouteConflict"
    ANNOTATION_INVALID = "AnnotationInvalid"

    # ResolvedRefs
    RESOLVED = "Resolved"
    PROFILE_NOT_FOUND = "ProfileNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105  (a reason)
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    VOLUME_CLAIM_NOT_FOUND = "VolumeClaimNotFound"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    VOLUME_NOT_SHAREABLE = "VolumeNotShareable"
    DECODE_POOL_NOT_FOUND = "DecodePoolNotFound"
    PREFILL_POOL_NOT_FOUND = "PrefillPoolNotFound"

    # WorkloadsAvailable
    AVAILABLE = "Available"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    NOT_ENOUGH_READY = "NotEnoughReady"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CRASH_LOOPING = "CrashLooping"
    CONTAINER_CONFIG_FAILED = "ContainerConfigFailed"
    OOM_KILLED = "OOMKilled"
    RESTARTING = "Restarting"
    SIDECAR_NOT_READY = "SidecarNotReady"
    PODS_REJECTED = "PodsRejected"
    POD_NOT_PREPARED = "PodNotPrepared"
    READINESS_GATE_CLOSED = "ReadinessGateClosed"
    NODE_NOT_ANSWERING = "NodeNotAnswering"
    PODS_LOST = "PodsLost"

    # KVCompatible
    FINGERPRINTS_AGREE = "FingerprintsAgree"
    FINGERPRINT_MISMATCH = "FingerprintMismatch"
    FINGERPRINT_UNKNOWN = "FingerprintUnknown"

    # ScalingActive
    STATIC = "Static"
    EXTERNAL = "External"
    MANAGED = "Managed"
    HELD = "Held"
    REPLICAS_OWNED_BY_MANIFEST = "ReplicasOwnedByManifest"
    AUTOSCALER_ON_MANAGED_POOL = "AutoscalerOnManagedPool"
    LOAD_UNKNOWN = "LoadUnknown"

    # ScalingLimited
    NOT_LIMITED = "NotLimited"
    NO_CAPACITY = "NoCapacity"
    QUOTA_PENDING = "QuotaPending"
    TOO_MANY_REPLICAS = "TooManyReplicas"
    TOO_FEW_REPLICAS = "TooFewReplicas"
    LINK_SATURATED = "LinkSaturated"
    LINK_DOWN = "LinkDown"
    LINK_BUDGET_SPENT = "LinkBudgetSpent"
    LINK_UNKNOWN = "LinkUnknown"
    QUOTA_EXHAUSTED = "QuotaExhausted"
    BUDGET_EXHAUSTED = "BudgetExhausted"

    # ProfileFits
    PROFILE_FITS = "ProfileFits"
    PROFILE_DRIFTS = "ProfileDrifts"
    PROFILE_UNMEASURED = "ProfileUnmeasured"

    # Ready of a route
    ENFORCING = "Enforcing"
    CANARY = "Canary"
    OBSERVING = "Observing"
    LOCAL_ONLY = "LocalOnly"
    NO_READY_PAIR = "NoReadyPair"

    # of a pool that other clusters run
    PLACED_ELSEWHERE = "PlacedElsewhere"
    UNKNOWN_CLUSTER = "UnknownCluster"
    HOST_PORT_NOT_ALLOWED = "HostPortNotAllowed"
    KV_PROXY_MISSING = "KVProxyMissing"

    # of a region
    OWN_REGION = "OwnRegion"
    REACHED = "Reached"
    NO_PEER_ADDRESS = "NoPeerAddress"
    CLUSTERS_SHARE_ADDRESS = "ClustersShareAddress"
    NAME_NOT_RESOLVED = "NameNotResolved"
    CONNECTION_FAILED = "ConnectionFailed"
    TLS_FAILED = "TLSFailed"
    WRONG_IDENTITY = "WrongIdentity"
    NOT_AUTHORISED = "NotAuthorised"
    CLOCKS_DIFFER = "ClocksDiffer"
    SILENT = "Silent"
    NOT_LOOKED_YET = "NotLookedYet"
    BUNDLE_VALID = "BundleValid"
    BUNDLE_MISSING = "BundleMissing"
    BUNDLE_UNREADABLE = "BundleUnreadable"
    AUTHORITY_EXPIRED = "AuthorityExpired"
    AUTHORITY_NOT_IN_BUNDLE = "AuthorityNotInBundle"
    ROTATING = "Rotating"
    REPORTED = "Reported"
    LEASE_STALE = "LeaseStale"
    NEVER_REPORTED = "NeverReported"
    HUB_ANSWERS = "HubAnswers"
    HUB_SILENT = "HubSilent"
    HUB_REFUSES = "HubRefuses"
    NO_HUB = "NoHub"
    MIRRORED = "Mirrored"
    MIRRORING = "Mirroring"
    NAME_CLASH = "NameClash"
    MIRROR_REFUSED = "MirrorRefused"
    FROZEN = "Frozen"
    TOKEN_TAKEN = "TokenTaken"  # noqa: S105  (a reason)
    TOKEN_ENDS_SOON = "TokenEndsSoon"  # noqa: S105  (a reason)
    TOKEN_REFUSED = "TokenRefused"  # noqa: S105  (a reason)

    # of a link
    MEASURED = "Measured"
    IDLE = "Idle"
    SLOW = "Slow"
    LOSSY = "Lossy"
    SATURATED = "Saturated"
    NOT_SATURATED = "NotSaturated"
    BUDGET_SPENT = "BudgetSpent"
    BUDGET_UNKNOWN = "BudgetUnknown"
    TRANSFERS_FAIL = "TransfersFail"
    CARRIES = "Carries"

    # Ready, Reconciling and Stalled of all
    SERVING = "Serving"
    NOT_OBSERVED = "NotObserved"
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    DRAINING = "Draining"
    WAITING_FOR_PODS = "WaitingForPods"
    RETRYING = "Retrying"
    SETTLED = "Settled"
    NOT_STALLED = "NotStalled"
    CHILD_CONTESTED = "ChildContested"
    CERT_MANAGER_MISSING = "CertManagerMissing"

    # CertificateReady
    CERTIFICATE_ISSUED = "CertificateIssued"
    CERTIFICATE_PENDING = "CertificatePending"
    CERTIFICATE_WRONG = "CertificateWrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition as it was found, before it is compared with the stored one."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str


class Kstatus(StrEnum):
    """What kstatus (Flux, `kubectl wait`, GitOps tools) makes of an object."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.type == type_), None)


def set_condition(
    conditions: Sequence[Condition], finding: Finding, *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions with one of them as found. The transition time moves only with the status.

    Order stays, and a new type comes last, so that an unchanged finding gives an equal list.
    """
    before = find(conditions, finding.type)
    unmoved = before is not None and before.status == finding.status
    after = Condition(
        type=finding.type,
        status=finding.status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before is not None and unmoved else now,
        reason=finding.reason,
        message=finding.message[:MESSAGE_MAX_CHARACTERS],
    )
    if before is None:
        return (*conditions, after)
    return tuple(after if condition.type == finding.type else condition for condition in conditions)


def set_conditions(
    conditions: Sequence[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions after all findings, without those that were not found this time."""
    after = tuple(conditions)
    found: set[str] = set()
    for finding in findings:
        after = set_condition(after, finding, generation=generation, now=now)
        found.add(finding.type)
    return tuple(condition for condition in after if condition.type in found)


def kstatus(conditions: Sequence[Condition], *, observed_generation: int | None, generation: int) -> Kstatus:
    """How kstatus reads them: Stalled fails; Reconciling or a stale status is progress; then Ready."""
    if observed_generation != generation:
        return Kstatus.IN_PROGRESS
    if _is_true(conditions, ConditionType.STALLED):
        return Kstatus.FAILED
    if _is_true(conditions, ConditionType.RECONCILING):
        return Kstatus.IN_PROGRESS
    return Kstatus.CURRENT if _is_true(conditions, ConditionType.READY) else Kstatus.IN_PROGRESS


def _is_true(conditions: Sequence[Condition], type_: ConditionType) -> bool:
    condition = find(conditions, type_)
    return condition is not None and condition.status == ConditionStatus.TRUE
