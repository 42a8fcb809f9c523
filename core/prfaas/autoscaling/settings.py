"""What a decision keeps to: bounds, targets, windows, budgets. Checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prfaas.autoscaling.forecast import ForecastSettings
from prfaas.capacity.errors import (
    InvalidInputError,
    require_not_negative,
    require_positive,
    require_share,
)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Of one pool.

    Attributes:
        minimum, maximum: instances. A minimum of 0 lets the pool go to zero after `idle_seconds` without
            any request.
        utilisation_target: share of an instance's capacity that is planned for.
        queued_per_instance: waiting requests per ready instance above which the pool is too small, whatever
            else says.
        drain_seconds: in which a queue is to be worked off.
        ttft_seconds: the mean time to first token that the planner plans for; None: none.
        attainment_target: share of requests that have to keep to the objective.
        grow_window_seconds: so long growth has to be wanted.
        shrink_window_seconds: so long shrinking has to be wanted.
        cool_down_seconds: after a change, no change in the other direction.
        idle_seconds: without any load before a pool with minimum 0 goes to zero.
        step_instances, step_share: at most so many more or fewer in one decision, whichever is more.
        accelerators_each: what one instance takes from quotas.
        hardware: for signals.
        price_per_hour: of one instance where no signal says; None: unknown.
        convertible: whether its instances may become those of another role in the same cluster.
    """

    maximum: int
    minimum: int = 1
    utilisation_target: float = 0.75
    queued_per_instance: float = 2.0
    drain_seconds: float = 60.0
    ttft_seconds: float | None = None
    attainment_target: float = 0.95
    grow_window_seconds: float = 30.0
    shrink_window_seconds: float = 300.0
    cool_down_seconds: float = 60.0
    idle_seconds: float = 600.0
    step_instances: int = 4
    step_share: float = 1.0
    accelerators_each: int = 1
    hardware: str | None = None
    price_per_hour: float | None = None
    carbon_kilograms_per_hour: float = 0.0
    convertible: bool = True

    def __post_init__(self) -> None:
        require_not_negative("minimum", self.minimum)
        if self.maximum < max(1, self.minimum):
            raise InvalidInputError(
                "maximum",
                f"is {self.maximum}",
                f"give at least {max(1, self.minimum)}, minimum is {self.minimum}",
            )
        require_share("utilisation_target", require_positive("utilisation_target", self.utilisation_target))
        require_share("attainment_target", self.attainment_target)
        for name in ("queued_per_instance", "drain_seconds", "accelerators_each", "step_instances"):
            require_positive(name, getattr(self, name))
        for name in (
            "grow_window_seconds",
            "shrink_window_seconds",
            "cool_down_seconds",
            "idle_seconds",
            "step_share",
            "carbon_kilograms_per_hour",
        ):
            require_not_negative(name, getattr(self, name))
        if self.ttft_seconds is not None:
            require_positive("ttft_seconds", self.ttft_seconds)
        if self.price_per_hour is not None:
            require_not_negative("price_per_hour", self.price_per_hour)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of all pools that are decided on together.

    Attributes:
        pools: by name; a managed pool without an entry is left as it is.
        budget_per_hour: what all managed pools may cost together; None: no bound.
        carbon_price_per_kilogram: what carbon counts for beside the price.
        shrink_margin: a pool shrinks when the smaller one would still be this share below its target.
        load_max_age_seconds, link_max_age_seconds, signals_max_age_seconds: what is older is not used.
        link_full_above, link_room_below: shares of the capacity; a link that was full has room again below
            the second, and not before `link_settle_seconds` have passed.
        patience_seconds: how long instances may be without a node before nothing more is expected of them,
            at least; twice the usual start if that is longer.
        start_seconds: how long an instance takes to come while none has been measured.
        conversion_window_seconds: so long a pool has to have had too many before its instances change role.
        plan_seconds: time limit of one plan.
        length_buckets: of one plan and decode pool.
        forecast: None: none is made.
    """

    pools: Mapping[str, PoolSettings]
    budget_per_hour: float | None = None
    carbon_price_per_kilogram: float = 0.0
    shrink_margin: float = 0.15
    load_max_age_seconds: float = 90.0
    link_max_age_seconds: float = 180.0
    signals_max_age_seconds: float = 7200.0
    link_full_above: float = 0.9
    link_room_below: float = 0.75
    link_settle_seconds: float = 60.0
    patience_seconds: float = 120.0
    start_seconds: float = 180.0
    conversion_window_seconds: float = 60.0
    plan_seconds: float = 2.0
    length_buckets: int = 8
    forecast: ForecastSettings | None = field(default_factory=ForecastSettings)

    def __post_init__(self) -> None:
        if self.budget_per_hour is not None:
            require_not_negative("budget_per_hour", self.budget_per_hour)
        require_not_negative("carbon_price_per_kilogram", self.carbon_price_per_kilogram)
        require_share("shrink_margin", self.shrink_margin)
        if self.shrink_margin >= 1:
            raise InvalidInputError("shrink_margin", "is 1", "give less than 1, such as 0.15")
        for name in (
            "load_max_age_seconds",
            "link_max_age_seconds",
            "signals_max_age_seconds",
            "link_full_above",
            "link_room_below",
            "patience_seconds",
            "start_seconds",
            "plan_seconds",
        ):
            require_positive(name, getattr(self, name))
        require_not_negative("link_settle_seconds", self.link_settle_seconds)
        require_not_negative("conversion_window_seconds", self.conversion_window_seconds)
        if self.link_room_below >= self.link_full_above:
            raise InvalidInputError(
                "link_room_below",
                f"{self.link_room_below:g} is not below link_full_above, {self.link_full_above:g}",
                "leave a gap between them, or the answer flaps",
            )
