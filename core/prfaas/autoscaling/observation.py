"""What a decision is made from: pools with their load, routes, links and signals, as values.

Names of pools are the caller's and have to be unique in one observation. Ages are seconds since the
measurement, by the caller's clock: nothing here reads one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from prfaas.autoscaling.signals import Signals
from prfaas.capacity.curves import Curve
from prfaas.capacity.errors import (
    InvalidInputError,
    require_not_negative,
    require_positive,
    require_share,
)
from prfaas.capacity.lengths import Lengths
from prfaas.capacity.profiles import DecodeRate, KVSize, Wire


class Role(StrEnum):
    """What the instances of a pool do."""

    PREFILL = "Prefill"
    DECODE = "Decode"


class Shortage(StrEnum):
    """Why instances do not get what they wait for."""

    NO_CAPACITY = "NoCapacity"
    QUOTA_PENDING = "QuotaPending"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Instances that were asked for and have no node.

    Attributes:
        oldest_seconds: how long the first of them has been waiting.
        why: what the scheduler or the quota says; None while nobody has said anything.
    """

    instances: int = 0
    oldest_seconds: float = 0.0
    why: Shortage | None = None

    def __post_init__(self) -> None:
        require_not_negative("waiting.instances", self.instances)
        require_not_negative("waiting.oldest_seconds", self.oldest_seconds)


