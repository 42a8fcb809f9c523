"""What the planner is asked: pools, links, quotas, demand, and who may serve whom.

Frozen values in the units that their names say. Prices and carbon are per instance and hour; the currency is
the caller's. Whatever one value can check about itself it checks when it is made; `routes.validated` checks
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import (
    InvalidInputError,
    require_not_negative,
    require_positive,
    require_share,
)
from prfaas.capacity.lengths import Lengths
from prfaas.capacity.profiles import DecodeRate, KVSize, Wire


@dataclass(frozen=True, slots=True)
class Region:
    """A place that residency speaks of; `within` names the larger one that contains it (eu-north in eu)."""

    name: str
    within: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where pools run."""

    name: str
    region: str


@dataclass(frozen=True, slots=True)
class Instances:
    """How many instances a pool may have, and what one is worth.

    Attributes:
        minimum: never fewer, unless a quota forbids even them.
        maximum: never more.
        current: how many run now; None when unknown, and then moving costs nothing.
        available: how many can be had at present, the running ones included; less than `maximum` in a
            stock-out.
        accelerators_each: what one takes from quotas.
        price_per_hour: of one instance; None when unknown, which the goal LEAST_COST refuses.
        carbon_kilograms_per_hour: of one instance.
        start_seconds: from asking for an instance to its first request, measured; it is paid for meanwhile.
    """

    maximum: int
    minimum: int = 0
    current: int | None = None
    available: int | None = None
    accelerators_each: int = 1
    price_per_hour: float | None = None
    carbon_kilograms_per_hour: float = 0.0
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("maximum", "minimum", "current", "available"):
            value = getattr(self, name)
            if value is not None:
                require_not_negative(name, value)
                if int(value) != value:
                    raise InvalidInputError(name, f"is {value}", "give a whole number of instances")
        if self.minimum > self.maximum:
            raise InvalidInputError(
                "minimum", f"{self.minimum} is more than maximum {self.maximum}", "lower it or raise maximum"
            )
        require_positive("accelerators_each", self.accelerators_each)
        if self.price_per_hour is not None:
            require_not_negative("price_per_hour", self.price_per_hour)
        require_not_negative("carbon_kilograms_per_hour", self.carbon_kilograms_per_hour)
        require_not_negative("start_seconds", self.start_seconds)

    @property
    def most(self) -> int:
        """The largest size that is possible now: `maximum`, or fewer in a stock-out."""
        return self.maximum if self.available is None else min(self.maximum, self.available)


@dataclass(frozen=True, slots=True)
class PrefillPool:
    """Instances that only prefill. Those of a decode pool's own cluster (PD-P) are such a pool too.

    Attributes:
        model: what must be equal on both sides of a transfer, a fingerprint or a name.
        prefill: T_prefill(l) on this hardware, in seconds.
        utilisation_max: share of its time that an instance may be busy.
        instances_of: the decode pool whose instances these are: they prefill beside decoding, and both
            together keep within that pool's `utilisation_max`. Of `instances` only `maximum` counts then.
    """

    name: str
    cluster: str
    model: str
    prefill: Curve
    instances: Instances
    utilisation_max: float = 1.0
    instances_of: str | None = None

    def __post_init__(self) -> None:
        require_share("utilisation_max", require_positive("utilisation_max", self.utilisation_max))


@dataclass(frozen=True, slots=True)
class Residency:
    """Where the prompts and KV of a decode pool may go.

    Attributes:
        allowed: regions; None allows all. A region allows what lies within it.
        denied: regions that are excluded although an allowed one contains them.
    """

    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        both = sorted((self.allowed or frozenset()) & self.denied)
        if both:
            raise InvalidInputError(
                "residency", f"{', '.join(both)} is both allowed and denied", "take it out of one of the two"
            )
        if self.allowed is not None and not self.allowed:
            raise InvalidInputError("residency.allowed", "is empty", "name a region, or leave it out for all")


@dataclass(frozen=True, slots=True)
class DecodePool:
    """Instances that decode, and the requests that come to them.

    Attributes:
        kv: S_kv(l) of the model.
        lengths: of the prompts' uncached part, in tokens.
        arrivals_per_second: demand; for the goal MOST_SERVED only the proportions between pools matter.
        ttft_seconds: the mean time to first token that every length must be given; None for no such bound.
        prefill_pools: the only prefill pools that may serve it; None for all that residency and model allow.
        utilisation_max: share of the largest batch that may be in use.
    """

    name: str
    cluster: str
    model: str
    kv: KVSize
    decode: DecodeRate
    lengths: Lengths
    arrivals_per_second: float
    instances: Instances
    ttft_seconds: float | None = None
    residency: Residency = Residency()
    prefill_pools: frozenset[str] | None = None
    utilisation_max: float = 1.0

    def __post_init__(self) -> None:
        require_positive("arrivals_per_second", self.arrivals_per_second)
        if self.ttft_seconds is not None:
            require_positive("ttft_seconds", self.ttft_seconds)
        require_share("utilisation_max", require_positive("utilisation_max", self.utilisation_max))


