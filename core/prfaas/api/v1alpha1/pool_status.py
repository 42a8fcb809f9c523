"""What the operator has seen of a pool."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from prfaas.api.v1alpha1.common import ApiModel, ObjectStatus, Time
from prfaas.api.v1alpha1.conditions import Conditions, ConditionStatus
from prfaas.api.v1alpha1.placement import CLUSTERS_MAX, ClusterName
from prfaas.api.v1alpha1.scaling import ScalingStatus
from prfaas.api.v1alpha1.schema import merged_by


class ChargedTo(StrEnum):
    """Whose memory limit holds the arena."""

    ENGINE = "Engine"
    SIDECAR = "Sidecar"


class RevisionStatus(ApiModel):
    """One generation of the pool's pods."""

    name: str = Field(min_length=1, max_length=63, description="Hash of the revision, as in the label.")
    replicas: int = Field(default=0, ge=0, description="Engine instances of this revision that exist.")
    ready: int = Field(default=0, ge=0, description="How many of them are ready.")
    fingerprint: str | None = Field(
        default=None, max_length=128, description="Fingerprint of the KV that its engines report."
    )


class KVStatus(ApiModel):
    """KV of the current revision."""

    fingerprint: str | None = Field(
        default=None,
        max_length=128,
        description="Fingerprint that the engines report: KV moves only between equal ones.",
    )
    arena_bytes: int | None = Field(default=None, ge=0, description="Shared memory per pod for KV, in bytes.")
    charged_to: ChargedTo | None = Field(default=None, description="Whose memory limit holds the arena.")


class CapacityStatus(ApiModel):
    """Whether the cluster has room for the pool."""

    pending_replicas: int = Field(
        default=0, ge=0, description="Engine instances that wait for a node or a quota."
    )
    pending_since: Time | None = Field(default=None, description="Since when the oldest of them waits.")
    last_pending_to_ready_seconds: int | None = Field(
        default=None,
        ge=0,
        description="Seconds that the last instance took from its creation to being ready.",
    )
    median_pending_to_ready_seconds: int | None = Field(
        default=None, ge=0, description="Median of the recent ones, in seconds."
    )


class HoldStatus(ApiModel):
    """A hold in force, set by `prfaas hold`."""

    replicas: int = Field(ge=0, description="Engine instances that are held.")
    until: Time = Field(description="When the hold ends by itself.")


class PlacedStatus(ApiModel):
    """The pool in one of its clusters, as that cluster reports it."""

    name: ClusterName = Field(description="Name of the cluster.")
    region: str | None = Field(default=None, max_length=63, description="Region of the cluster.")
    desired_replicas: int = Field(default=0, ge=0, description="Engine instances that there should be.")
    ready_replicas: int = Field(default=0, ge=0, description="Engine instances that are ready.")
    ready: ConditionStatus = Field(default=ConditionStatus.UNKNOWN, description="Ready of the pool there.")
    reason: str | None = Field(default=None, max_length=256, description="Its reason, one CamelCase word.")
    message: str | None = Field(
        default=None, max_length=1024, description="Its message, when it is not ready."
    )
    stale: bool = Field(
        default=False,
        description="The cluster has not been heard of for 30 seconds: the rest is what it last said.",
    )


class PoolStatus(ObjectStatus):
    """What was seen of a pool."""

    replicas: int = Field(default=0, ge=0, description="Engine instances that exist, of all revisions.")
    ready_replicas: int = Field(default=0, ge=0, description="How many of them are ready.")
    updated_replicas: int = Field(default=0, ge=0, description="How many of them are of the newest revision.")
    desired_replicas: int = Field(default=0, ge=0, description="How many there should be, holds included.")
    selector: str | None = Field(
        default=None, max_length=1024, description="Label selector of the pods, one per engine instance."
    )
    current_revision: str | None = Field(
        default=None,
        max_length=63,
        description="Hash of the revision that serves; differs from updateRevision "
        "while pods are being replaced.",
    )
    update_revision: str | None = Field(
        default=None, max_length=63, description="Hash of the newest revision."
    )
    limited_by: str | None = Field(
        default=None,
        max_length=64,
        description="What keeps the pool from its number of instances, in one word.",
    )
    revisions: tuple[RevisionStatus, ...] = Field(
        default=(),
        max_length=32,
        description="The revisions that have pods.",
        json_schema_extra=merged_by("name"),
    )
    kv: KVStatus | None = Field(default=None, description="KV of the newest revision with ready engines.")
    capacity: CapacityStatus | None = Field(
        default=None, description="Whether the cluster has room for the pool."
    )
    hold: HoldStatus | None = Field(default=None, description="A hold in force, set by `prfaas hold`.")
    scaling: ScalingStatus | None = Field(default=None, description="How the pool was scaled.")
    clusters: tuple[PlacedStatus, ...] | None = Field(
        default=None,
        max_length=CLUSTERS_MAX,
        description="In the hub: the pool in each of its clusters.",
        json_schema_extra=merged_by("name"),
    )
    placed: str | None = Field(
        default=None,
        max_length=1024,
        description="In the hub: ready and wanted instances by cluster, on one line.",
    )
    conditions: Conditions = ()
