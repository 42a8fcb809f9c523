"""How many instances the capacity model wants: the production planner on what was observed.

Pools that routes connect are planned together. A group is planned when everything is known of it: demand
and lengths, profiles, and the capacity of its links. A decode pool's own instances prefill what stays
local, so it is planned as two pools that share its instances, and sized by what both need together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prfaas.autoscaling.links import LinkVerdict
from prfaas.autoscaling.needs import instances_for
from prfaas.autoscaling.observation import Observation, PoolObservation, Role
from prfaas.autoscaling.prices import Prices
from prfaas.autoscaling.settings import PoolSettings, Settings
from prfaas.capacity.errors import InvalidInputError

if TYPE_CHECKING:
    from prfaas.planner.plan import Plan
    from prfaas.planner.problem import DecodePool, PrefillPool, Problem

LOCAL = " prefilling for itself"


@dataclass(frozen=True, slots=True)
class Modelled:
    """What a plan says of one pool.

    Attributes:
        instances: that it is to have.
        busy_instances: what its share of the load occupies of them.
        sentence: what binds, in the planner's words.
    """

    instances: int
    busy_instances: float
    sentence: str


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Attributes:
    sizes: by pool; empty when no plan could be made.
    note: why not, or "".
    plan: the planner's `Plan`.
    """

    sizes: Mapping[str, Modelled]
    note: str = ""
    plan: Plan | None = None


def groups(observation: Observation) -> list[tuple[PoolObservation, ...]]:
    """Pools that routes connect, each group by name."""
    parent = {pool.name: pool.name for pool in observation.pools}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for route in observation.routes:
        parent[root(route.prefill_pool)] = root(route.decode_pool)
    found: dict[str, list[PoolObservation]] = {}
    for pool in sorted(observation.pools, key=lambda each: each.name):
        found.setdefault(root(pool.name), []).append(pool)
    return [tuple(pools) for _, pools in sorted(found.items(), key=lambda item: item[1][0].name)]


def missing(
    group: Iterable[PoolObservation],
    observation: Observation,
    verdicts: Mapping[str, LinkVerdict],
    settings: Settings,
) -> str:
    """What the model would have to know of a group and does not; "": nothing."""
    by_name = {pool.name: pool for pool in group}
    decoders = [pool for pool in by_name.values() if pool.role is Role.DECODE]
    if not decoders:
        return "no route leads to a decode pool"
    for pool in by_name.values():
        if pool.role is Role.PREFILL and pool.profile.prefill is None:
            return f"{pool.name} has no profile of its prefill times"
    for pool in decoders:
        if pool.profile.kv is None or pool.profile.decode is None:
            return f"{pool.name} has no profile of its KV or its decoding"
        arrivals = pool.arrivals
        if arrivals is None or arrivals.age_seconds > settings.load_max_age_seconds:
            return f"the demand at {pool.name} is not known"
        if arrivals.lengths is None and arrivals.requests_per_second > 0:
            return f"the lengths of prompts at {pool.name} are not known"
    for route in observation.routes:
        if route.prefill_pool not in by_name:
            continue
        source, target = by_name[route.prefill_pool].region, by_name[route.decode_pool].region
        if source != target:
            verdict = verdicts.get(f"{source}-{target}")
            if verdict is None or verdict.usable_bits_per_second is None:
                return f"the capacity of link {source}-{target} is not known"
    return ""


def planned(
    group: tuple[PoolObservation, ...],
    observation: Observation,
    settings: Settings,
    verdicts: Mapping[str, LinkVerdict],
    prices: Prices,
    demands: Mapping[str, float],
    elapsed_seconds: Callable[[], float],
) -> GroupPlan:
    """Ask the planner for one group.

    Args:
        demands: requests per second by decode pool, forecasts and queues included.
    """
    lacks = missing(group, observation, verdicts, settings)
    if lacks:
        return GroupPlan({}, f"sized by measured load: {lacks}")
    if not any(demands.get(pool.name, 0.0) > 0 for pool in group):
        return GroupPlan({pool.name: Modelled(0, 0.0, "there is no demand") for pool in group})
    # Here and not above: numpy and scipy take 70 MB, and a cluster without managed pools needs neither.
    try:
        from prfaas.planner import Goal, Options, PlanTimeoutError, plan
    except ModuleNotFoundError as error:
        return GroupPlan({}, f"sized by measured load: {error.name} is not installed (extra planner)")

    options = Options(
        goal=Goal.LEAST_COST,
        time_limit_seconds=settings.plan_seconds,
        buckets=settings.length_buckets,
        gap=0.01,
        carbon_price_per_kilogram=settings.carbon_price_per_kilogram,
    )
    try:
        problem = _problem(group, observation, settings, verdicts, prices, demands)
        found = plan(problem, options, elapsed_seconds=elapsed_seconds)
    except (InvalidInputError, PlanTimeoutError) as error:
        return GroupPlan({}, f"sized by measured load: no plan could be made: {error}")
    sizes = {pool.name: pool for pool in found.pools}
    modelled = {}
    for pool in group:
        own = sizes.get(pool.name)
        if own is None:
            modelled[pool.name] = Modelled(0, 0.0, "there is no demand")
            continue
        busy, instances = own.instances * own.utilisation, own.instances
        local = sizes.get(pool.name + LOCAL)
        if local is not None:
            busy += local.instances * local.utilisation
            own_settings = settings.pools.get(pool.name)
            target = own_settings.utilisation_target if own_settings is not None else 1.0
            # Whole instances of each part would be one too many.
            instances = min(instances + local.instances, max(1, instances_for(busy, target)))
        modelled[pool.name] = Modelled(instances, busy, found.summary)
    return GroupPlan(modelled, plan=found)


