"""Profiles learn from what is measured, and say when they no longer fit.

Memory: per pool and quantity the last 64 samples, none older than six hours. Estimates are medians, so that
half of the samples may be wild. With a profile its curves are scaled by the median ratio of measured to
expected (between a quarter and four); without one a straight line is laid through the samples (Theil and
Sen). At least 12 samples are needed for either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median

from prfaas.autoscaling.observation import Profile
from prfaas.capacity.curves import Curve, Segment
from prfaas.capacity.errors import InvalidInputError, require_positive
from prfaas.capacity.profiles import DecodeRate, KVSize

SAMPLES_MAX = 64
MEMORY_SECONDS = 6 * 3600.0
SAMPLES_MIN = 12
RATIO_MAX = 4.0
DRIFT_ABOVE = 1.25
# Of an almost idle engine a step says little about a full one.
BATCH_SHARE_MIN = 0.5


class Quantity(StrEnum):
    """What is measured."""

    PREFILL_SECONDS = "PrefillSeconds"
    KV_BYTES = "KVBytes"
    DECODE_STEP_SECONDS = "DecodeStepSeconds"


@dataclass(frozen=True, slots=True)
class Sample:
    """Attributes:
    size: uncached tokens of the prompt; of a step, the requests in the batch.
    value: in the unit of the quantity.
    at: seconds.
    """

    quantity: Quantity
    size: float
    value: float
    at: float

    def __post_init__(self) -> None:
        require_positive("sample.size", self.size)
        require_positive("sample.value", self.value)


@dataclass(frozen=True, slots=True)
class Learned:
    """What is remembered of one pool."""

    samples: Mapping[Quantity, tuple[Sample, ...]] = field(default_factory=dict)

    def of(self, quantity: Quantity) -> tuple[Sample, ...]:
        return self.samples.get(quantity, ())

    def with_samples(self, new: Iterable[Sample], now: float) -> Learned:
        """After more samples, without those that are too old."""
        merged: dict[Quantity, list[Sample]] = {key: list(known) for key, known in self.samples.items()}
        for sample in new:
            merged.setdefault(sample.quantity, []).append(sample)
        kept = {
            key: tuple(each for each in known if now - each.at <= MEMORY_SECONDS)[-SAMPLES_MAX:]
            for key, known in merged.items()
        }
        return Learned({key: known for key, known in kept.items() if known})


@dataclass(frozen=True, slots=True)
class Ratio:
    """Measured to expected. `spread` is the median distance of the ratios' logarithms from their median."""

    value: float
    spread: float
    samples: int

    @property
    def drifts(self) -> bool:
        """It is off by more than a quarter, and that is no accident."""
        off = abs(math.log(self.value))
        return off > math.log(DRIFT_ABOVE) and self.spread < off


@dataclass(frozen=True, slots=True)
class Drift:
    """A profile that does not fit what is measured."""

    quantity: Quantity
    ratio: Ratio

    @property
    def sentence(self) -> str:
        return (
            f"{self.quantity} is {self.ratio.value:.2f} times the profile's"
            f" ({self.ratio.samples} samples, spread {self.ratio.spread:.2f})"
        )


def ratio_of(samples: Sequence[Sample], expected: Callable[[float], float]) -> Ratio | None:
    """Median ratio to what a profile says; None with too few samples that it speaks of."""
    logs = []
    for sample in samples:
        try:
            logs.append(math.log(sample.value / expected(sample.size)))
        except InvalidInputError:
            continue
    if len(logs) < SAMPLES_MIN:
        return None
    middle = median(logs)
    return Ratio(math.exp(middle), median(abs(each - middle) for each in logs), len(logs))


def ratios(profile: Profile, learned: Learned) -> dict[Quantity, Ratio]:
    """Of what the profile has and enough was measured of."""
    found = {}
    if profile.prefill is not None:
        found[Quantity.PREFILL_SECONDS] = ratio_of(learned.of(Quantity.PREFILL_SECONDS), profile.prefill.at)
    if profile.kv is not None:
        found[Quantity.KV_BYTES] = ratio_of(learned.of(Quantity.KV_BYTES), profile.kv.at)
    if profile.decode is not None:
        rate = profile.decode
        full = [
            each
            for each in learned.of(Quantity.DECODE_STEP_SECONDS)
            if each.size >= BATCH_SHARE_MIN * rate.batch_max
        ]
        found[Quantity.DECODE_STEP_SECONDS] = ratio_of(full, lambda _: rate.step_seconds)
    return {key: ratio for key, ratio in found.items() if ratio is not None}


def drifts(profile: Profile, learned: Learned) -> tuple[Drift, ...]:
    """What of a profile does not fit any more."""
    return tuple(Drift(key, ratio) for key, ratio in ratios(profile, learned).items() if ratio.drifts)


def learned_profile(profile: Profile, learned: Learned) -> Profile:
    """The profile as the measurements have it."""
    known = {key: _clamped(ratio.value) for key, ratio in ratios(profile, learned).items()}
    prefill, kv, decode = profile.prefill, profile.kv, profile.decode
    if prefill is not None:
        prefill = scaled(prefill, known.get(Quantity.PREFILL_SECONDS, 1.0))
    else:
        prefill = fitted_line(learned.of(Quantity.PREFILL_SECONDS))
    if kv is not None:
        factor = known.get(Quantity.KV_BYTES, 1.0)
        kv = KVSize(scaled(kv.token_bytes, factor), kv.state_bytes * factor)
    else:
        line = fitted_line(learned.of(Quantity.KV_BYTES))
        kv = KVSize(line) if line is not None else None
    if decode is not None:
        decode = replace(
            decode, step_seconds=decode.step_seconds * known.get(Quantity.DECODE_STEP_SECONDS, 1.0)
        )
    return Profile(prefill, kv, decode)


def scaled(curve: Curve, factor: float) -> Curve:
    """The curve times a factor above 0."""
    if factor == 1.0:
        return curve
    return Curve(
        tuple(
            Segment(
                each.from_tokens,
                each.to_tokens,
                each.constant * factor,
                each.linear * factor,
                each.quadratic * factor,
            )
            for each in curve.segments
        ),
        curve.extrapolates,
    )


def fitted_line(samples: Sequence[Sample]) -> Curve | None:
    """constant + linear·l by the medians of slopes and of what they leave; None when the samples are too few
    or all of one length. Beyond the longest it goes on straight, which is too little for long prompts.
    """
    if len(samples) < SAMPLES_MIN:
        return None
    slopes = [
        (other.value - one.value) / (other.size - one.size)
        for index, one in enumerate(samples)
        for other in samples[index + 1 :]
        if abs(math.log(other.size / one.size)) > math.log(1.2)
    ]
    if len(slopes) < SAMPLES_MIN:
        return None
    slope = max(0.0, median(slopes))
    least = min(each.value for each in samples)
    constant = max(least / 100, median(each.value - slope * each.size for each in samples))
    longest = max(each.size for each in samples)
    return Curve((Segment(1.0, max(longest, 2.0), constant, slope),), extrapolates=True)


def decode_rate_of(samples: Sequence[Sample], *, batch_max: float, output_tokens: float) -> DecodeRate | None:
    """From measured steps of batches that were at least half full; None with too few."""
    full = [each.value for each in samples if each.size >= BATCH_SHARE_MIN * batch_max]
    return DecodeRate(median(full), batch_max, output_tokens) if len(full) >= SAMPLES_MIN else None


def _clamped(value: float) -> float:
    return min(RATIO_MAX, max(1 / RATIO_MAX, value))
