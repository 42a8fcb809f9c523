"""From pools as the operator sees them to what the autoscaler decides on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas.api.v1alpha1 import (
    ConditionStatus,
    PoolSpec,
    PrefillRouteSpec,
    RouteMode,
    Scaling,
    ScalingBehaviour,
    ScalingMode,
    ScalingTargets,
    quantity_value,
)
from prfaas.autoscaling import (
    LinkObservation,
    LinkState,
    PoolObservation,
    PoolSettings,
    Profile,
    Role,
    RouteObservation,
    Shortage,
    Waiting,
)
from prfaas_operator.planning.autoscale.loads import PoolLoad
from prfaas_operator.planning.capacity import names_quota
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.overrides import Hold, hold_of
from prfaas_operator.planning.partner import keys_of_route
from prfaas_operator.planning.pods import is_alive, is_ending, waits_for_node
from prfaas_operator.planning.replicas import scaling_active
from prfaas_operator.planning.routes import policy_of
from prfaas_operator.planning.values import ObservedPool, PoolKey

START_SAMPLES_MAX = 32


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a pool, beside its objects."""

    load: PoolLoad = field(default_factory=lambda: PoolLoad(None))
    profile: Profile = field(default_factory=Profile)
    start_seconds: tuple[float, ...] = ()


def is_managed(pool: ObservedPool, now: datetime) -> bool:
    """Whether its size is to be decided: mode Managed, nobody else who writes it, no hold, and here."""
    spec = pool.spec
    if spec is None or pool.deleted or spec.scaling.mode is not ScalingMode.MANAGED:
        return False
    if not pool.geography.is_here(spec.placement) or isinstance(hold_of(pool.annotations, now), Hold):
        return False
    return scaling_active(pool, spec).status is ConditionStatus.TRUE


def settings_of(spec: PoolSpec) -> PoolSettings:
    """What its spec says of scaling; a bound that a hold or an old manifest broke is mended."""
    scaling: Scaling = spec.scaling
    targets = scaling.targets or ScalingTargets()
    behaviour = scaling.behaviour or ScalingBehaviour()
    minimum = 1 if scaling.min_replicas is None else scaling.min_replicas
    milliseconds = targets.time_to_first_token_milliseconds
    cost = scaling.instance
    return PoolSettings(
        maximum=max(1, minimum, scaling.max_replicas if scaling.max_replicas is not None else spec.replicas),
        minimum=minimum,
        utilisation_target=targets.utilisation_percent / 100,
        queued_per_instance=targets.queued_requests_per_instance,
        ttft_seconds=None if milliseconds is None else milliseconds / 1000,
        attainment_target=targets.attainment_percent / 100,
        grow_window_seconds=behaviour.grow_window_seconds,
        shrink_window_seconds=behaviour.shrink_window_seconds,
        cool_down_seconds=behaviour.cool_down_seconds,
        idle_seconds=behaviour.idle_seconds,
        accelerators_each=accelerators_of(spec),
        hardware=cost.hardware if cost is not None else None,
        price_per_hour=cost.price_per_hour if cost is not None else None,
        carbon_kilograms_per_hour=(cost.carbon_kilograms_per_hour or 0.0) if cost is not None else 0.0,
        convertible=behaviour.convert_roles,
    )


def accelerators_of(spec: PoolSpec) -> int:
    """Of one instance: as its cost says, else what the engine's container asks for, else 1."""
    if spec.scaling.instance is not None and spec.scaling.instance.accelerators is not None:
        return spec.scaling.instance.accelerators
    template = spec.workload.template
    containers = (template.spec.get("containers") or ()) if template is not None else ()
    for container in containers:
        if container.get("name") != spec.engine.container:
            continue
        limits = (container.get("resources") or {}).get("limits") or {}
        for name, amount in sorted(limits.items()):
            if name.endswith("/gpu"):
                return max(1, int(quantity_value(amount)))
    return 1


def pool_observation(
    pool: ObservedPool, spec: PoolSpec, measured: Measured, now: datetime, *, managed: bool
) -> PoolObservation:
    """One pool of this cluster."""
    alive = [pod for pod in pool.pods if is_alive(pod)]
    return PoolObservation(
        name=str(pool.key),
        role=Role.PREFILL if pool.key.kind == PREFILL_POOL else Role.DECODE,
        cluster=pool.geography.cluster,
        region=pool.geography.region,
        model=spec.model.name,
        replicas=spec.replicas,
        ready=sum(pod.ready and pod.drain_since is None for pod in alive),
        managed=managed,
        waiting=_waiting(pool, now),
        load=measured.load.load,
        arrivals=measured.load.arrivals,
        attainment=measured.load.attainment,
        profile=measured.profile,
        start_seconds=measured.start_seconds,
    )


