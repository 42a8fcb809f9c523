"""What engines have done between two answers of their sidecars' `/load`, and what that makes of a pool."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prfaas.api.keys import PREFILL_POOL, PoolKind
from prfaas.autoscaling import Arrivals, Attainment, Load
from prfaas.autoscaling.learning import Quantity, Sample
from prfaas.capacity import Lengths, LengthSketch
from prfaas.capacity.lengths import SKETCH_BINS_PER_OCTAVE, SKETCH_OCTAVES

_BINS = SKETCH_BINS_PER_OCTAVE * SKETCH_OCTAVES + 1
# Fewer prompts say little about how long they are.
LENGTHS_MIN = 30


@dataclass(frozen=True, slots=True)
class Total:
    """A counter of the engine: sum and count of what it measured, and how many were at most so large."""

    sum: float = 0.0
    count: float = 0.0
    buckets: tuple[tuple[float, float], ...] = ()

    def since(self, before: Total) -> Total:
        """What has come since, nothing of which is negative."""
        earlier = dict(before.buckets)
        return Total(
            max(0.0, self.sum - before.sum),
            max(0.0, self.count - before.count),
            tuple((upto, max(0.0, count - earlier.get(upto, 0.0))) for upto, count in self.buckets),
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sidecar has sent to one region since it began, and how long the path made it wait meanwhile.

    Attributes:
        waiting_bytes: sent while it waited.
    """

    sent_bytes: float = 0.0
    waiting_seconds: float = 0.0
    waiting_bytes: float = 0.0

    def since(self, before: Sent) -> Sent:
        """What has come since, nothing of which is negative."""
        return Sent(
            max(0.0, self.sent_bytes - before.sent_bytes),
            max(0.0, self.waiting_seconds - before.waiting_seconds),
            max(0.0, self.waiting_bytes - before.waiting_bytes),
        )


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """One answer of `/load`. `at` is when it came, in seconds; `sent` is by region."""

    at: float
    incarnation: str | None
    running: float
    waiting: float
    kv_cache_usage: float | None = None
    totals: Mapping[str, Total] = field(default_factory=dict)
    kv_samples: tuple[tuple[float, float, float], ...] = ()
    sent: Mapping[str, Sent] = field(default_factory=dict)

    def total(self, name: str) -> Total:
        return self.totals.get(name, Total())


def read_load(body: bytes, at: float) -> EngineLoad | None:
    """The load in an answer; None when the engine does not tell its own.

    Raises:
        ValueError: the answer is none of version 1.
    """
    answer: Any = json.loads(body)
    if not isinstance(answer, dict) or answer.get("version") != 1:
        raise ValueError("the answer is no load of version 1")
    if answer.get("running") is None or answer.get("waiting") is None:
        return None
    totals = answer.get("totals")
    incarnation = answer.get("incarnation")
    return EngineLoad(
        at,
        str(incarnation) if incarnation is not None else None,
        _number(answer["running"]),
        _number(answer["waiting"]),
        None if answer.get("kv_cache_usage") is None else _number(answer["kv_cache_usage"]),
        {str(name): _total(each) for name, each in totals.items()} if isinstance(totals, dict) else {},
        tuple(
            (_number(each[0]), _number(each[1]), _number(each[2]))
            for each in answer.get("kv_samples") or ()
            if isinstance(each, list) and len(each) == 3
        ),
        {
            str(each["region"]): Sent(
                *(_number(each.get(name, 0.0)) for name in ("sent_bytes", "waiting_seconds", "waiting_bytes"))
            )
            for each in answer.get("links_out") or ()
            if isinstance(each, dict) and each.get("region")
        },
    )


