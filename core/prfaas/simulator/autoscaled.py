"""The operator's autoscaler (`prfaas.autoscaling.decide`) as the one who decides on sizes.

A cluster stands for a region here: the scenario's links join clusters. Thresholds and shares come from the
planner beside it, for the sizes that there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prfaas.autoscaling import (
    Arrivals,
    Attainment,
    LinkObservation,
    LinkState,
    Load,
    Observation,
    PoolObservation,
    PoolSettings,
    Profile,
    Quota,
    Role,
    RouteObservation,
    Settings,
    SignalEntry,
    Signals,
    State,
    decide,
)
from prfaas.capacity import InvalidInputError, Wire
from prfaas.planner import DecodePool, Options, PrefillPool, Problem
from prfaas.simulator.control import Decided, Observed, PlannerController
from prfaas.simulator.control import LinkState as Measured
from prfaas.simulator.settings import Policy, PoolDetails

MEASURED_REQUESTS_MIN = 1.0


@dataclass(slots=True)
class AutoscalerController:
    """Asks at each control step, and carries the autoscaler's memory from one to the next."""

    problem: Problem
    policy: Policy
    thresholds: PlannerController
    settings: Settings
    caches: bool
    state: State
    hardware: Mapping[str, str]
    started: bool = False

    @classmethod
    def made(
        cls,
        problem: Problem,
        options: Options,
        policy: Policy,
        *,
        caches: bool,
        details: Mapping[str, PoolDetails] = MappingProxyType({}),
    ) -> AutoscalerController:
        """For a scenario: bounds, targets, objectives and prices are those of its pools."""
        hardware = _hardware(problem, details)
        starts = [pool.instances.start_seconds for pool in problem.pools if pool.instances.start_seconds > 0]
        settings = Settings(
            {pool.name: _pool_settings(pool, policy, hardware[pool.name]) for pool in problem.pools},
            carbon_price_per_kilogram=options.carbon_price_per_kilogram,
            start_seconds=max(starts, default=60.0),
            # In simulated time a plan takes none; the limit is for the machine that simulates.
            plan_seconds=options.time_limit_seconds,
            length_buckets=options.buckets,
        )
        thresholds = PlannerController(problem, options, policy, caches=caches)
        return cls(problem, policy, thresholds, settings, caches, State(), hardware)

    def step(self, observed: Observed, now: float) -> Decided:
        """See `Controller`."""
        routed = self.thresholds.step(observed, now)
        if now <= 0:
            # Nothing has been measured yet.
            return routed
        try:
            decision = decide(
                self._observation(observed, now),
                self.settings,
                self.state,
                now,
                elapsed_seconds=lambda: 0.0,
            )
        except InvalidInputError as error:
            return Decided({}, routed.plan, f"the sizes stay: {error}")
        self.state = decision.state
        self.started = True
        changed = [each for each in decision.pools if each.changes]
        note = "; ".join(f"{each.pool} {each.before} to {each.desired}: {each.sentence}" for each in changed)
        sizes = {each.pool: each.desired for each in decision.pools}
        return Decided(sizes, routed.plan, note or routed.note)

    def _observation(self, observed: Observed, now: float) -> Observation:
        links = {link.name: link for link in self.problem.links}
        pools = tuple(self._pool(pool, observed) for pool in self.problem.pools)
        return Observation(
            pools,
            tuple(
                RouteObservation(
                    route.prefill_pool,
                    route.decode_pool,
                    wire=Wire(route.wire.state_ratio, route.wire.token_ratio) if self.caches else route.wire,
                    prefill_hit_share=0.0 if self.caches else route.prefill_hit_share,
                )
                for route in self.problem.routes
            ),
            tuple(
                LinkObservation(
                    link.source_cluster,
                    link.target_cluster,
                    _link_state(observed.links[link.name]),
                    link.bits_per_second
                    if not self.policy.bandwidth_aware
                    else max(observed.links[link.name].bits_per_second, 1.0),
                    observed.links[link.name].used_bits_per_second if self.policy.bandwidth_aware else 0.0,
                    rtt_seconds=link.rtt_seconds,
                    price_per_gigabyte=link.price_per_gigabyte,
                )
                for link in links.values()
            ),
            tuple(Quota(each.name, each.pools, each.accelerators) for each in self.problem.quotas),
            Signals(
                now,
                tuple(
                    SignalEntry(
                        pool.cluster,
                        self.hardware[pool.name],
                        observed.pools[pool.name].price_per_hour / pool.instances.accelerators_each,
                    )
                    for pool in self.problem.pools
                    if self.hardware[pool.name] == pool.name
                ),
            ),
        )

    def _pool(self, pool: PrefillPool | DecodePool, observed: Observed) -> PoolObservation:
        state = observed.pools[pool.name]
        load = Load(state.ready, state.utilisation, state.running, state.queued)
        common = {
            "name": pool.name,
            "cluster": pool.cluster,
            "region": pool.cluster,
            "model": pool.model,
            "replicas": state.wanted,
            "ready": state.ready if state.up else 0,
            "load": load if state.up else None,
            "start_seconds": () if self.started else (max(1.0, pool.instances.start_seconds),),
        }
        if isinstance(pool, PrefillPool):
            return PoolObservation(role=Role.PREFILL, profile=Profile(prefill=pool.prefill), **common)  # type: ignore[arg-type]
        window = observed.lengths[pool.name]
        lengths = window.sketch() or pool.lengths
        return PoolObservation(
            role=Role.DECODE,
            arrivals=Arrivals(state.arrivals_per_second, lengths),
            attainment=None
            if state.ttft_attained is None or state.first_tokens < MEASURED_REQUESTS_MIN
            else Attainment(state.ttft_attained, state.first_tokens),
            profile=Profile(kv=pool.kv, decode=pool.decode),
            **common,  # type: ignore[arg-type]
        )


def _hardware(problem: Problem, details: Mapping[str, PoolDetails]) -> dict[str, str]:
    """What each pool runs on, called after the first pool of its cluster that runs on the same: instances of
    one size and one price at all hours. They can change roles.
    """
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for pool in problem.pools:
        own, known = pool.instances, details.get(pool.name)
        by_hour = known.price_by_hour if known is not None else None
        kind = (pool.cluster, own.accelerators_each, own.price_per_hour, by_hour)
        found[pool.name] = first.setdefault(kind, pool.name)
    return found


def _pool_settings(pool: PrefillPool | DecodePool, policy: Policy, hardware: str) -> PoolSettings:
    own = pool.instances
    return PoolSettings(
        maximum=max(1, own.most, own.minimum),
        minimum=own.minimum,
        utilisation_target=pool.utilisation_max,
        ttft_seconds=pool.ttft_seconds if isinstance(pool, DecodePool) else None,
        accelerators_each=own.accelerators_each,
        hardware=hardware,
        price_per_hour=own.price_per_hour,
        carbon_kilograms_per_hour=own.carbon_kilograms_per_hour,
        convertible=policy.conversion,
    )


def _link_state(measured: Measured) -> LinkState:
    return LinkState.HEALTHY if measured.up and measured.bits_per_second > 0 else LinkState.DOWN
