"""From what was measured to a ModelKVProfile: medians, points that never fall, and notes of what was changed.

Pure: values in, a document out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from prfaas.api.v1alpha1 import ModelKVProfile
from prfaas.capacity import InvalidInputError
from prfaas.model_profile import profile_of

DIGITS = 4
SPREAD_SHOWN = 0.25
"""Half of the distance between slowest and fastest, as a share of the median, above which a note says so."""
CHANGE_SHOWN = 0.001


@dataclass(slots=True)
class Measured:
    """What an engine has shown so far.

    Attributes:
        prefill_seconds: by length in tokens, each repetition.
        decode_tokens_per_second: by batch size, each repetition.
        kv_bytes: by length in tokens.
        notes: what the reader of the profile has to know.
        ended_early: why not everything was measured, or "".
    """

    model: str = ""
    prefill_seconds: dict[int, list[float]] = field(default_factory=dict)
    decode_tokens_per_second: dict[int, list[float]] = field(default_factory=dict)
    kv_bytes: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ended_early: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.prefill_seconds or self.decode_tokens_per_second or self.kv_bytes)


@dataclass(frozen=True, slots=True)
class Made:
    """A profile and what was done for it."""

    profile: ModelKVProfile
    notes: tuple[str, ...]


def made(
    measured: Measured,
    *,
    hardware: str,
    name: str | None = None,
    namespace: str | None = None,
    revision: str | None = None,
) -> Made:
    """The profile of a measurement.

    Raises:
        InvalidInputError: nothing was measured, or the capacity model would refuse it.
    """
    if measured.is_empty:
        raise InvalidInputError("profile", "nothing was measured", "see above for the reason, and try again")
    notes = list(measured.notes)
    prefill, changed = monotone({tokens: median(each) for tokens, each in measured.prefill_seconds.items()})
    notes += _changes("the time to prefill", changed, "s")
    for tokens, each in sorted(measured.prefill_seconds.items()):
        notes += _spread(f"{tokens:,} tokens", each)
    sizes, odd = monotone(measured.kv_bytes)
    notes += _changes("the KV", odd, "bytes")
    for batch, each in sorted(measured.decode_tokens_per_second.items()):
        notes += _spread(f"decoding {batch} at a time", each)
    spec: dict[str, object] = {
        "model": {"name": measured.model} | ({"revision": revision} if revision else {})
    }
    if sizes:
        spec["kvBytes"] = [{"tokens": tokens, "bytes": round(size)} for tokens, size in sizes.items()]
    if prefill:
        points = [{"tokens": tokens, "seconds": rounded(seconds)} for tokens, seconds in prefill.items()]
        spec["prefill"] = [{"hardware": hardware, "points": points}]
    if measured.decode_tokens_per_second:
        spec["decode"] = [
            {"hardware": hardware, "batch": batch, "tokensPerSecond": rounded(median(each))}
            for batch, each in sorted(measured.decode_tokens_per_second.items())
        ]
    metadata = {"name": name or object_name(measured.model)} | ({"namespace": namespace} if namespace else {})
    profile = ModelKVProfile.model_validate({"metadata": metadata, "spec": spec})
    _, trouble = profile_of(profile.spec, hardware=hardware, revision=None, output_tokens=None)
    if trouble:
        raise InvalidInputError("profile", trouble, "measure again, with more repetitions")
    if measured.ended_early:
        notes.insert(0, f"not all was measured: {measured.ended_early}")
    return Made(profile, tuple(notes))


def monotone(values: Mapping[int, float]) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """The nearest values (least squares) that never fall with length, and those that differ: (before, after).

    Pool adjacent violators: neighbours that are in the wrong order share their mean.
    """
    blocks: list[tuple[float, list[int]]] = []
    for tokens in sorted(values):
        blocks.append((values[tokens], [tokens]))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, left), (high, right) = blocks[-2], blocks.pop()
            mean = (low * len(left) + high * len(right)) / (len(left) + len(right))
            blocks[-1] = (mean, left + right)
    found = {tokens: value for value, members in blocks for tokens in members}
    changed = {
        tokens: (values[tokens], value)
        for tokens, value in found.items()
        if abs(value - values[tokens]) > CHANGE_SHOWN * values[tokens]
    }
    return found, changed


def object_name(model: str) -> str:
    """A name that Kubernetes takes, from the model's: lowercase letters, digits and dashes."""
    found = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return found[:63].strip("-") or "model"


def rounded(value: float) -> float:
    """To as many digits as a measurement is worth. What was in order stays so."""
    return round(value, DIGITS - 1 - math.floor(math.log10(value))) if value > 0 else value


def _changes(what: str, changed: Mapping[int, tuple[float, float]], unit: str) -> list[str]:
    return [
        f"{what} of {tokens:,} tokens was put at {rounded(after):g} instead of {rounded(before):g} {unit}: "
        "a longer prompt cannot need less"
        for tokens, (before, after) in sorted(changed.items())
    ]


def _spread(what: str, each: Sequence[float]) -> list[str]:
    middle = median(each)
    share = (max(each) - min(each)) / 2 / middle
    return (
        [f"{what}: repetitions differ by ±{100 * share:.0f} %; was the engine idle?"]
        if share > SPREAD_SHOWN
        else []
    )