def _problem(
    group: tuple[PoolObservation, ...],
    observation: Observation,
    settings: Settings,
    verdicts: Mapping[str, LinkVerdict],
    prices: Prices,
    demands: Mapping[str, float],
) -> Problem:
    from prfaas.planner import (
        Cluster,
        DecodePool,
        Instances,
        Link,
        PrefillPool,
        Problem,
        Quota,
        Region,
        Route,
    )

    by_name = {pool.name: pool for pool in group}

    def target_of(pool: PoolObservation) -> float:
        own = settings.pools.get(pool.name)
        return own.utilisation_target if own is not None else 1.0

    def instances_of(pool: PoolObservation, *, part: bool = False) -> Instances:
        own = settings.pools.get(pool.name)
        price, carbon = prices.of(pool)
        if own is None or not pool.managed:
            # What others decide on is there to be used, as it is.
            most = max(pool.ready, 1) if pool.role is Role.DECODE else pool.ready
            return Instances(
                maximum=most,
                minimum=0,
                current=most,
                price_per_hour=0.0,
                accelerators_each=own.accelerators_each if own is not None else 1,
            )
        least = 0 if part else own.minimum
        return Instances(
            maximum=max(1, _most(pool, own)),
            minimum=min(least, _most(pool, own)),
            current=None if part else min(pool.replicas, own.maximum),
            price_per_hour=price,
            carbon_kilograms_per_hour=carbon,
            accelerators_each=own.accelerators_each,
        )

    prefill: list[PrefillPool] = []
    decode: list[DecodePool] = []
    routes, quotas = [], []
    served = set()
    for pool in group:
        demand = demands.get(pool.name, 0.0)
        if pool.role is not Role.DECODE or demand <= 0:
            continue
        profile, arrivals = pool.profile, pool.arrivals
        assert arrivals is not None and arrivals.lengths is not None  # noqa: S101, PT018 (`missing` asked)
        assert profile.kv is not None and profile.decode is not None  # noqa: S101, PT018
        own = settings.pools.get(pool.name)
        decode.append(
            DecodePool(
                name=pool.name,
                cluster=pool.region,
                model=pool.model,
                kv=profile.kv,
                decode=profile.decode,
                lengths=arrivals.lengths,
                arrivals_per_second=demand,
                instances=instances_of(pool),
                ttft_seconds=own.ttft_seconds if own is not None else None,
                utilisation_max=target_of(pool),
            )
        )
        served.add(pool.name)
        if profile.prefill is not None:
            local = pool.name + LOCAL
            shared = instances_of(pool, part=True)
            prefill.append(
                PrefillPool(local, pool.region, pool.model, profile.prefill, shared, target_of(pool))
            )
            routes.append(Route(local, pool.name))
            # One instance more than there may be: each part is rounded up, and their sum need not be.
            quotas.append(
                Quota(
                    f"instances of {pool.name}",
                    frozenset({pool.name, local}),
                    (shared.maximum + 1) * shared.accelerators_each,
                )
            )
    used = {route.prefill_pool for route in observation.routes if route.decode_pool in served}
    for pool in group:
        if pool.role is Role.PREFILL and pool.name in used:
            assert pool.profile.prefill is not None  # noqa: S101 (`missing` asked)
            prefill.append(
                PrefillPool(
                    pool.name,
                    pool.region,
                    pool.model,
                    pool.profile.prefill,
                    instances_of(pool),
                    target_of(pool),
                )
            )
    links: dict[str, Link] = {}
    for route in sorted(observation.routes, key=lambda each: (each.prefill_pool, each.decode_pool)):
        if route.decode_pool not in served:
            continue
        source, target = by_name[route.prefill_pool].region, by_name[route.decode_pool].region
        path: tuple[str, ...] = ()
        if source != target:
            verdict = verdicts[f"{source}-{target}"]
            if not verdict.usable_bits_per_second:
                continue
            name = verdict.link.name
            links[name] = Link(
                name,
                source,
                target,
                verdict.usable_bits_per_second,
                utilisation_max=1.0 if verdict.closed is not None else settings.link_full_above,
                rtt_seconds=verdict.link.rtt_seconds,
                price_per_gigabyte=verdict.link.price_per_gigabyte,
            )
            path = (name,)
        routes.append(Route(route.prefill_pool, route.decode_pool, path, route.wire, route.prefill_hit_share))
    names = {pool.name for pool in prefill} | {pool.name for pool in decode}
    for quota in observation.quotas:
        members = {name + suffix for name in quota.pools for suffix in ("", LOCAL) if name + suffix in names}
        if members:
            quotas.append(Quota(quota.name, frozenset(members), quota.accelerators))
    regions = sorted({pool.region for pool in group})
    return Problem(
        prefill_pools=tuple(prefill),
        decode_pools=tuple(decode),
        routes=tuple(routes),
        links=tuple(links.values()),
        clusters=tuple(Cluster(region, region) for region in regions),
        regions=tuple(Region(region) for region in regions),
        quotas=tuple(quotas),
    )


def _most(pool: PoolObservation, own: PoolSettings) -> int:
    """While instances wait for a node, there is no room for more than those that have one."""
    if pool.waiting.instances and pool.waiting.why is not None:
        return min(own.maximum, max(pool.replicas - pool.waiting.instances, pool.ready))
    return own.maximum
