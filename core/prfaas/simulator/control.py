"""Who decides how many instances there are and what the thresholds are: the planner and the autoscaler, in
the loop, as the operator calls them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from prfaas.capacity import InvalidInputError, LengthSketch, Wire
from prfaas.planner import (
    DecodePool,
    Goal,
    Instances,
    Options,
    Plan,
    PlanTimeoutError,
    PrefillPool,
    Problem,
    plan,
)
from prfaas.simulator.settings import Policy, Sizing

UNLIMITED_BITS_PER_SECOND = 1e15
LENGTHS_KEPT = 2_000
LENGTHS_NEEDED = 200


class LengthWindow:
    """The last lengths of a decode pool."""

    def __init__(self) -> None:
        self._kept: deque[int] = deque(maxlen=LENGTHS_KEPT)

    def add(self, tokens: int) -> None:
        """One more."""
        self._kept.append(max(1, tokens))

    def sketch(self) -> LengthSketch | None:
        """Their distribution; None while there are too few."""
        return LengthSketch.of(self._kept) if len(self._kept) >= LENGTHS_NEEDED else None


@dataclass(frozen=True, slots=True)
class PoolState:
    """What is known of one pool at a control step. Shares are of the time since the step before."""

    name: str
    ready: int
    starting: int
    wanted: int
    queued: int
    running: int
    utilisation: float
    up: bool
    price_per_hour: float
    ttft_attained: float | None = None
    first_tokens: float = 0.0
    arrivals_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkState:
    """The same of a link; `bits_per_second` is what it can carry, as measured."""

    name: str
    bits_per_second: float
    used_bits_per_second: float
    waiting_bits: float
    up: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a decision about sizes may look at.

    Attributes:
        lengths: of the prompts as they arrived lately, what caches hold taken off; by decode pool.
    """

    pools: Mapping[str, PoolState]
    links: Mapping[str, LinkState]
    lengths: Mapping[str, LengthWindow]


@dataclass(frozen=True, slots=True)
class Decided:
    """What a control step came to.

    Attributes:
        sizes: of the pools that are to change or stay; those not named stay.
        plan: when a new one was made.
        note: one line for the log; empty when nothing happened.
    """

    sizes: Mapping[str, int]
    plan: Plan | None = None
    note: str = ""


class Controller(Protocol):
    """Decides at every control step."""

    def step(self, observed: Observed, now: float) -> Decided:
        """Sizes and perhaps a plan. `now` is seconds since the start."""
        ...


def sizes_of(problem: Problem) -> dict[str, int] | None:
    """`current` of every pool, or None when a pool has none."""
    found = {pool.name: pool.instances.current for pool in problem.pools}
    return None if None in found.values() else {name: size or 0 for name, size in found.items()}


def measured_problem(
    problem: Problem, policy: Policy, observed: Observed, rates: Mapping[str, float], *, caches: bool
) -> Problem:
    """The scenario's problem with what is true now: demand, lengths, sizes, prices, links, what is down.

    Args:
        rates: arrivals per second by decode pool.
        caches: whether lengths are measured behind caches that the scenario's shares stand for otherwise.
    """
    prefill = tuple(
        replace(pool, instances=_instances(pool, policy, observed.pools[pool.name]))
        for pool in problem.prefill_pools
    )
    decode = []
    for pool in problem.decode_pools:
        state = observed.pools[pool.name]
        rate = max(rates[pool.name] * (1 + policy.headroom), 1e-3)
        window = observed.lengths.get(pool.name)
        lengths = (window.sketch() if window else None) or pool.lengths
        decode.append(
            replace(
                pool,
                instances=_instances(pool, policy, state),
                arrivals_per_second=rate,
                lengths=lengths,
            )
        )
    links = []
    for link in problem.links:
        known = observed.links[link.name]
        if policy.bandwidth_aware and (not known.up or known.bits_per_second <= 0):
            continue
        bits = known.bits_per_second if policy.bandwidth_aware else UNLIMITED_BITS_PER_SECOND
        links.append(replace(link, bits_per_second=bits))
    there = {link.name for link in links}
    routes = tuple(
        # Lengths are what caches do not hold, so nothing is taken off again for what they do.
        replace(route, prefill_hit_share=0.0, wire=Wire(route.wire.state_ratio, route.wire.token_ratio))
        if caches
        else route
        for route in problem.routes
        if set(route.links) <= there
    )
    return replace(
        problem, prefill_pools=prefill, decode_pools=tuple(decode), links=tuple(links), routes=routes
    )


def _instances(pool: PrefillPool | DecodePool, policy: Policy, state: PoolState) -> Instances:
    own = pool.instances
    size = state.ready + state.starting
    if not state.up:
        return replace(own, minimum=0, maximum=0, current=None, available=None)
    if policy.sizing is not Sizing.PLANNER:
        return replace(own, minimum=size, maximum=size, current=size, available=None)
    return replace(own, current=size, price_per_hour=state.price_per_hour)