def elsewhere_observation(pool: ObservedPool, spec: PoolSpec, region: str) -> PoolObservation:
    """A pool that another region runs, of which nothing is known here but that it is there."""
    return PoolObservation(
        name=f"{pool.key} in {region}",
        role=Role.PREFILL if pool.key.kind == PREFILL_POOL else Role.DECODE,
        cluster=region,
        region=region,
        model=spec.model.name,
        replicas=pool.status.ready_replicas,
        ready=pool.status.ready_replicas,
        managed=False,
    )


def _waiting(pool: ObservedPool, now: datetime) -> Waiting:
    waiting = [pod for pod in pool.pods if waits_for_node(pod, now)]
    refused = any(names_quota(each.failure) for each in pool.deployments)
    if sum(is_ending(pod, now) for pod in pool.pods) >= len(waiting):
        # They get the accelerators of those that end: that is no lack.
        waiting = []
    if not waiting and not refused:
        return Waiting()
    alive = sum(is_alive(pod) for pod in pool.pods)
    wanted = sum(each.replicas for each in pool.deployments if each.ours)
    count = max(len(waiting), wanted - alive if refused else 0, 1)
    oldest = max(((now - pod.created_at).total_seconds() for pod in waiting), default=0.0)
    gated = refused or any(pod.gates for pod in waiting)
    return Waiting(count, max(0.0, oldest), Shortage.QUOTA_PENDING if gated else Shortage.NO_CAPACITY)


def starts_of(pool: ObservedPool, known: Collection[str]) -> tuple[dict[str, float], tuple[float, ...]]:
    """Seconds from creation to ready of pods that are not known yet, by uid; and those alone. A pod that was
    restarted measures something else.
    """
    found = {
        pod.uid: max(0.0, (pod.ready_changed_at - pod.created_at).total_seconds())
        for pod in pool.pods
        if pod.uid not in known
        and is_alive(pod)
        and pod.ready
        and pod.restarts == 0
        and pod.ready_changed_at is not None
    }
    return found, tuple(found.values())[-START_SAMPLES_MAX:]


def route_observations(
    routes: Iterable[tuple[str, PrefillRouteSpec, Mapping[str, str]]],
    pools: Mapping[PoolKey, tuple[str, ...]],
    geography: Geography,
    now: datetime,
) -> list[RouteObservation]:
    """Routes in force: one that observes only, or is local by an override, moves no load.

    Args:
        routes: namespace, spec and annotations.
        pools: names in the observation, by key: one for each region that has it.
    """
    found = {}
    for namespace, spec, overrides in routes:
        policy = policy_of(spec, overrides, now)
        if policy.mode is RouteMode.OBSERVE or policy.local_only is not None:
            continue
        decode, prefill = keys_of_route(namespace, spec)
        for target in pools.get(decode, ()):
            for key in prefill:
                for source in pools.get(key, ()):
                    found[source, target] = RouteObservation(source, target)
    return [found[place] for place in sorted(found)]


def link_observation(
    *,
    source: str,
    target: str,
    capacity: float | None,
    goodput: float | None,
    utilisation_percent: float | None,
    rtt_seconds: float | None,
    price_per_gibibyte: float | None,
    conditions: Mapping[str, str],
    age_seconds: float,
    budget_spent: bool = False,
) -> LinkObservation:
    """A KVLink's spec and status. Its goodput is of busy time: what the path can carry, where nothing else
    says so.
    """
    state = LinkState.UNKNOWN
    if conditions.get("Down") == "True":
        state = LinkState.DOWN
    elif budget_spent:
        state = LinkState.SPENT
    elif conditions.get("Congested") == "True":
        state = LinkState.CONGESTED
    elif conditions.get("Healthy") in {"True", "Unknown"} or conditions.get("Congested") == "False":
        # A link on which nothing was tried lately is idle, and not unknown.
        state = LinkState.HEALTHY
    return LinkObservation(
        source,
        target,
        state,
        goodput if capacity is None else capacity,
        goodput if utilisation_percent is not None else None,
        None if utilisation_percent is None else utilisation_percent / 100,
        age_seconds,
        rtt_seconds or 0.0,
        0.0 if price_per_gibibyte is None else price_per_gibibyte / 1.073741824,
    )


ROLES = {PREFILL_POOL: Role.PREFILL, DECODE_POOL: Role.DECODE}