def _total(value: Any) -> Total:
    if not isinstance(value, dict):
        raise ValueError("totals")  # noqa: TRY004  (content, not an argument)
    return Total(
        _number(value.get("sum", 0.0)),
        _number(value.get("count", 0.0)),
        tuple((_number(each[0]), _number(each[1])) for each in value.get("buckets") or ()),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("a number of the load is none")
    return float(value)


@dataclass(frozen=True, slots=True)
class Interval:
    """What one engine did between two answers."""

    seconds: float
    before: EngineLoad
    after: EngineLoad

    def total(self, name: str) -> Total:
        return self.after.total(name).since(self.before.total(name))

    def sent(self, region: str) -> Sent:
        return self.after.sent.get(region, Sent()).since(self.before.sent.get(region, Sent()))

    @property
    def running(self) -> float:
        return (self.before.running + self.after.running) / 2


def interval(before: EngineLoad | None, after: EngineLoad) -> Interval | None:
    """None when there is nothing to compare with: the first answer, or another run of the engine."""
    if before is None or before.incarnation != after.incarnation or after.at <= before.at:
        return None
    return Interval(after.at - before.at, before, after)


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What a pool's engines told in the last round. Arrivals and attainment are of decode pools."""

    load: Load | None
    arrivals: Arrivals | None = None
    attainment: Attainment | None = None
    output_tokens: float | None = None
    samples: tuple[Sample, ...] = ()


def pool_load(
    kind: PoolKind,
    engines: Sequence[tuple[EngineLoad, Interval | None]],
    *,
    batch_max: float | None,
    ttft_seconds: float | None,
    lengths: Lengths | None,
    now: float,
) -> PoolLoad:
    """Add up what the engines of one pool told.

    Args:
        engines: the last answer of each, and what it did since the one before.
        batch_max: requests of an engine's largest batch, where known.
        ttft_seconds: the objective, where there is one.
        lengths: of uncached prompts, from who knows better than the engines.
    """
    if not engines:
        return PoolLoad(None)
    parts = [each for _, each in engines if each is not None]
    shares = [_share(kind, answer, part, batch_max) for answer, part in engines]
    load = Load(
        reporting=len(engines),
        utilisation=sum(shares) / len(shares),
        running=sum(answer.running for answer, _ in engines),
        queued=sum(answer.waiting for answer, _ in engines),
        service_seconds=_service_seconds(kind, parts),
        age_seconds=max(0.0, now - min(answer.at for answer, _ in engines)),
    )
    samples = tuple(sample for part in parts for sample in samples_of(kind, part))
    if kind == PREFILL_POOL or not parts:
        return PoolLoad(load, samples=samples)
    begun = sum(part.total("first_token_seconds").count / part.seconds for part in parts)
    grown = sum((part.after.waiting - part.before.waiting) / part.seconds for part in parts)
    # Engines that were not compared are taken to be like the others.
    rate = max(0.0, begun + grown) * len(engines) / len(parts)
    output = added(part.total("output_tokens") for part in parts)
    return PoolLoad(
        load,
        Arrivals(rate, lengths, load.age_seconds),
        attainment_of(added(part.total("first_token_seconds") for part in parts), ttft_seconds),
        output.sum / output.count if output.count and output.sum else None,
        samples,
    )


def _share(kind: PoolKind, answer: EngineLoad, part: Interval | None, batch_max: float | None) -> float:
    """How much of an engine is in use, 0 to 1.

    Prefill: seconds spent in prefills per second; what overlaps in one batch counts twice, a long one that
    has not ended counts by its running. Decode: the fuller one of KV cache and batch.
    """
    if kind == PREFILL_POOL:
        busy = 1.0 if answer.running or answer.waiting else 0.0
        if part is None:
            return busy
        ended = part.total("prefill_seconds")
        share = min(1.0, ended.sum / part.seconds)
        return max(share, busy) if part.before.running and not ended.count else share
    share = answer.kv_cache_usage or 0.0
    if batch_max:
        running = part.running if part is not None else answer.running
        share = max(share, running / batch_max)
    return min(1.0, share)


def _service_seconds(kind: PoolKind, parts: Iterable[Interval]) -> float | None:
    """How long a request keeps an engine busy: of decoding, its share of the batch."""
    parts = list(parts)
    name = "prefill_seconds" if kind == PREFILL_POOL else "running_seconds"
    ended = added(part.total(name) for part in parts)
    if not ended.count or not ended.sum:
        return None
    together = 1.0
    if kind != PREFILL_POOL:
        together = max(1.0, sum(part.running for part in parts) / len(parts))
    return ended.sum / ended.count / together


def samples_of(kind: PoolKind, part: Interval) -> list[Sample]:
    """What an interval says of the model: means over the requests that ended in it."""
    at, found = part.after.at, []
    prefill, tokens = part.total("prefill_seconds"), part.total("computed_tokens")
    if kind == PREFILL_POOL and prefill.count and tokens.count and prefill.sum and tokens.sum:
        size, seconds = tokens.sum / tokens.count, prefill.sum / prefill.count
        found.append(Sample(Quantity.PREFILL_SECONDS, size, seconds, at))
    if kind != PREFILL_POOL:
        steps = part.total("step_seconds")
        if steps.count and steps.sum and part.running >= 1:
            step = steps.sum / steps.count
            found.append(Sample(Quantity.DECODE_STEP_SECONDS, part.running, step, at))
        known = set(part.before.kv_samples)
        found.extend(
            Sample(Quantity.KV_BYTES, held, size, at)
            for each in part.after.kv_samples
            if each not in known and (held := each[0]) > 0 and (size := each[1]) > 0
        )
    return found


def attainment_of(first_tokens: Total, ttft_seconds: float | None) -> Attainment | None:
    """Who kept to the objective, by the buckets: those at most as large count, of the next one a part."""
    if ttft_seconds is None or not first_tokens.count or not first_tokens.buckets:
        return None
    low, within = 0.0, 0.0
    for upto, count in first_tokens.buckets:
        if upto >= ttft_seconds:
            part = (ttft_seconds - low) / (upto - low) if upto > low else 1.0
            within += (count - within) * part
            break
        low, within = upto, count
    return Attainment(min(1.0, max(0.0, within / first_tokens.count)), first_tokens.count)


def added(totals: Iterable[Total]) -> Total:
    """Over several engines."""
    sums, counts = 0.0, 0.0
    buckets: dict[float, float] = {}
    for each in totals:
        sums, counts = sums + each.sum, counts + each.count
        for upto, count in each.buckets:
            buckets[upto] = buckets.get(upto, 0.0) + count
    return Total(sums, counts, tuple(sorted(buckets.items())))


def sketch_of_bins(bins: Mapping[int, float]) -> LengthSketch | None:
    """Lengths by bins of a LengthSketch, as gateways tell them; None for too few."""
    counts = [0.0] * _BINS
    for index, count in bins.items():
        if 0 <= index < _BINS and math.isfinite(count) and count > 0:
            counts[index] += count
    return LengthSketch(tuple(counts)) if sum(counts) >= LENGTHS_MIN else None


def sketch_of_buckets(computed: Total) -> LengthSketch | None:
    """From the engine's own histogram, each bucket spread evenly over the bins that it covers."""
    counts, low, below = [0.0] * _BINS, 1.0, 0.0
    for upto, count in computed.buckets:
        new, below = count - below, count
        if new > 0 and 1 <= upto <= 2**SKETCH_OCTAVES:
            first = math.floor(math.log2(low) * SKETCH_BINS_PER_OCTAVE) + 1
            last = max(first, math.ceil(round(math.log2(upto) * SKETCH_BINS_PER_OCTAVE, 9)))
            for index in range(first, min(last, _BINS - 1) + 1):
                counts[index] += new / (last - first + 1)
        low = max(low, upto)
    return LengthSketch(tuple(counts)) if sum(counts) >= LENGTHS_MIN else None
