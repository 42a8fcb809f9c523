"""What the autoscaler sees of each pool in a round: its objects, its load, what was learned of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from prfaas.api import keys
from prfaas.api.v1alpha1 import ModelKVProfileSpec, PoolSpec, PrefillRouteSpec
from prfaas.autoscaling import Arrivals, PoolObservation, Profile
from prfaas.autoscaling.learning import Drift, Learned, decode_rate_of, drifts, learned_profile, ratios
from prfaas.autoscaling.learning import Quantity as Measure
from prfaas.capacity import LengthSketch
from prfaas.model_profile import OUTPUT_TOKENS, profile_of
from prfaas_operator.planning.autoscale.loads import (
    PoolLoad,
    added,
    pool_load,
    sketch_of_bins,
    sketch_of_buckets,
)
from prfaas_operator.planning.autoscale.observe import (
    Measured,
    elsewhere_observation,
    is_managed,
    pool_observation,
    settings_of,
    starts_of,
)
from prfaas_operator.planning.values import ObservedPool, PoolKey
from prfaas_operator.runtime.facts import CustomValue, Fact
from prfaas_operator.runtime.gateway_demand import Demand
from prfaas_operator.runtime.observer import parse_spec
from prfaas_operator.runtime.sidecar_loads import Told
from prfaas_operator.runtime.store import Store

# A batch that was seen once can be had again, where nothing else says how large one may be.
BATCH_MIN = 8.0


@dataclass(slots=True)
class PoolMemory:
    """What is known of a pool beyond its objects. `starts`: seconds to ready by uid of the pods that are
    there; `unknown_since`: since when nothing is told of its load.
    """

    learned: Learned = field(default_factory=Learned)
    starts: dict[str, float] = field(default_factory=dict)
    output_tokens: float | None = None
    largest_batch: float = 0.0
    unknown_since: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One pool in a round."""

    pool: ObservedPool
    spec: PoolSpec
    observed: tuple[PoolObservation, ...]
    drifts: tuple[Drift, ...] | None
    measured: bool
    note: str


