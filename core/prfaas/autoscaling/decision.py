"""What was decided: a size for each pool, with what it was made from and what would change it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from prfaas.autoscaling.state import State

if TYPE_CHECKING:
    # At run time only where a plan is made: numpy and scipy take 70 MB.
    from prfaas.planner.plan import Plan


class Cause(StrEnum):
    """Why a pool is to have its size, as one word."""

    STEADY = "Steady"
    LOAD_ROSE = "LoadRose"
    LOAD_FELL = "LoadFell"
    QUEUE_GREW = "QueueGrew"
    OBJECTIVE_MISSED = "ObjectiveMissed"
    FORECAST_ROSE = "ForecastRose"
    WOKE_UP = "WokeUp"
    IDLE = "Idle"
    CONVERTED = "Converted"
    TAKES_OVER = "TakesOver"
    BOUNDS = "Bounds"
    BUDGET = "Budget"
    LOAD_UNKNOWN = "LoadUnknown"
    NOT_MANAGED = "NotManaged"


class Limit(StrEnum):
    """What keeps a pool from the size that it needs."""

    MAXIMUM = "TooManyReplicas"
    MINIMUM = "TooFewReplicas"
    LINK_SATURATED = "LinkSaturated"
    LINK_DOWN = "LinkDown"
    LINK_BUDGET = "LinkBudgetSpent"
    LINK_UNKNOWN = "LinkUnknown"
    NO_CAPACITY = "NoCapacity"
    QUOTA_PENDING = "QuotaPending"
    QUOTA = "QuotaExhausted"
    BUDGET = "BudgetExhausted"
    STABILISING = "Stabilising"
    COOLING_DOWN = "CoolingDown"
    STEP = "StepLimited"


PASSING = frozenset({Limit.STABILISING, Limit.COOLING_DOWN, Limit.STEP})
"""Limits that end by themselves within minutes, and are nobody's concern."""


@dataclass(frozen=True, slots=True)
class Input:
    """One number that the decision was made from."""

    name: str
    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}{' ' if self.unit else ''}{self.unit}"


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """Attributes:
    needed: what the load needs, before windows, links, capacity and bounds.
    limit: what keeps `desired` from `needed`; None: nothing.
    sentence: why, for people.
    limit_sentence: the same of the limit; "" without one.
    would_change: what would have to be different for another size, each a sentence.
    active: it can be decided at all; False: nothing is known of the load.
    """

    pool: str
    before: int
    desired: int
    needed: int
    cause: Cause
    sentence: str
    limit: Limit | None = None
    limit_sentence: str = ""
    inputs: tuple[Input, ...] = ()
    would_change: tuple[str, ...] = ()
    active: bool = True

    @property
    def changes(self) -> bool:
        return self.desired != self.before


@dataclass(frozen=True, slots=True)
class Conversion:
    """Instances of one role that become those of another, in one cluster: the one pool shrinks, the other
    grows on the same accelerators.
    """

    from_pool: str
    to_pool: str
    instances: int
    sentence: str


@dataclass(frozen=True, slots=True)
class LoadOffer:
    """Load that cannot be served where it should be: a hint for whoever routes between regions.

    Attributes:
        pool: that lacks instances.
        instances: how many.
        to_pools: that could take the load, best first; empty: nobody is known that can.
    """

    pool: str
    region: str
    model: str
    instances: int
    limit: Limit
    to_pools: tuple[str, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    plans: of the capacity model, one for each group of pools that it could be asked for.
    notes: what the reader must know: signals that are too old, plans that could not be made.
    """

    time: float
    pools: tuple[PoolDecision, ...]
    conversions: tuple[Conversion, ...]
    offers: tuple[LoadOffer, ...]
    state: State
    plans: tuple[Plan, ...] = ()
    notes: tuple[str, ...] = ()

    def pool(self, name: str) -> PoolDecision:
        """Of one pool. KeyError when nothing was decided about it."""
        return {each.pool: each for each in self.pools}[name]
