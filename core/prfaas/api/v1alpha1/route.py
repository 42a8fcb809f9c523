"""PrefillRoute: which prefill pools may prefill for a decode pool, and for which prompts."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from prfaas.api.keys import API_VERSION
from prfaas.api.v1alpha1.common import (
    OBJECT_NAME_MAX_CHARACTERS,
    TOKENS_MAX,
    ApiModel,
    LocalReference,
    ObjectMeta,
    ObjectName,
    ObjectStatus,
    Time,
)
from prfaas.api.v1alpha1.conditions import Conditions, ConditionStatus
from prfaas.api.v1alpha1.placement import RoutePlacement
from prfaas.api.v1alpha1.schema import Rule, merged_by, rules

PREFILL_POOLS_MAX = 16


class RouteMode(StrEnum):
    """What becomes of a request that is worth prefilling elsewhere."""

    OBSERVE = "Observe"
    CANARY = "Canary"
    ENFORCE = "Enforce"


class EffectiveMode(StrEnum):
    """What the gateways were told to do."""

    OBSERVE = "Observe"
    CANARY = "Canary"
    ENFORCE = "Enforce"
    LOCAL_ONLY = "LocalOnly"


class ThresholdMode(StrEnum):
    """Where the threshold comes from."""

    AUTO = "Auto"
    FIXED = "Fixed"


class PrefillPoolReference(ApiModel):
    """A prefill pool that may serve the route."""

    name: ObjectName = Field(description="Name of the PrefillPool, in the same namespace.")
    weight: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Share of the route's remote prefills, relative to the other pools; 0: none. Absent: 1.",
    )


class Canary(ApiModel):
    """How much goes remote in mode Canary."""

    percent: int = Field(
        ge=1,
        le=100,
        description="Percent of the requests worth it that are prefilled remotely, by request id.",
    )


class Threshold(ApiModel):
    """From which length on a prompt is prefilled remotely."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="(self.mode == 'Fixed') == has(self.tokens)",
                message="threshold.tokens is needed with threshold.mode Fixed, and belongs to no other",
            )
        )
    )

    mode: ThresholdMode = Field(
        default=ThresholdMode.AUTO,
        description="Auto: prfaas chooses, and shows it in status.effectiveThresholdTokens. Fixed: "
        "threshold.tokens.",
    )
    tokens: int | None = Field(
        default=None,
        ge=0,
        le=TOKENS_MAX,
        description="Prompts with more uncached tokens than this are prefilled remotely.",
    )


class RouteSlo(ApiModel):
    """What the route's requests are promised."""

    ttft_seconds: float = Field(
        gt=0,
        le=3600,
        description="Time to the first token, in seconds. When too many of the requests prefilled remotely "
        "take longer, and those prefilled locally do not, all stay local for a while.",
    )


class PrefillRouteSpec(ApiModel):
    """What is wanted of a route."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="(self.mode == 'Canary') == has(self.canary)",
                message="canary.percent is needed with mode Canary, and belongs to no other",
            )
        )
    )

    decode_pool_ref: LocalReference = Field(
        description="The DecodePool whose requests this route is about. A pool has one route; of several the "
        "oldest counts."
    )
    prefill_pool_refs: tuple[PrefillPoolReference, ...] = Field(
        min_length=1,
        max_length=PREFILL_POOLS_MAX,
        description="The PrefillPools that may prefill for it.",
        json_schema_extra=merged_by("name"),
    )
    mode: RouteMode = Field(
        default=RouteMode.OBSERVE,
        description="Observe: decide and count, but prefill locally. Canary: prefill a share remotely. "
        "Enforce: prefill remotely whatever is worth it.",
    )
    canary: Canary | None = Field(default=None, description="How much goes remote in mode Canary.")
    threshold: Threshold = Field(
        default=Threshold(), description="From which length on a prompt is prefilled remotely."
    )
    slo: RouteSlo | None = Field(
        default=None, description="What the route's requests are promised. Absent: nothing falls back."
    )
    placement: RoutePlacement | None = Field(
        default=None,
        description="In which clusters the route counts. Absent: wherever its decode pool runs.",
    )


class LocalOnlyStatus(ApiModel):
    """A switch to local prefill in force, set by `prfaas route`."""

    until: Time = Field(description="When it ends by itself.")


class PairStatus(ApiModel):
    """The route's decode pool with one of its prefill pools."""

    prefill_pool: str = Field(
        min_length=1, max_length=OBJECT_NAME_MAX_CHARACTERS, description="Name of the PrefillPool."
    )
    compatible: ConditionStatus = Field(
        default=ConditionStatus.UNKNOWN, description="Whether KV of one means the same to the other."
    )
    reason: str | None = Field(default=None, max_length=256, description="Why not, as one CamelCase word.")
    ready_prefill: int = Field(default=0, ge=0, description="Ready prefill engines that can serve this pair.")
    ready_decode: int = Field(default=0, ge=0, description="Ready decode engines that can serve this pair.")
    prefill_engines: int | None = Field(
        default=None, ge=0, description="Ready prefill engines of this cluster, whether they fit or not."
    )
    decode_engines: int | None = Field(
        default=None, ge=0, description="Ready decode engines of this cluster, whether they fit or not."
    )