def kind_of(pool: PrefillPool | DecodePool) -> tuple[object, ...]:
    """Pools of the same kind can take instances from one another: in one cluster, of one model, of hardware
    that costs the same.
    """
    own = pool.instances
    return pool.cluster, pool.model, own.accelerators_each, own.price_per_hour


def _has(observed: Observed, pool: PrefillPool | DecodePool) -> int:
    state = observed.pools[pool.name]
    return state.ready + state.starting


class PlannerController:
    """The production planner, every `replan_seconds`, for thresholds, shares and (where it sizes) sizes.

    Where others of the same role start, those that a plan takes away stay until these are ready: work that
    moves to a cheaper region would have nowhere to go meanwhile.

    The planner is told that no time has passed, so that a plan depends on its input alone as long as it is
    found within the scenario's time limit.
    """

    def __init__(self, problem: Problem, options: Options, policy: Policy, *, caches: bool) -> None:
        self._problem = problem
        self._policy = policy
        self._caches = caches
        self._sizes = policy.sizing is Sizing.PLANNER
        # With given sizes cost is given too: what is left to plan is how far they go.
        self._options = options if self._sizes else replace(options, goal=Goal.MOST_SERVED)
        self._next = 0.0
        self._later: tuple[float, dict[str, int]] | None = None
        self._last_said = ""
        self._rates = dict.fromkeys((pool.name for pool in problem.decode_pools), 0.0)
        self._steps = 0

    def step(self, observed: Observed, now: float) -> Decided:
        """A plan when one is due, else nothing."""
        if now > 0:
            self._steps += 1
            for name in self._rates:
                self._rates[name] += observed.pools[name].arrivals_per_second
        if now < self._next:
            return Decided(self._due(now))
        self._next = now + self._policy.replan_seconds
        rates = self._mean_rates()
        problem = measured_problem(self._problem, self._policy, observed, rates, caches=self._caches)
        try:
            found = plan(problem, self._options, elapsed_seconds=lambda: 0.0)
        except (InvalidInputError, PlanTimeoutError) as error:
            return Decided({}, note=f"the previous plan stays: {error}")
        sizes = {pool.name: pool.instances for pool in found.pools} if self._sizes else {}
        sizes = self._replaced_first(sizes, observed, now)
        said = found.summary
        note, self._last_said = ("" if said == self._last_said else said), said
        return Decided(sizes, found, note)

    def _due(self, now: float) -> dict[str, int]:
        """What was put off until now."""
        if self._later is None or now < self._later[0]:
            return {}
        due, self._later = self._later[1], None
        return due

    def _replaced_first(self, sizes: dict[str, int], observed: Observed, now: float) -> dict[str, int]:
        """The sizes for now, of those that others replace; what they come to is put off."""
        self._later = None
        put_off: dict[str, int] = {}
        wait = 0.0
        for role in (self._problem.prefill_pools, self._problem.decode_pools):
            growing = [
                pool for pool in role if pool.name in sizes and sizes[pool.name] > _has(observed, pool)
            ]
            if not growing:
                continue
            fewer = {
                pool.name: sizes[pool.name]
                for pool in role
                if pool.name in sizes and sizes[pool.name] < _has(observed, pool)
            }
            if fewer:
                put_off |= fewer
                wait = max(wait, *(pool.instances.start_seconds for pool in growing))
        if not put_off:
            return sizes
        self._later = now + wait, put_off
        convertible = self._convertible(sizes, observed) if self._policy.conversion else {}
        stay = {name: observed.pools[name].wanted - convertible.get(name, 0) for name in put_off}
        return sizes | {name: max(size, put_off[name]) for name, size in stay.items()}

    def _convertible(self, sizes: Mapping[str, int], observed: Observed) -> dict[str, int]:
        """Instances that need not stay, because a pool of the other role in their cluster takes them."""
        wanted: dict[tuple[object, ...], int] = {}
        for pool in self._problem.pools:
            more = sizes.get(pool.name, 0) - _has(observed, pool)
            if more > 0:
                wanted[kind_of(pool)] = wanted.get(kind_of(pool), 0) + more
        found = {}
        for pool in self._problem.pools:
            fewer = min(wanted.get(kind_of(pool), 0), _has(observed, pool) - sizes.get(pool.name, 0))
            if fewer > 0:
                wanted[kind_of(pool)] -= fewer
                found[pool.name] = fewer
        return found

    def _mean_rates(self) -> dict[str, float]:
        """Since the last plan; before anything was measured, what the scenario says."""
        if not self._steps:
            return {pool.name: pool.arrivals_per_second for pool in self._problem.decode_pools}
        found = {name: total / self._steps for name, total in self._rates.items()}
        self._rates = dict.fromkeys(found, 0.0)
        self._steps = 0
        return found
