"""The user's own pods: a pod template, or a group of pods per engine instance."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, WithJsonSchema

from prfaas.api.v1alpha1.common import ApiModel
from prfaas.api.v1alpha1.schema import Rule, rules

CONTAINERS_MAX = 64

# The API server's own schema of a pod would make each CRD larger than a client-side apply can carry.
# Children are tried by a dry run before anything changes, so a mistake in here becomes a condition.
PodSpec = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "required": ["containers"],
            "properties": {
                "containers": {
                    "description": "The pod's containers; one of them is the engine (spec.engine.container).",
                    "type": "array",
                    "minItems": 1,
                    "maxItems": CONTAINERS_MAX,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                        "required": ["name"],
                        "properties": {
                            "name": {
                                "description": "Name of the container, unique in the pod.",
                                "type": "string",
                                "minLength": 1,
                                "maxLength": 63,
                            }
                        },
                    },
                }
            },
        }
    ),
]


class PodTemplateMetadata(ApiModel):
    """Labels and annotations of the pods."""

    labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default={},
        max_length=64,
        description="Labels of the pods, beside those that prfaas sets (prfaas.io/…).",
    )
    annotations: dict[str, Annotated[str, Field(max_length=65536)]] = Field(
        default={}, max_length=64, description="Annotations of the pods."
    )


class PodTemplate(ApiModel):
    """A pod template as a Deployment has it."""

    metadata: PodTemplateMetadata = Field(
        default=PodTemplateMetadata(), description="Labels and annotations of the pods."
    )
    spec: PodSpec = Field(
        description="The pod, as in a Deployment: the engine's image, resources, node selection, volumes. "
        "prfaas adds its sidecar, volumes, arguments, probes and drain, and changes nothing that is set here."
    )


class LeaderWorkerTemplate(ApiModel):
    """An engine instance that spans several pods, as LeaderWorkerSet has it."""

    size: int = Field(ge=1, le=64, description="Pods per engine instance, leader included.")
    leader_template: PodTemplate | None = Field(
        default=None, description="The leader's pod; absent: the workers' template serves for it too."
    )
    worker_template: PodTemplate = Field(description="The workers' pods.")


class Workload(ApiModel):
    """How one engine instance runs: exactly one of the fields."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="has(self.template) != has(self.leaderWorkerTemplate)",
                message="workload needs exactly one of template and leaderWorkerTemplate",
            )
        )
    )

    template: PodTemplate | None = Field(
        default=None, description="An engine instance is one pod of this template."
    )
    leader_worker_template: LeaderWorkerTemplate | None = Field(
        default=None,
        description="An engine instance is a group of pods. Not implemented yet: Accepted becomes False.",
    )
