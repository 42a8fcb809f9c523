"""Scaling of a pool: what mode Managed keeps to, and what it has decided."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from prfaas.api.v1alpha1.common import ApiModel, Time

HISTORY_MAX = 10
INPUTS_MAX = 24
SENTENCES_MAX = 8
SENTENCE_MAX_CHARACTERS = 512
ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}

Seconds = Annotated[int, Field(ge=0, le=86_400)]
Sentence = Annotated[str, Field(min_length=1, max_length=SENTENCE_MAX_CHARACTERS)]


class ScalingTargets(ApiModel):
    """What the number of instances is chosen for, in mode Managed."""

    utilisation_percent: int = Field(
        default=75, ge=10, le=100, description="Percent of what an instance can do that is planned for."
    )
    queued_requests_per_instance: int = Field(
        default=2,
        ge=1,
        le=10_000,
        description="Waiting requests per ready instance above which the pool grows, whatever else is so.",
    )
    time_to_first_token_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="The objective: the planner plans for it as a mean for every length, and the times that "
        "the engines count are held against it. Absent: none.",
    )
    attainment_percent: int = Field(
        default=95,
        ge=50,
        le=100,
        description="Percent of the requests that have to keep to the objective; the pool grows when fewer "
        "do.",
    )


class ScalingBehaviour(ApiModel):
    """How fast the number of instances follows the load, in mode Managed."""

    grow_window_seconds: Seconds = Field(
        default=30,
        description="So long more has to be wanted before it is added. Waking from zero waits not.",
    )
    shrink_window_seconds: Seconds = Field(
        default=300, description="So long fewer have to be enough before any is taken away."
    )
    cool_down_seconds: Seconds = Field(
        default=60, description="After a change, so long none in the other direction."
    )
    idle_seconds: Seconds = Field(
        default=600, description="Without any request for so long, a pool with minReplicas 0 goes to zero."
    )
    convert_roles: bool = Field(
        default=True,
        description="Whether instances may be given to a pool of the other role in the same cluster "
        "(PrefillPool to DecodePool and back) that lacks them.",
    )


class InstanceCost(ApiModel):
    """What one instance costs, where no price signal says."""

    price_per_hour: float | None = Field(
        default=None, ge=0, le=1e6, description="In the currency of the operator's budget."
    )
    carbon_kilograms_per_hour: float | None = Field(
        default=None, ge=0, le=1e6, description="Kilograms of carbon dioxide."
    )
    hardware: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="What it runs on, as in the ModelKVProfile and in price signals.",
    )
    accelerators: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Accelerators of one instance. Absent: as the engine's resources say, else 1.",
    )


class ScalingInput(ApiModel):
    """A number that a decision was made from."""

    name: str = Field(min_length=1, max_length=63, description="What it is.")
    value: float = Field(description="The number.")
    unit: str | None = Field(default=None, max_length=32, description="Its unit. Absent: it has none.")


class ScalingDecision(ApiModel):
    """A change of the number of engine instances."""

    # "from" is a word of Python.
    model_config = ConfigDict(
        alias_generator=lambda name: {"from_replicas": "from", "to_replicas": "to"}.get(name, name)
    )

    time: Time = Field(description="When it was made.")
    from_replicas: int = Field(ge=0, description="Engine instances before.")
    to_replicas: int = Field(ge=0, description="Engine instances after.")
    reason: str = Field(min_length=1, max_length=256, description="Why, as one CamelCase word.")
    message: Sentence | None = Field(default=None, description="Why, for people.")
    inputs: tuple[ScalingInput, ...] | None = Field(
        default=None, max_length=INPUTS_MAX, description="What it was made from.", json_schema_extra=ATOMIC
    )


class ScalingExplanation(ApiModel):
    """Why the pool has its size, and what would change it; `prfaas explain` shows it. Renewed when the answer
    changes, and every five minutes while its numbers do.
    """

    time: Time = Field(description="When it was so.")
    desired: int = Field(ge=0, description="Engine instances that are asked for.")
    needed: int = Field(
        ge=0, description="Engine instances that the load needs, whatever stands in the way of them."
    )
    reason: str = Field(min_length=1, max_length=256, description="Why, as one CamelCase word.")
    message: Sentence | None = Field(default=None, description="Why, for people.")
    limited_by: str | None = Field(
        default=None, max_length=256, description="What keeps desired from needed, as one CamelCase word."
    )
    limit_message: Sentence | None = Field(default=None, description="The same for people.")
    inputs: tuple[ScalingInput, ...] | None = Field(
        default=None, max_length=INPUTS_MAX, description="What it was made from.", json_schema_extra=ATOMIC
    )
    would_change: tuple[Sentence, ...] | None = Field(
        default=None,
        max_length=SENTENCES_MAX,
        description="What would have to be different for another size.",
        json_schema_extra=ATOMIC,
    )
    offers: tuple[Sentence, ...] | None = Field(
        default=None,
        max_length=SENTENCES_MAX,
        description="Load that is offered to other pools and regions, as it cannot be served here.",
        json_schema_extra=ATOMIC,
    )
    notes: tuple[Sentence, ...] | None = Field(
        default=None,
        max_length=SENTENCES_MAX,
        description="What else the reader has to know.",
        json_schema_extra=ATOMIC,
    )


class ScalingStatus(ApiModel):
    """How the pool was scaled."""

    last_decision: ScalingDecision | None = Field(
        default=None, description="The last change of spec.replicas."
    )
    history: tuple[ScalingDecision, ...] | None = Field(
        default=None,
        max_length=HISTORY_MAX,
        description="The last changes, the latest first.",
        json_schema_extra=ATOMIC,
    )
    explanation: ScalingExplanation | None = Field(
        default=None, description="In mode Managed: why the pool has its size."
    )
