"""Overrides that people set for a while by an annotation: a hold on a pool, local-only on a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prfaas.api.keys import ANNOTATION_HOLD, ANNOTATION_LOCAL_ONLY
from prfaas.api.v1alpha1.placement import REPLICAS_MAX


class LocalOnly(BaseModel):
    """Annotation `prfaas.io/local-only` of a route."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    until: AwareDatetime
    reason: str = ""


class Hold(LocalOnly):
    """Annotation `prfaas.io/hold` of a pool."""

    replicas: int = Field(ge=0, le=REPLICAS_MAX)


Override = TypeVar("Override", bound=LocalOnly)


@dataclass(frozen=True, slots=True)
class BadOverride:
    """An annotation that cannot be read. It is as if it were not there."""

    annotation: str
    message: str


def hold_of(annotations: Mapping[str, str], now: datetime) -> Hold | BadOverride | None:
    """The hold in force, None when there is none or it has ended."""
    return _read(Hold, annotations, ANNOTATION_HOLD, now)


def local_only_of(annotations: Mapping[str, str], now: datetime) -> LocalOnly | BadOverride | None:
    """The switch to local prefill in force, None when there is none or it has ended."""
    return _read(LocalOnly, annotations, ANNOTATION_LOCAL_ONLY, now)


def _read(
    model: type[Override], annotations: Mapping[str, str], key: str, now: datetime
) -> Override | BadOverride | None:
    text = annotations.get(key)
    if text is None:
        return None
    try:
        override = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = f"{field}: {first['msg']}" if field else first["msg"]
        return BadOverride(key, f"annotation {key}: {what}; set it by the prfaas command, or remove it")
    return override if override.until > now else None