class RoutePlanStatus(ApiModel):
    """The plan that the threshold of mode Auto comes from."""

    threshold_tokens: int = Field(ge=0, description="The threshold that was found, in uncached tokens.")
    remote_percent: float = Field(ge=0, le=100, description="Percent of the requests that are longer.")
    binds: str = Field(max_length=1024, description="What stands in the way of more, in words.")
    made_at: Time = Field(description="When it was made.")
    valid_until: Time = Field(description="Until when it holds without a new one.")
    stale_because: str | None = Field(
        default=None,
        max_length=1024,
        description="Why no new plan has replaced it; absent while it is fresh.",
    )


class RouteObservation(ApiModel):
    """What was counted of the last day's requests, at all gateways, and what the decisions are worth.

    Errors are half of a 95 % interval: how much requests scatter, and how far predictions have been off.
    """

    updated_at: Time = Field(description="When these numbers were written.")
    hours: float = Field(ge=0, description="How much time they cover, in hours.")
    requests: int = Field(ge=0, description="Requests that were counted.")
    remote_percent: float = Field(
        ge=0, le=100, description="Percent of them that are worth prefilling remotely."
    )
    saving_per_day: str | None = Field(
        default=None,
        max_length=64,
        description="Hours of prefill per day that the decode pool's engines are spared, with error.",
    )
    spent_per_day: str | None = Field(
        default=None,
        max_length=64,
        description="Hours of prefill per day that it costs elsewhere, with error.",
    )
    ttft_difference: str | None = Field(
        default=None,
        max_length=64,
        description="Predicted change of the mean time to the first token of those requests, with error; "
        "negative is sooner.",
    )
    measured_ttft_difference: str | None = Field(
        default=None,
        max_length=64,
        description="The same as measured: requests prefilled remotely against those that Canary held back, "
        "at equal length.",
    )
    measured_requests: int = Field(ge=0, default=0, description="Remote requests in that comparison.")
    late_percent: float | None = Field(
        default=None, ge=0, le=100, description="Percent of the remote requests that missed slo.ttftSeconds."
    )
    fallen_back_gateways: int = Field(
        default=0, ge=0, description="Gateways that keep all local now because the objective was missed."
    )


class PrefillRouteStatus(ObjectStatus):
    """What was seen of a route."""

    effective_threshold_tokens: int | None = Field(
        default=None, ge=0, description="The threshold in force, in uncached tokens."
    )
    effective_mode: EffectiveMode | None = Field(
        default=None, description="What the gateways were told to do."
    )
    local_only: LocalOnlyStatus | None = Field(
        default=None, description="A switch to local prefill in force, set by `prfaas route`."
    )
    plan: RoutePlanStatus | None = Field(
        default=None, description="The plan that the threshold of mode Auto comes from."
    )
    observed: RouteObservation | None = Field(
        default=None, description="What was counted, and what the decisions are worth."
    )
    pairs: tuple[PairStatus, ...] = Field(
        default=(),
        max_length=PREFILL_POOLS_MAX,
        description="The decode pool with each of the prefill pools.",
        json_schema_extra=merged_by("prefillPool"),
    )
    conditions: Conditions = ()


class PrefillRoute(ApiModel):
    """Which prefill pools may prefill for a decode pool, for which prompts, and how far that is on."""

    api_version: Literal["prfaas.io/v1alpha1"] = API_VERSION
    kind: Literal["PrefillRoute"] = "PrefillRoute"
    metadata: ObjectMeta
    spec: PrefillRouteSpec = Field(description="What is wanted of the route.")
    status: PrefillRouteStatus = Field(
        default=PrefillRouteStatus(), description="What was seen of the route."
    )
