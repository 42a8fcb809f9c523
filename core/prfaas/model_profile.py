"""A ModelKVProfile as the capacity model has it."""

from __future__ import annotations

from prfaas.api.v1alpha1 import ModelKVProfileSpec
from prfaas.autoscaling import Profile
from prfaas.capacity import Curve, DecodeRate, InvalidInputError, KVSize

OUTPUT_TOKENS = 256.0
"""Of an answer, until some have been measured."""


def profile_of(
    spec: ModelKVProfileSpec, *, hardware: str | None, revision: str | None, output_tokens: float | None
) -> tuple[Profile, str]:
    """What it says of one kind of hardware, and what is wrong with it or "".

    Without `hardware` the only kind that it has counts, and nothing when there are several.
    """
    if revision is not None and spec.model.revision not in (None, revision):
        return Profile(), f"the profile is of revision {spec.model.revision}, the pool runs {revision}"
    try:
        kv = _kv(spec)
        prefill, note = _prefill(spec, hardware)
        decode = _decode(spec, hardware, output_tokens or OUTPUT_TOKENS)
    except InvalidInputError as error:
        return Profile(), f"the profile cannot be used: {error}"
    return Profile(prefill, kv, decode), note


def _kv(spec: ModelKVProfileSpec) -> KVSize | None:
    if spec.kv_bytes is None:
        return None
    points = [(float(point.tokens), float(point.size_bytes)) for point in spec.kv_bytes]
    if len(points) == 1:
        # Less than nothing is known of a constant part: all of it grows.
        tokens, size = points[0]
        return KVSize(Curve.from_points([(1.0, size / tokens), (tokens, size)], extrapolates=True))
    return KVSize.from_points(points)


def _prefill(spec: ModelKVProfileSpec, hardware: str | None) -> tuple[Curve | None, str]:
    rows = spec.prefill or ()
    row = next((each for each in rows if each.hardware == hardware), None)
    if row is None and hardware is None and len(rows) == 1:
        row = rows[0]
    if row is None:
        known = ", ".join(each.hardware for each in rows)
        wanted = hardware or "scaling.instance.hardware, which is not set"
        return None, f"the profile has prefill times of {known}, not of {wanted}" if rows else ""
    points = [(float(point.tokens), point.seconds) for point in row.points]
    return Curve.from_points(points, extrapolates=True), ""


def _decode(spec: ModelKVProfileSpec, hardware: str | None, output_tokens: float) -> DecodeRate | None:
    rows = spec.decode or ()
    kinds = {each.hardware for each in rows}
    if hardware is None and len(kinds) == 1:
        hardware = next(iter(kinds))
    own = [each for each in rows if each.hardware == hardware]
    if not own:
        return None
    largest = max(own, key=lambda each: each.batch)
    return DecodeRate(largest.batch / largest.tokens_per_second, float(largest.batch), output_tokens)