@dataclass(frozen=True, slots=True)
class Link:
    """A directed path between two clusters.

    Attributes:
        bits_per_second: what it can carry.
        utilisation_max: share of it that may be planned for.
        price_per_gigabyte: of 10^9 bytes sent.
    """

    name: str
    source_cluster: str
    target_cluster: str
    bits_per_second: float
    utilisation_max: float = 1.0
    rtt_seconds: float = 0.0
    price_per_gigabyte: float = 0.0

    def __post_init__(self) -> None:
        if not self.bits_per_second > 0:
            raise InvalidInputError(
                "bits_per_second", f"is {self.bits_per_second}", "leave out a link that carries nothing"
            )
        require_positive("bits_per_second", self.bits_per_second)
        require_share("utilisation_max", require_positive("utilisation_max", self.utilisation_max))
        require_not_negative("rtt_seconds", self.rtt_seconds)
        require_not_negative("price_per_gigabyte", self.price_per_gigabyte)

    @property
    def usable_bits_per_second(self) -> float:
        """What may be planned for."""
        return self.bits_per_second * self.utilisation_max


@dataclass(frozen=True, slots=True)
class Route:
    """A prefill pool that could serve a decode pool.

    Attributes:
        links: names, in order from the prefill pool's cluster to the decode pool's; none within one cluster.
        wire: what codec and delta transfer make of the bytes.
        prefill_hit_share: share of each prompt that the prefill side has in its own cache.
    """

    prefill_pool: str
    decode_pool: str
    links: tuple[str, ...] = ()
    wire: Wire = field(default_factory=Wire)
    prefill_hit_share: float = 0.0

    def __post_init__(self) -> None:
        require_share("prefill_hit_share", self.prefill_hit_share)
        if self.prefill_hit_share == 1:
            raise InvalidInputError(
                "prefill_hit_share", "is 1", "leave something to prefill: give less than 1"
            )


@dataclass(frozen=True, slots=True)
class Quota:
    """Accelerators that some pools have together: of a cluster, an account, a reservation or a budget."""

    name: str
    pools: frozenset[str]
    accelerators: float

    def __post_init__(self) -> None:
        require_not_negative("accelerators", self.accelerators)


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything that a plan depends on. The order of the entries does not matter."""

    prefill_pools: tuple[PrefillPool, ...]
    decode_pools: tuple[DecodePool, ...]
    routes: tuple[Route, ...]
    links: tuple[Link, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    regions: tuple[Region, ...] = ()
    quotas: tuple[Quota, ...] = ()

    @property
    def pools(self) -> tuple[PrefillPool | DecodePool, ...]:
        """Prefill pools, then decode pools."""
        return (*self.prefill_pools, *self.decode_pools)


class Goal(StrEnum):
    """What is optimised first. Then, of equals, the cheapest plan is taken, and the calmest."""

    MOST_SERVED = "MostServed"
    """The largest factor on all arrivals that can be served (Λ_max for arrivals of 1)."""
    LEAST_COST = "LeastCost"
    """Serve as much of the demand as possible, then at the lowest cost."""


class Routing(StrEnum):
    """How lengths are divided between local and remote prefill."""

    THRESHOLD = "Threshold"
    """Long prompts are remote first: of no length is a larger share remote than of a greater one."""
    BY_BUCKET = "ByBucket"
    """Any length may be remote; better only for models whose KV throughput rises with shorter prompts."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to plan.

    Attributes:
        time_limit_seconds: the solver is given what is left of it; see `planner.plan`.
        buckets: length buckets per decode pool.
        gap: relative distance from the proven bound that is good enough.
        keep_within: the present sizes stay while they serve all that the new ones would and cost as much
            within this share; for MOST_SERVED, while what they can serve is within it.
        horizon_hours: over which the start of an instance is written off.
        carbon_price_per_kilogram: added to the cost.
    """

    goal: Goal = Goal.LEAST_COST
    routing: Routing = Routing.THRESHOLD
    time_limit_seconds: float = 10.0
    buckets: int = 16
    gap: float = 1e-4
    keep_within: float = 0.0
    horizon_hours: float = 1.0
    carbon_price_per_kilogram: float = 0.0

    def __post_init__(self) -> None:
        require_positive("time_limit_seconds", self.time_limit_seconds)
        require_positive("horizon_hours", self.horizon_hours)
        require_share("gap", self.gap)
        require_share("keep_within", self.keep_within)
        require_not_negative("carbon_price_per_kilogram", self.carbon_price_per_kilogram)
        if not 1 <= self.buckets <= 1024:
            raise InvalidInputError("buckets", f"is {self.buckets}", "give 1 to 1024")