@dataclass(frozen=True, slots=True)
class Load:
    """What the ready engines of a pool say of themselves.

    Attributes:
        reporting: engines that the numbers are of.
        utilisation: share of what an engine can do that is in use, as the mean of those; above 1 counts as
            1, the queue says the rest.
        running, queued: requests over all of them. `queued` has begun nowhere.
        service_seconds: how long one request keeps one engine busy, measured; None: unknown.
    """

    reporting: int
    utilisation: float
    running: float = 0.0
    queued: float = 0.0
    service_seconds: float | None = None
    age_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("reporting", "utilisation", "running", "queued", "age_seconds"):
            require_not_negative(f"load.{name}", getattr(self, name))
        if self.service_seconds is not None:
            require_positive("load.service_seconds", self.service_seconds)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests that come to a decode pool; of a prefill pool, those that would be sent to it.

    Attributes:
        lengths: of the prompts' uncached part in tokens; None: unknown.
    """

    requests_per_second: float
    lengths: Lengths | None = None
    age_seconds: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("arrivals.requests_per_second", self.requests_per_second)
        require_not_negative("arrivals.age_seconds", self.age_seconds)


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of the last requests kept to the objective (time to first token)."""

    share: float
    requests: float
    age_seconds: float = 0.0

    def __post_init__(self) -> None:
        require_share("attainment.share", self.share)
        require_not_negative("attainment.requests", self.requests)
        require_not_negative("attainment.age_seconds", self.age_seconds)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a model on the pool's hardware, measured or learned. None: nothing.

    Attributes:
        prefill: T_prefill(l) in seconds; of a decode pool, of prompts that it prefills itself.
        kv, decode: of decode pools.
    """

    prefill: Curve | None = None
    kv: KVSize | None = None
    decode: DecodeRate | None = None


@dataclass(frozen=True, slots=True)
class PoolObservation:
    """One pool, of this cluster or told by another region.

    Attributes:
        model: what must be equal on both sides of a transfer, a fingerprint or a name.
        managed: whether its size is to be decided here; False for pools of others, and for held ones.
        replicas: instances that are asked for now (`spec.replicas`).
        ready: instances that serve.
        load, arrivals, attainment: None: nobody has said anything.
        start_seconds: new measurements, from asking for an instance to its being ready.
    """

    name: str
    role: Role
    cluster: str
    region: str
    model: str
    replicas: int
    ready: int
    managed: bool = True
    waiting: Waiting = Waiting()
    load: Load | None = None
    arrivals: Arrivals | None = None
    attainment: Attainment | None = None
    profile: Profile = Profile()
    start_seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_not_negative("replicas", self.replicas)
        require_not_negative("ready", self.ready)


class LinkState(StrEnum):
    """What whoever measures a link makes of it."""

    HEALTHY = "Healthy"
    CONGESTED = "Congested"
    DOWN = "Down"
    SPENT = "BudgetSpent"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class LinkObservation:
    """A directed path between two regions, as it was last measured.

    Attributes:
        capacity_bits_per_second: what it can carry; None: unknown.
        goodput_bits_per_second: what it carries now; None: not measured.
        utilisation: share of the capacity in use; None: goodput over capacity, where both are known.
        price_per_gigabyte: of 10^9 bytes.
    """

    source_region: str
    target_region: str
    state: LinkState = LinkState.UNKNOWN
    capacity_bits_per_second: float | None = None
    goodput_bits_per_second: float | None = None
    utilisation: float | None = None
    age_seconds: float = 0.0
    rtt_seconds: float = 0.0
    price_per_gigabyte: float = 0.0

    def __post_init__(self) -> None:
        if self.source_region == self.target_region:
            raise InvalidInputError(
                "links", f"one leads from {self.source_region} to itself", "leave it out: no region needs one"
            )
        if self.capacity_bits_per_second is not None:
            require_positive(f"links[{self.name}].capacity_bits_per_second", self.capacity_bits_per_second)
        for name in (
            "goodput_bits_per_second",
            "utilisation",
            "age_seconds",
            "rtt_seconds",
            "price_per_gigabyte",
        ):
            if getattr(self, name) is not None:
                require_not_negative(f"links[{self.name}].{name}", getattr(self, name))

    @property
    def name(self) -> str:
        """As the KVLink is called."""
        return f"{self.source_region}-{self.target_region}"

    @property
    def used_share(self) -> float | None:
        """Share of the capacity in use, None when that is not known."""
        if self.utilisation is not None:
            return self.utilisation
        if self.goodput_bits_per_second is None or self.capacity_bits_per_second is None:
            return None
        return self.goodput_bits_per_second / self.capacity_bits_per_second


@dataclass(frozen=True, slots=True)
class RouteObservation:
    """A prefill pool that may serve a decode pool, now.

    Attributes:
        requests_per_second: what it does for it, where measured; None: unknown.
        wire: what codec and delta transfer make of the bytes.
        prefill_hit_share: share of each prompt that the prefill side has in its own cache.
    """

    prefill_pool: str
    decode_pool: str
    requests_per_second: float | None = None
    wire: Wire = field(default_factory=Wire)
    prefill_hit_share: float = 0.0

    def __post_init__(self) -> None:
        if self.requests_per_second is not None:
            require_not_negative("routes.requests_per_second", self.requests_per_second)


@dataclass(frozen=True, slots=True)
class Quota:
    """Accelerators that some pools have together, of a cluster, an account or a reservation."""

    name: str
    pools: frozenset[str]
    accelerators: float

    def __post_init__(self) -> None:
        require_not_negative(f"quotas[{self.name}].accelerators", self.accelerators)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was seen. The order of the entries does not matter."""

    pools: tuple[PoolObservation, ...]
    routes: tuple[RouteObservation, ...] = ()
    links: tuple[LinkObservation, ...] = ()
    quotas: tuple[Quota, ...] = ()
    signals: Signals | None = None

    def __post_init__(self) -> None:
        known: dict[str, PoolObservation] = {}
        for pool in self.pools:
            if pool.name in known:
                raise InvalidInputError(
                    f"pools[{pool.name}]", "this name is given twice", "rename one of them"
                )
            known[pool.name] = pool
        for route in self.routes:
            for role, name in ((Role.PREFILL, route.prefill_pool), (Role.DECODE, route.decode_pool)):
                if name not in known or known[name].role is not role:
                    raise InvalidInputError(
                        f"routes[{route.prefill_pool} to {route.decode_pool}]",
                        f"no {role} pool is named {name}",
                        "leave the route out, or observe the pool",
                    )
        links = [link.name for link in self.links]
        if len(set(links)) < len(links):
            raise InvalidInputError(
                "links", "two lead from one region to the same other", "add them up into one"
            )
