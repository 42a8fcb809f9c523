"""What the planner answers: sizes, flows, thresholds, what binds, and how far from the best it may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from prfaas.capacity.errors import InvalidInputError
from prfaas.planner.problem import Goal
from prfaas.planner.routes import ExcludedRoute
from prfaas.planner.solve import PlanTimeoutError


class BindingKind(StrEnum):
    """What kind of constraint binds."""

    LINK = "Link"
    PREFILL = "Prefill"
    DECODE = "Decode"
    QUOTA = "Quota"
    MAXIMUM = "Maximum"
    MINIMUM = "Minimum"


@dataclass(frozen=True, slots=True)
class Binding:
    """A constraint without which the plan would be better.

    Attributes:
        name: of the link, pool or quota.
        used, limit: in `unit`.
        shadow_price: what one unit more would gain (of a minimum: one unit less), in `price_unit`. It holds
            for small changes.
        sentence: the same in words.
    """

    kind: BindingKind
    name: str
    used: float
    limit: float
    unit: str
    shadow_price: float
    price_unit: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Constraints that cannot hold together; the plan keeps the others.

    Attributes:
        constraints: paths of the fields.
        given_up: the ones among them that this plan breaks.
    """

    constraints: tuple[str, ...]
    given_up: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Size of one pool.

    Attributes:
        before: instances that run now, None when unknown.
        utilisation: share of time its instances are busy (decode: share of the largest batch).
    """

    name: str
    instances: int
    before: int | None
    utilisation: float


@dataclass(frozen=True, slots=True)
class Flow:
    """What a prefill pool does for a decode pool.

    Attributes:
        by_bucket: requests per second of each length bucket, shortest first.
        bits_per_second: on each of its links.
        ttft_seconds: predicted mean time to first token of each bucket: wait, prefill, what the link lags
            behind, and a round trip. Infinite for a pool that is planned to be busy all the time.
    """

    prefill_pool: str
    decode_pool: str
    links: tuple[str, ...]
    requests_per_second: float
    by_bucket: tuple[float, ...]
    bits_per_second: float
    ttft_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What becomes of a decode pool's requests.

    Attributes:
        demand_per_second: arrivals times the plan's factor.
        threshold_tokens: t: longer uncached prompts are prefilled remotely. None when the plan is no
            threshold (`remote_by_bucket` says what is remote), infinite when nothing is remote.
        remote_share: p, of what is served.
        bucket_edges_tokens: lowest edge, then the upper edge of each bucket.
    """

    name: str
    demand_per_second: float
    served_per_second: float
    threshold_tokens: float | None
    remote_share: float
    remote_by_bucket: tuple[float, ...]
    bucket_edges_tokens: tuple[float, ...]

    @property
    def unserved_per_second(self) -> float:
        """Demand that nothing could serve."""
        return max(0.0, self.demand_per_second - self.served_per_second)


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What a link carries."""

    name: str
    bits_per_second: float
    usable_bits_per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer. All rates are requests per second, all costs per hour.

    Attributes:
        factor: on all arrivals; 1 for LEAST_COST.
        gap: how far from the best the first goal (served, or the factor) may be, relative; 0 is proven best.
        cost_gap: the same for the cost among plans that serve as much; None when cost was not looked at.
        bindings: what binds, most important first; the first is *the* binding constraint.
        conflicts: given constraints that contradict each other; empty for a feasible problem.
        kept: the present sizes stay, because new ones are not better by more than `keep_within`.
        notes: what the reader must know, such as a profile that was continued beyond its measurements.
    """

    goal: Goal
    factor: float
    served_per_second: float
    demand_per_second: float
    cost_per_hour: float
    carbon_kilograms_per_hour: float
    pools: tuple[PoolPlan, ...]
    decode_pools: tuple[DecodePlan, ...]
    flows: tuple[Flow, ...]
    links: tuple[LinkUse, ...]
    bindings: tuple[Binding, ...]
    conflicts: tuple[Conflict, ...]
    excluded: tuple[ExcludedRoute, ...]
    gap: float
    cost_gap: float | None
    kept: bool
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every constraint holds and all demand is served."""
        return not self.conflicts and self.served_per_second >= self.demand_per_second * (1 - 1e-6)

    @property
    def summary(self) -> str:
        """One sentence: what binds, or what conflicts."""
        if self.conflicts:
            return self.conflicts[0].sentence
        if self.bindings:
            return self.bindings[0].sentence
        return "nothing but the demand binds"

    def pool(self, name: str) -> PoolPlan:
        """The plan of one pool. KeyError when there is none of this name."""
        return {pool.name: pool for pool in self.pools}[name]

    def decode_pool(self, name: str) -> DecodePlan:
        """The same of a decode pool's requests."""
        return {pool.name: pool for pool in self.decode_pools}[name]


@dataclass(frozen=True, slots=True)
class Standing:
    """The plan in force, and why it is not a new one.

    Attributes:
        stale_because: None for a plan just made, else why no new one replaced it.
    """

    plan: Plan | None
    stale_because: str | None = None


def in_force(previous: Plan | None, outcome: Plan | InvalidInputError | PlanTimeoutError) -> Standing:
    """The new plan, or the previous one marked stale when planning failed."""
    if isinstance(outcome, Plan):
        return Standing(outcome)
    return Standing(previous, str(outcome))
