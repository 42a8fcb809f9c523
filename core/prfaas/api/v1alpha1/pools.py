"""PrefillPool and DecodePool: engine instances that prefill for others, and engine instances that decode."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from prfaas.api.keys import API_VERSION, POOL_NAME_MAX_CHARACTERS, PoolKind
from prfaas.api.v1alpha1.common import (
    DNS_LABEL_PATTERN,
    ApiModel,
    LocalReference,
    ObjectMeta,
    Quantity,
)
from prfaas.api.v1alpha1.placement import REPLICAS_MAX, PoolPlacement
from prfaas.api.v1alpha1.pool_status import PoolStatus
from prfaas.api.v1alpha1.scaling import InstanceCost, ScalingBehaviour, ScalingTargets
from prfaas.api.v1alpha1.schema import Rule, immutable, rules
from prfaas.api.v1alpha1.workload import Workload


class EngineType(StrEnum):
    """Which inference engine the pods run."""

    VLLM = "VLLM"
    SGLANG = "SGLang"
    TENSORRT_LLM = "TensorRTLLM"


class SidecarUpgrade(StrEnum):
    """When a new version of the sidecar enters running pods."""

    ON_NEXT_ROLLOUT = "OnNextRollout"
    ROLLING = "Rolling"


class ScalingMode(StrEnum):
    """Who decides on the number of engine instances."""

    STATIC = "Static"
    EXTERNAL = "External"
    MANAGED = "Managed"


class Reach(StrEnum):
    """How KV gets from the pool's pods to those of other regions."""

    POD_IP = "PodIP"
    HOST_PORT = "HostPort"
    PASSTHROUGH = "Passthrough"


class PoolModel(ApiModel):
    """Which model the pool serves."""

    name: str = Field(
        min_length=1,
        max_length=256,
        description="Name that clients use for the model; pools of equal name serve the same clients. "
        "Immutable.",
        json_schema_extra=immutable("model.name", "make another pool and move the traffic to it"),
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Revision of the weights, to choose among profiles. What is loaded is up to the engine's "
        "own arguments, and what fits together to the fingerprint that engines report.",
    )
    profile_ref: LocalReference | None = Field(
        default=None, description="The ModelKVProfile with this model's measurements. Absent: none is used."
    )


class Engine(ApiModel):
    """The engine inside the workload."""

    type: EngineType = Field(
        description="Which engine the pods run. Only VLLM is served today; with another one Accepted becomes "
        "False. Immutable.",
        json_schema_extra=immutable("engine.type", "make another pool and move the traffic to it"),
    )
    container: str = Field(
        default="engine",
        min_length=1,
        max_length=63,
        pattern=DNS_LABEL_PATTERN,
        description="Name of the engine's container in the workload's template.",
    )
    port: int = Field(
        default=8000, ge=1, le=65535, description="TCP port of the engine's HTTP API in the pod."
    )
    extra_args: tuple[Annotated[str, Field(max_length=4096)], ...] = Field(
        default=(),
        max_length=128,
        description="Arguments added to the engine's command line, after the template's own and before those "
        "that prfaas sets (--port, --kv-transfer-config), which may not be given here.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class KV(ApiModel):
    """Memory for KV on its way."""

    arena: Quantity = Field(
        default="4Gi",
        description="Bytes of shared memory per pod for KV in transfer, as a quantity. In a prefill pod the "
        "engine's memory limit has to hold them too; in a decode pod the sidecar's limit is raised by them.",
        json_schema_extra=rules(
            Rule(
                rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0 && "
                "quantity(string(self)).compareTo(quantity('4Ti')) <= 0",
                message="kv.arena must be between 64Mi and 4Ti",
            )
        ),
    )


class Transport(ApiModel):
    """How KV travels."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="(self.reach == 'HostPort') == has(self.hostPort)",
                message="transport.hostPort is needed with transport.reach HostPort, and belongs to no other",
            )
        )
    )

    streams: int = Field(
        default=4, ge=1, le=64, description="TCP connections that a transfer to or from a pod is spread over."
    )
    reach: Reach = Field(
        default=Reach.POD_IP,
        description="How other regions reach the pool's sidecars; within the region it is always the pod's "
        "address. PodIP: pod networks are routed. HostPort: a port of the node, which needs the Pod Security "
        "level privileged. Passthrough: the region's proxy, by server name; TLS still ends in the sidecar.",
    )
    host_port: int | None = Field(
        default=None,
        ge=1024,
        le=65535,
        description="Port of the node with reach HostPort, from the range that the operator's configuration "
        "allows. One per pool: two pods of one pool never share a node then.",
    )


class ResourceAmounts(ApiModel):
    """What a container may use."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=16, description="Amounts that are reserved, by resource name (cpu in cores)."
    )
    limits: dict[str, Quantity] = Field(
        default={},
        max_length=16,
        description="Amounts that are not exceeded, by resource name (memory in bytes).",
    )


class Sidecar(ApiModel):
    """The sidecar that prfaas adds to each pod."""

    upgrade: SidecarUpgrade = Field(
        default=SidecarUpgrade.ON_NEXT_ROLLOUT,
        description="When a new version enters running pods. OnNextRollout: with the next change that the "
        "user makes to the pods. Rolling: at once, by replacing the pods one after another.",
    )
    resources: ResourceAmounts | None = Field(
        default=None,
        description="CPU and memory of the sidecar. Absent: chosen by prfaas, such that a Guaranteed pod "
        "stays so. In a decode pod the arena is added to the memory.",
    )


