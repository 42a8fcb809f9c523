"""What of a ModelKVProfile gateways are told and thresholds are planned with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prfaas.api.v1alpha1 import ModelKVProfileSpec
from prfaas.capacity import KVSize
from prfaas.capacity.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class ProfilePoints:
    """Prefill times in tokens and seconds, sizes of KV in tokens and bytes."""

    prefill: tuple[tuple[int, float], ...] = ()
    kv: tuple[tuple[int, int], ...] = ()

    @property
    def kv_size(self) -> KVSize | None:
        """The sizes as the planner takes them. A profile does not tell recurrent state apart."""
        try:
            return KVSize.from_points(self.kv) if self.kv else None
        except InvalidInputError:
            return None


NO_POINTS = ProfilePoints()


def profile_name(stored_spec: Mapping[str, Any]) -> str | None:
    """Of the profile that a pool's stored spec refers to."""
    model = stored_spec.get("model")
    reference = model.get("profileRef") if isinstance(model, Mapping) else None
    name = reference.get("name") if isinstance(reference, Mapping) else None
    return name if isinstance(name, str) else None


def hardware_of(stored_spec: Mapping[str, Any]) -> str | None:
    """What a pool says that it runs on."""
    scaling = stored_spec.get("scaling")
    instance = scaling.get("instance") if isinstance(scaling, Mapping) else None
    hardware = instance.get("hardware") if isinstance(instance, Mapping) else None
    return hardware if isinstance(hardware, str) else None


def points_of(spec: ModelKVProfileSpec, hardware: str | None) -> ProfilePoints:
    """The points for this hardware. Of a profile with several, and a pool that does not say which: none."""
    times = spec.prefill or ()
    chosen = [each for each in times if each.hardware == hardware] or (list(times) if len(times) == 1 else [])
    prefill = tuple((point.tokens, point.seconds) for point in chosen[0].points) if chosen else ()
    kv = tuple((point.tokens, point.size_bytes) for point in spec.kv_bytes or ())
    return ProfilePoints(prefill, kv)
