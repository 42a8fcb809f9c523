"""Region: a member of the federation; in the hub also its report, elsewhere how it is seen from there."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from prfaas.api.keys import API_VERSION
from prfaas.api.v1alpha1.common import (
    DNS_LABEL_PATTERN,
    OBJECT_NAME_MAX_CHARACTERS,
    ApiModel,
    ObjectMeta,
    ObjectStatus,
    Time,
)
from prfaas.api.v1alpha1.conditions import Conditions, ConditionStatus
from prfaas.api.v1alpha1.placement import CLUSTERS_MAX, ClusterName
from prfaas.api.v1alpha1.schema import Rule, merged_by, rules

REPORTED_POOLS_MAX = 256
MESSAGE_MAX_CHARACTERS = 1024


class Peer(ApiModel):
    """Where the region's gateways listen for those of other regions."""

    address: str = Field(
        min_length=3,
        max_length=261,
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?):[0-9]{1,5}$",
        description="host:port, an IPv6 host in brackets.",
    )


class RegionSpec(ApiModel):
    """What is told about the region. All of it is public."""

    clusters: tuple[ClusterName, ...] = Field(
        default=(),
        max_length=CLUSTERS_MAX,
        description="Names of the region's clusters. Empty: one, of the region's own name.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    peer: Peer | None = Field(
        default=None,
        description="Where the region's gateways listen for those of other regions. Absent: nowhere, so "
        "others cannot prefill there.",
    )
    trust_bundle: str | None = Field(
        default=None,
        max_length=32_768,
        description="Certificates of the authorities that speak for the region, PEM, one to eight (two while "
        "an authority is replaced). Absent: nobody there is believed.",
        json_schema_extra=rules(
            Rule(
                rule="self.contains('-----BEGIN CERTIFICATE-----')",
                message="trustBundle must hold certificates in PEM",
            ),
            Rule(
                rule="!self.contains('PRIVATE KEY')",
                message="trustBundle must not hold a private key: an authority's key never leaves its region",
            ),
        ),
    )
    jurisdiction: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="Whose law holds there, for residency: an own word.",
    )
    labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default={}, max_length=32, description="Own words about the region, for people and selectors."
    )


class ReportedPool(ApiModel):
    """A pool as its cluster sees it."""

    kind: Literal["PrefillPool", "DecodePool"] = Field(description="PrefillPool or DecodePool.")
    namespace: str = Field(min_length=1, max_length=63, description="Namespace of the pool.")
    name: str = Field(min_length=1, max_length=OBJECT_NAME_MAX_CHARACTERS, description="Name of the pool.")
    hub_generation: int | None = Field(
        default=None,
        ge=0,
        description="The hub's metadata.generation that was mirrored. Absent: not mirrored.",
    )
    desired_replicas: int = Field(default=0, ge=0, description="Engine instances that there should be.")
    ready_replicas: int = Field(default=0, ge=0, description="Engine instances that are ready.")
    pending_replicas: int = Field(
        default=0, ge=0, description="Engine instances that wait for a node or a quota."
    )
    queued_requests: int | None = Field(
        default=None, ge=0, description="Requests that wait for an engine. Absent: not known."
    )
    ready: ConditionStatus = Field(default=ConditionStatus.UNKNOWN, description="The pool's Ready.")
    reason: str | None = Field(default=None, max_length=256, description="Its reason, one CamelCase word.")
    message: str | None = Field(
        default=None, max_length=MESSAGE_MAX_CHARACTERS, description="Its message, when it is not ready."
    )


class ClusterReport(ApiModel):
    """What one cluster of the region says of itself; written by its operator alone."""

    name: ClusterName = Field(description="Name of the cluster.")
    version: str | None = Field(default=None, max_length=63, description="Version of its operator.")
    hub_uid: str | None = Field(
        default=None,
        max_length=63,
        description="UID of kube-system of the hub that the cluster takes for its own.",
    )
    frozen: bool | None = Field(
        default=None, description="The mirror changes nothing until somebody accepts the deletes."
    )
    pools: tuple[ReportedPool, ...] = Field(
        default=(),
        max_length=REPORTED_POOLS_MAX,
        description="Its pools, those in trouble first.",
        json_schema_extra=merged_by("kind", "namespace", "name"),
    )
    omitted_pools: int = Field(default=0, ge=0, description="Pools that did not fit into the report.")


class HopName(StrEnum):
    """The steps from here to the gateways of a region."""

    DNS = "DNS"
    TCP = "TCP"
    TLS = "TLS"
    IDENTITY = "Identity"
    AUTHORISATION = "Authorisation"
    CLOCK = "Clock"


class Hop(ApiModel):
    """One step on the way to the region's gateways."""

    name: HopName = Field(description="Which step.")
    ok: bool = Field(description="Whether it works.")
    message: str | None = Field(
        default=None, max_length=MESSAGE_MAX_CHARACTERS, description="What was seen, and what to do."
    )


class SeenFromHere(ApiModel):
    """How the region is seen from the cluster that has this object."""

    hops: tuple[Hop, ...] = Field(
        default=(),
        max_length=16,
        description="The steps to the region's gateways, as far as they were tried.",
        json_schema_extra=merged_by("name"),
    )
    since: Time | None = Field(default=None, description="Since when it has been so.")


class RegionStatus(ObjectStatus):
    """In the hub the region's report; in every cluster how the region is seen from there."""

    clusters: tuple[ClusterReport, ...] = Field(
        default=(),
        max_length=CLUSTERS_MAX,
        description="In the hub: what the region's clusters say of themselves.",
        json_schema_extra=merged_by("name"),
    )
    seen: SeenFromHere | None = Field(default=None, description="How the region is seen from this cluster.")
    conditions: Conditions = ()


class Region(ApiModel):
    """A member of the federation: where its gateways are, whom to believe there, and what is known of it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="size(self.metadata.name) <= 63",
                message="a region's name has at most 63 characters: it is part of identities",
            ),
            Rule(
                rule=f"self.metadata.name.matches('{DNS_LABEL_PATTERN}')",
                message="a region's name has lowercase letters, digits and dashes only: it becomes part of "
                "identities and server names",
            ),
        )
    )

    api_version: Literal["prfaas.io/v1alpha1"] = API_VERSION
    kind: Literal["Region"] = "Region"
    metadata: ObjectMeta
    spec: RegionSpec = Field(description="What is told about the region. All of it is public.")
    status: RegionStatus = Field(default=RegionStatus(), description="What was seen of the region.")

    @property
    def cluster_names(self) -> tuple[str, ...]:
        """Names of the region's clusters."""
        return self.spec.clusters or (self.metadata.name,)
