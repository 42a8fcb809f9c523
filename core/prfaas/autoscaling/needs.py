"""How many instances the measured load of a pool needs, without any profile."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prfaas.autoscaling.decision import Cause
from prfaas.autoscaling.observation import PoolObservation
from prfaas.autoscaling.settings import PoolSettings, Settings

ATTAINMENT_REQUESTS_MIN = 20
# Below this part of its target a pool is not to blame for late answers.
BLAMED_ABOVE = 0.6
OBJECTIVE_STEP = 0.1
QUEUE_STEP = 0.5


@dataclass(frozen=True, slots=True)
class Need:
    """Attributes:
    up: it grows when it has fewer.
    down: it shrinks when it has more; never less than `up`.
    busy_instances: what the load occupies, in instances.
    """

    up: int
    down: int
    cause: Cause
    busy_instances: float
    sentence: str

    def wanted(self, replicas: int) -> int:
        """The size that is wanted of a pool of this size: between the two it stays."""
        if self.up > replicas:
            return self.up
        return min(replicas, self.down)


def instances_for(busy_instances: float, utilisation: float) -> int:
    """The fewest instances that are at most so busy."""
    return math.ceil(busy_instances / utilisation - 1e-9)


def measured_need(
    pool: PoolObservation, own: PoolSettings, settings: Settings, start_seconds: float, *, blamed: bool
) -> Need | None:
    """What the pool's own numbers say. None: there are none that can be used.

    Engines that do not report are taken to be idle when the pool might grow and busy when it might shrink.
    """
    load = pool.load
    if load is None or load.age_seconds > settings.load_max_age_seconds:
        return None
    if pool.ready == 0:
        return Need(0, 0, Cause.STEADY, 0.0, "no instance is ready") if pool.replicas == 0 else None
    if load.reporting == 0:
        return None
    share = min(load.utilisation, 1.0)
    reporting = min(load.reporting, pool.ready)
    certain = share * reporting
    possible = certain + (pool.ready - reporting)
    backlog = 0.0
    if load.service_seconds is not None:
        # What is asked for now comes only after a start: the queue cannot be gone before.
        backlog = load.queued * load.service_seconds / max(own.drain_seconds, start_seconds)
    up = instances_for(certain + backlog, own.utilisation_target)
    down = instances_for(possible + backlog, own.utilisation_target * (1 - settings.shrink_margin))
    cause = Cause.LOAD_ROSE
    sentence = f"{certain + backlog:.2f} instances' worth of work at a target of {own.utilisation_target:.0%}"
    allowed = own.queued_per_instance * pool.ready
    if load.queued > allowed:
        step = max(1, math.ceil(pool.ready * min(1.0, QUEUE_STEP * (load.queued / allowed - 1))))
        if pool.ready + step > up:
            up, cause = pool.ready + step, Cause.QUEUE_GREW
            sentence = (
                f"{load.queued:.0f} requests wait, {allowed:.0f} may"
                f" ({own.queued_per_instance:g} per ready instance)"
            )
    met = pool.attainment
    if (
        blamed
        and met is not None
        and met.age_seconds <= settings.load_max_age_seconds
        and met.requests >= ATTAINMENT_REQUESTS_MIN
        and met.share < own.attainment_target
        and (load.queued > 0 or share >= BLAMED_ABOVE * own.utilisation_target)
    ):
        step = pool.ready + max(1, math.ceil(OBJECTIVE_STEP * pool.ready))
        if step > up:
            up, cause = step, Cause.OBJECTIVE_MISSED
            sentence = (
                f"{met.share:.0%} of {met.requests:.0f} requests kept to the objective,"
                f" {own.attainment_target:.0%} have to"
            )
    return Need(up, max(up, down), cause, certain + backlog, sentence)


def has_load(pool: PoolObservation) -> bool:
    """Whether anything at all is going on, or wants to."""
    load, arrivals = pool.load, pool.arrivals
    if arrivals is not None and arrivals.requests_per_second > 0:
        return True
    return load is not None and (load.running > 0 or load.queued > 0 or load.utilisation > 0.01)
