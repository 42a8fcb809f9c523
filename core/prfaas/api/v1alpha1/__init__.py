"""The kinds of prfaas.io/v1alpha1 as values. The CRDs are generated from here; changes are additive."""

from __future__ import annotations

from prfaas.api.v1alpha1.common import ApiModel, LocalReference, ObjectMeta, quantity_bytes, quantity_value
from prfaas.api.v1alpha1.conditions import Condition, ConditionStatus
from prfaas.api.v1alpha1.pool_status import (
    CapacityStatus,
    ChargedTo,
    HoldStatus,
    KVStatus,
    PoolStatus,
    RevisionStatus,
    ScalingDecision,
    ScalingStatus,
)
from prfaas.api.v1alpha1.pools import (
    POOL_CLASSES,
    DecodePool,
    Engine,
    EngineType,
    Pool,
    PoolSpec,
    PrefillPool,
    ResourceAmounts,
    Rollout,
    Scaling,
    ScalingMode,
    SidecarUpgrade,
)
from prfaas.api.v1alpha1.profile import ModelKVProfile, ModelKVProfileSpec
from prfaas.api.v1alpha1.route import (
    EffectiveMode,
    LocalOnlyStatus,
    PairStatus,
    PrefillRoute,
    PrefillRouteSpec,
    PrefillRouteStatus,
    RouteMode,
    ThresholdMode,
)
from prfaas.api.v1alpha1.workload import LeaderWorkerTemplate, PodTemplate, Workload

__all__ = [
    "POOL_CLASSES",
    "ApiModel",
    "CapacityStatus",
    "ChargedTo",
    "Condition",
    "ConditionStatus",
    "DecodePool",
    "EffectiveMode",
    "Engine",
    "EngineType",
    "HoldStatus",
    "KVStatus",
    "LeaderWorkerTemplate",
    "LocalOnlyStatus",
    "LocalReference",
    "ModelKVProfile",
    "ModelKVProfileSpec",
    "ObjectMeta",
    "PairStatus",
    "PodTemplate",
    "Pool",
    "PoolSpec",
    "PoolStatus",
    "PrefillPool",
    "PrefillRoute",
    "PrefillRouteSpec",
    "PrefillRouteStatus",
    "ResourceAmounts",
    "RevisionStatus",
    "Rollout",
    "RouteMode",
    "Scaling",
    "ScalingDecision",
    "ScalingMode",
    "ScalingStatus",
    "SidecarUpgrade",
    "ThresholdMode",
    "Workload",
    "quantity_bytes",
    "quantity_value",
]
