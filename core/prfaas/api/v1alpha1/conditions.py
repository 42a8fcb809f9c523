"""The shape of a condition, as metav1.Condition has it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from prfaas.api.v1alpha1.common import ApiModel, Time
from prfaas.api.v1alpha1.schema import merged_by

MESSAGE_MAX_CHARACTERS = 4096


class ConditionStatus(StrEnum):
    """Whether it is so."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One thing that is so, is not so, or is not known."""

    type: str = Field(
        min_length=1, max_length=316, description="What the condition is about. The list is in docs/api.md."
    )
    status: ConditionStatus = Field(description="Whether it is so.")
    observed_generation: int = Field(
        default=0, ge=0, description="The metadata.generation that the condition was computed from."
    )
    last_transition_time: Time = Field(description="When status last changed.")
    reason: str = Field(
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, as one CamelCase word for programs. The list is in docs/api.md.",
    )
    message: str = Field(max_length=MESSAGE_MAX_CHARACTERS, description="Why, and what to do, for people.")


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        default=(),
        max_length=16,
        description="What is so and what is not, each with its reason.",
        json_schema_extra=merged_by("type"),
    ),
]