class Sight:
    """Sees pools, and remembers what was measured of them. All in memory: a restart learns anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._profiles: dict[str, tuple[int, ModelKVProfileSpec | None]] = {}
        self._memory: dict[PoolKey, PoolMemory] = {}

    def memory(self, key: PoolKey) -> PoolMemory:
        """What is known of a pool."""
        return self._memory.setdefault(key, PoolMemory())

    def forget_all_but(self, known: set[PoolKey]) -> None:
        self._memory = {key: memory for key, memory in self._memory.items() if key in known}

    def see(
        self,
        key: PoolKey,
        pool: ObservedPool,
        told: Mapping[str, Told],
        demand: Demand,
        lengths: Mapping[PoolKey, LengthSketch],
        now: datetime,
    ) -> Seen | None:
        """One pool; None when its spec cannot be read.

        Args:
            told: answers of sidecars, by uid of the pod.
            lengths: of prompts, by decode pool.
        """
        spec, where = pool.spec, pool.geography
        if spec is None:
            return None
        elsewhere = tuple(
            elsewhere_observation(pool, spec, region) for region in where.others_of(spec.placement)
        )
        if not where.is_here(spec.placement):
            return Seen(pool, spec, elsewhere, None, False, "")
        memory = self.memory(key)
        memory.starts = {pod.uid: memory.starts[pod.uid] for pod in pool.pods if pod.uid in memory.starts}
        fresh, starts = starts_of(pool, memory.starts)
        memory.starts |= fresh

        engines = [told[pod.uid] for pod in pool.pods if pod.uid in told]
        written, note = self._profile(pool, spec, memory)
        batch = written.decode.batch_max if written.decode is not None else None
        own = lengths.get(key) or sketch_of_buckets(
            added(answer.total("computed_tokens") for answer, _ in engines)
        )
        load = pool_load(
            key.kind,
            engines,
            batch_max=batch,
            ttft_seconds=settings_of(spec).ttft_seconds,
            lengths=own,
            now=now.timestamp(),
        )
        memory.learned = memory.learned.with_samples(load.samples, now.timestamp())
        memory.output_tokens = load.output_tokens or memory.output_tokens
        for answer, _ in engines:
            memory.largest_batch = max(memory.largest_batch, answer.running)
        profile = learned_profile(written, memory.learned)
        if profile.decode is None and key.kind == keys.DECODE_POOL:
            rate = decode_rate_of(
                memory.learned.of(Measure.DECODE_STEP_SECONDS),
                batch_max=max(BATCH_MIN, memory.largest_batch),
                output_tokens=memory.output_tokens or OUTPUT_TOKENS,
            )
            profile = replace(profile, decode=rate)
        load = _at_zero(key, spec, pool, load, demand, own)
        found = pool_observation(
            pool, spec, Measured(load, profile, starts), now, managed=is_managed(pool, now)
        )
        has_profile = spec.model.profile_ref is not None and written != Profile()
        return Seen(
            pool,
            spec,
            (found, *elsewhere),
            drifts(written, memory.learned) if has_profile else None,
            bool(ratios(written, memory.learned)),
            note,
        )

    def _profile(self, pool: ObservedPool, spec: PoolSpec, memory: PoolMemory) -> tuple[Profile, str]:
        reference = spec.model.profile_ref
        if reference is None:
            return Profile(), ""
        fact = self._store.profiles.get(pool.key.namespace, reference.name)
        if fact is None:
            return Profile(), f"ModelKVProfile {reference.name} is not there"
        parsed = self._parsed_profile(fact)
        if parsed is None:
            return Profile(), f"ModelKVProfile {reference.name} cannot be read"
        cost = spec.scaling.instance
        return profile_of(
            parsed,
            hardware=cost.hardware if cost is not None else None,
            revision=spec.model.revision,
            output_tokens=memory.output_tokens,
        )

    def _parsed_profile(self, fact: Fact[CustomValue]) -> ModelKVProfileSpec | None:
        known = self._profiles.get(fact.uid)
        if known is None or known[0] != fact.value.generation:
            try:
                parsed: ModelKVProfileSpec | None = ModelKVProfileSpec.model_validate_json(fact.value.spec)
            except ValidationError:
                parsed = None
            known = self._profiles[fact.uid] = (fact.value.generation, parsed)
        return known[1]

    def routes(self) -> Iterator[tuple[str, str, PrefillRouteSpec, Mapping[str, str]]]:
        """Namespace, name, spec and annotations of the routes that can be read."""
        for fact in self._store.routes:
            if fact.value.deleted:
                continue
            spec, _ = parse_spec(PrefillRouteSpec, fact.value.spec)
            if spec is not None:
                yield fact.namespace, fact.name, spec, fact.value.annotations

    def lengths(self, demand: Demand) -> dict[PoolKey, LengthSketch]:
        """Of uncached prompts as gateways count them, by decode pool."""
        found = {}
        for namespace, name, spec, _ in self.routes():
            sketch = sketch_of_bins(demand.lengths.get(f"{namespace}/{name}", {}))
            if sketch is not None:
                found[PoolKey(keys.DECODE_POOL, namespace, spec.decode_pool_ref.name)] = sketch
        return found


def _at_zero(
    key: PoolKey,
    spec: PoolSpec,
    pool: ObservedPool,
    load: PoolLoad,
    demand: Demand,
    lengths: LengthSketch | None,
) -> PoolLoad:
    """A decode pool without engines has no one to tell of requests but the gateways that turn them away."""
    if key.kind != keys.DECODE_POOL or load.load is not None or not demand.answered:
        return load
    if any(pod.ready for pod in pool.pods):
        return load
    rate = demand.turned_away_per_second.get(spec.model.name, 0.0)
    return replace(load, arrivals=Arrivals(rate, lengths))