class Scaling(ApiModel):
    """Who decides on the number of engine instances, and between which bounds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.mode == 'Managed' || (!has(self.minReplicas) && !has(self.maxReplicas))",
                message="minReplicas and maxReplicas belong to mode Managed: a Static pool has "
                "spec.replicas, and with External the bounds are the autoscaler's own",
            ),
            Rule(
                rule="self.mode != 'Managed' || has(self.maxReplicas)",
                message="mode Managed needs maxReplicas",
            ),
            Rule(
                rule="!has(self.minReplicas) || !has(self.maxReplicas) || "
                "self.minReplicas <= self.maxReplicas",
                message="minReplicas must not exceed maxReplicas",
            ),
        )
    )

    mode: ScalingMode = Field(
        default=ScalingMode.STATIC,
        description="Static: spec.replicas is what the manifest says. External: an autoscaler writes it "
        "through /scale. Managed: prfaas writes it through /scale. In both the manifest leaves it out.",
    )
    min_replicas: int | None = Field(
        default=None, ge=0, le=REPLICAS_MAX, description="Fewest engine instances in mode Managed. Absent: 1."
    )
    max_replicas: int | None = Field(
        default=None, ge=1, le=REPLICAS_MAX, description="Most engine instances in mode Managed."
    )
    targets: ScalingTargets | None = Field(
        default=None,
        description="What the number is chosen for, in mode Managed. Absent: the defaults of its fields.",
    )
    behaviour: ScalingBehaviour | None = Field(
        default=None,
        description="How fast it follows the load, in mode Managed. Absent: the defaults of its fields.",
    )
    instance: InstanceCost | None = Field(
        default=None, description="What one instance costs, for mode Managed. Absent: not known."
    )


class Rollout(ApiModel):
    """How pods are replaced when their template changes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.maxUnavailable > 0 || self.maxSurge > 0",
                message="maxUnavailable and maxSurge must not both be 0: nothing could be replaced",
            )
        )
    )

    max_unavailable: int = Field(
        default=1,
        ge=0,
        le=REPLICAS_MAX,
        description="Engine instances that may be missing while pods are replaced.",
    )
    max_surge: int = Field(
        default=0,
        ge=0,
        le=REPLICAS_MAX,
        description="Engine instances that may be there in excess while pods are replaced, on spare "
        "accelerators.",
    )


class Drain(ApiModel):
    """How an engine instance ends."""

    timeout_seconds: int = Field(
        default=120,
        ge=0,
        le=3600,
        description="Longest time in seconds that an ending pod may take to finish its requests and "
        "transfers. The "
        "pod's grace period has to fit it. 0: no drain.",
    )


class PoolSpec(ApiModel):
    """What is wanted of a pool."""

    replicas: int = Field(
        default=1,
        ge=0,
        le=REPLICAS_MAX,
        description="Number of engine instances. Leave it out of the manifest unless scaling.mode is Static: "
        "an autoscaler or prfaas writes it through /scale.",
    )
    model: PoolModel = Field(description="Which model the pool serves.")
    engine: Engine = Field(description="The engine inside the workload.")
    workload: Workload = Field(description="How one engine instance runs: exactly one of the fields.")
    kv: KV = Field(default=KV(), description="Memory for KV on its way.")
    transport: Transport = Field(default=Transport(), description="How KV travels.")
    sidecar: Sidecar = Field(default=Sidecar(), description="The sidecar that prfaas adds to each pod.")
    scaling: Scaling = Field(default=Scaling(), description="Who decides on the number of engine instances.")
    rollout: Rollout = Field(
        default=Rollout(), description="How pods are replaced when their template changes."
    )
    drain: Drain = Field(default=Drain(), description="How an engine instance ends.")
    placement: PoolPlacement | None = Field(
        default=None,
        description="Which clusters run the pool. Absent: the one whose API server has this object.",
    )


POOL_NAME_RULES = rules(
    Rule(
        rule=f"size(self.metadata.name) <= {POOL_NAME_MAX_CHARACTERS}",
        message=f"a pool's name has at most {POOL_NAME_MAX_CHARACTERS} characters: names of Deployments, "
        "pods and Secrets begin with it",
    ),
    Rule(
        rule=f"self.metadata.name.matches('{DNS_LABEL_PATTERN}')",
        message="a pool's name has lowercase letters, digits and dashes only: it becomes a label and part of "
        "an identity",
    ),
)


class _Pool(ApiModel):
    model_config = ConfigDict(json_schema_extra=POOL_NAME_RULES)

    api_version: Literal["prfaas.io/v1alpha1"] = API_VERSION
    metadata: ObjectMeta
    spec: PoolSpec = Field(description="What is wanted of the pool.")
    status: PoolStatus = Field(default=PoolStatus(), description="What was seen of the pool.")


class PrefillPool(_Pool):
    """Engine instances that prefill prompts for others and send them the KV."""

    kind: Literal["PrefillPool"] = "PrefillPool"


class DecodePool(_Pool):
    """Engine instances that decode, and prefill themselves what is not worth sending away."""

    kind: Literal["DecodePool"] = "DecodePool"


Pool = PrefillPool | DecodePool
POOL_CLASSES: dict[PoolKind, type[PrefillPool] | type[DecodePool]] = {
    "PrefillPool": PrefillPool,
    "DecodePool": DecodePool,
}
