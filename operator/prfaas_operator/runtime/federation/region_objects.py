"""Regions as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from prfaas.api import keys
from prfaas.api.v1alpha1 import RegionSpec, RegionStatus
from prfaas.kube.resources import Object
from prfaas_operator.federation.values import ObjectKey


@dataclass(frozen=True, slots=True)
class RegionObject:
    """A Region. What another version wrote and this one cannot read is empty."""

    name: str
    uid: str
    generation: int
    spec: RegionSpec
    status: RegionStatus

    @property
    def clusters(self) -> tuple[str, ...]:
        return self.spec.clusters or (self.name,)


def region_object(body: Object) -> RegionObject:
    about = body["metadata"]
    try:
        spec = RegionSpec.model_validate(body.get("spec") or {})
    except ValidationError:
        spec = RegionSpec()
    try:
        status = RegionStatus.model_validate(body.get("status") or {})
    except ValidationError:
        status = RegionStatus()
    return RegionObject(about["name"], about["uid"], int(about.get("generation") or 0), spec, status)


def region_key(name: str) -> ObjectKey:
    return ObjectKey(keys.REGION, "", name)
