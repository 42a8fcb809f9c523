"""In which clusters an object is carried out (docs/federation.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from prfaas.api.v1alpha1.common import DNS_LABEL_PATTERN, ApiModel
from prfaas.api.v1alpha1.schema import Rule, merged_by, rules

CLUSTERS_MAX = 64
REPLICAS_MAX = 10_000

ClusterName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL_PATTERN)]


class PoolPlace(ApiModel):
    """A cluster that runs the pool, and what differs there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="!has(self.minReplicas) || !has(self.maxReplicas) || "
                "self.minReplicas <= self.maxReplicas",
                message="minReplicas of a cluster must not exceed its maxReplicas",
            )
        )
    )

    name: ClusterName = Field(description="Name of the cluster, as its operator's configuration has it.")
    replicas: int | None = Field(
        default=None, ge=0, le=REPLICAS_MAX, description="In place of spec.replicas, in mode Static."
    )
    min_replicas: int | None = Field(
        default=None, ge=0, le=REPLICAS_MAX, description="In place of scaling.minReplicas, in mode Managed."
    )
    max_replicas: int | None = Field(
        default=None, ge=1, le=REPLICAS_MAX, description="In place of scaling.maxReplicas, in mode Managed."
    )


class PoolPlacement(ApiModel):
    """Which clusters run the pool. Elsewhere the object is only something that routes may name."""

    clusters: tuple[PoolPlace, ...] = Field(
        min_length=1,
        max_length=CLUSTERS_MAX,
        description="The clusters, each with what differs there. All numbers are per cluster.",
        json_schema_extra=merged_by("name"),
    )


class RoutePlace(ApiModel):
    """A cluster in which the route counts."""

    name: ClusterName = Field(description="Name of the cluster, as its operator's configuration has it.")


class RoutePlacement(ApiModel):
    """In which clusters the route counts."""

    clusters: tuple[RoutePlace, ...] = Field(
        min_length=1,
        max_length=CLUSTERS_MAX,
        description="The clusters in which the route counts.",
        json_schema_extra=merged_by("name"),
    )
