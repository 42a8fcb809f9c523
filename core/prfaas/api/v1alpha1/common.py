"""What all kinds share: the base of every model, metadata, times, quantities, references."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_MAX_CHARACTERS = 253
# The largest length of prompt that any number here may speak of.
TOKENS_MAX = 100_000_000

# As metav1 writes them; negative amounts make no sense in this API.
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_QUANTITY_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


class ApiModel(BaseModel):
    """A value of the API: immutable, camelCase outside, tolerant of fields that a newer version has added."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    def to_api(self) -> dict[str, Any]:
        """As the API server takes it: camelCase, JSON values, fields without a value left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _whole_seconds(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


def _text_of_quantity(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# A moment as metav1.Time has it: UTC, whole seconds.
Time = Annotated[AwareDatetime, AfterValidator(_whole_seconds)]

# An amount such as 4Gi or 500m, kept as it was written.
Quantity = Annotated[
    str,
    BeforeValidator(_text_of_quantity),
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
        }
    ),
]

ObjectName = Annotated[str, Field(min_length=1, max_length=OBJECT_NAME_MAX_CHARACTERS)]


def quantity_value(quantity: str | int) -> Decimal:
    """The number that a quantity stands for: `4Gi` is 4294967296, `500m` is 0.5.

    Raises:
        ValueError: not a quantity, or one with an exponent, which this API does not take.
    """
    text = str(quantity)
    digits = text.rstrip("mkMGTPEKi")
    unit = text[len(digits) :]
    if unit not in _QUANTITY_UNITS or not digits.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is not a quantity such as 4Gi, 500m or 2")
    return Decimal(digits) * _QUANTITY_UNITS[unit]


def quantity_bytes(quantity: str | int) -> int:
    """A quantity as whole bytes, rounded up."""
    return int(quantity_value(quantity).to_integral_value(rounding="ROUND_CEILING"))


class ObjectMeta(ApiModel):
    """The part of an object's metadata that the project reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class LocalReference(ApiModel):
    """Another object of the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the same namespace.")


class ObjectStatus(ApiModel):
    """What every status begins with."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that this status was computed from."
    )
