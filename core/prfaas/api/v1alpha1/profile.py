"""ModelKVProfile: what was measured of a model: size of its KV, time to prefill, speed of decoding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from prfaas.api.keys import API_VERSION
from prfaas.api.v1alpha1.common import TOKENS_MAX, ApiModel, ObjectMeta
from prfaas.api.v1alpha1.schema import Rule, merged_by, rules

POINTS_MAX = 64
HARDWARE_MAX = 16
BATCHES_MAX = 64

Tokens = Annotated[int, Field(ge=1, le=TOKENS_MAX, description="Length of the prompt, in tokens.")]
Hardware = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        description="What it was measured on, as in the node label nvidia.com/gpu.product or an own word.",
    ),
]


class ProfiledModel(ApiModel):
    """Which model was measured."""

    name: str = Field(min_length=1, max_length=256, description="Name that clients use for the model.")
    revision: str | None = Field(
        default=None, min_length=1, max_length=256, description="Revision of the weights. Absent: any."
    )


class KVBytesPoint(ApiModel):
    """Size of the KV of one prompt."""

    # "bytes" is a type of Python.
    model_config = ConfigDict(alias_generator=lambda name: name.removeprefix("size_"))

    tokens: Tokens
    size_bytes: int = Field(
        ge=1,
        le=2**50,
        alias="bytes",
        description="Size of the prompt's KV over all layers and shards, in bytes.",
    )


class PrefillPoint(ApiModel):
    """Time that one prompt takes to prefill."""

    tokens: Tokens
    seconds: float = Field(
        gt=0, le=86_400, description="Time to prefill the prompt with nothing else running, in seconds."
    )


class PrefillTimes(ApiModel):
    """Times to prefill on one kind of hardware."""

    hardware: Hardware
    points: tuple[PrefillPoint, ...] = Field(
        min_length=1,
        max_length=POINTS_MAX,
        description="Times by length, shortest prompt first.",
        json_schema_extra=merged_by("tokens")
        | rules(
            Rule(
                rule="self.map(p, p.tokens).isSorted()", message="points must be sorted by tokens, ascending"
            ),
            Rule(
                rule="self.map(p, double(p.seconds)).isSorted()",
                message="a longer prompt cannot take fewer seconds than a shorter one",
            ),
        ),
    )


class DecodeSpeed(ApiModel):
    """Speed of decoding on one kind of hardware with one batch size."""

    hardware: Hardware
    batch: int = Field(ge=1, le=65_536, description="Requests that were decoded at the same time.")
    tokens_per_second: float = Field(
        gt=0, le=1e9, description="Tokens per second over all requests of the batch."
    )


class ModelKVProfileSpec(ApiModel):
    """What was measured."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="has(self.kvBytes) || has(self.prefill) || has(self.decode)",
                message="a profile needs at least one of kvBytes, prefill and decode",
            )
        )
    )

    model: ProfiledModel = Field(description="Which model was measured.")
    kv_bytes: tuple[KVBytesPoint, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=POINTS_MAX,
        description="Size of the KV by length of the prompt, shortest first.",
        json_schema_extra=merged_by("tokens")
        | rules(
            Rule(
                rule="self.map(p, p.tokens).isSorted()", message="kvBytes must be sorted by tokens, ascending"
            ),
            Rule(
                rule="self.map(p, p.bytes).isSorted()",
                message="a longer prompt cannot have fewer bytes than a shorter one",
            ),
        ),
    )
    prefill: tuple[PrefillTimes, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=HARDWARE_MAX,
        description="Times to prefill, per hardware.",
        json_schema_extra=merged_by("hardware"),
    )
    decode: tuple[DecodeSpeed, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=BATCHES_MAX,
        description="Speed of decoding, per hardware and batch size.",
        json_schema_extra=merged_by("hardware", "batch"),
    )


class ModelKVProfile(ApiModel):
    """What was measured of a model: size of its KV, time to prefill, speed of decoding."""

    api_version: Literal["prfaas.io/v1alpha1"] = API_VERSION
    kind: Literal["ModelKVProfile"] = "ModelKVProfile"
    metadata: ObjectMeta
    spec: ModelKVProfileSpec = Field(description="What was measured.")
