"""One decision: from what was seen and remembered to a size for each pool, with reasons.

A function of values: `now` is a value, nothing is read or written, and the same arguments give the same
answer (unless a plan runs into its time limit).

Order: what is remembered, links, demand, needs (the capacity model's, and those measured), growth behind
links and who takes it over, windows, room in the cluster, conversions, bounds, quotas, budget, offers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from prfaas.autoscaling import steps
from prfaas.autoscaling.decision import Cause, Conversion, Decision, Input, PoolDecision
from prfaas.autoscaling.demand import (
    Expected,
    expected,
    is_called,
    remembered,
    rise_of,
    start_seconds_of,
)
from prfaas.autoscaling.draft import Draft
from prfaas.autoscaling.forecast import SEASONAL_NAIVE, Forecaster
from prfaas.autoscaling.links import LinkVerdict, judged, reach_of
from prfaas.autoscaling.modelled import Modelled, groups, planned
from prfaas.autoscaling.needs import Need, instances_for, measured_need
from prfaas.autoscaling.observation import Load, Observation, PoolObservation, Role
from prfaas.autoscaling.prices import Prices, prices_of
from prfaas.autoscaling.settings import PoolSettings, Settings
from prfaas.autoscaling.state import PoolState, State
from prfaas.autoscaling.words import would_change

if TYPE_CHECKING:
    from prfaas.planner.plan import Plan

# Busier than this by its own account, a pool is in trouble, whatever a model says.
TROUBLE_ABOVE = 0.95


def _no_time_passes() -> float:
    return 0.0


def decide(
    observation: Observation,
    settings: Settings,
    state: State,
    now: float,
    *,
    elapsed_seconds: Callable[[], float] = _no_time_passes,
    forecaster: Forecaster = SEASONAL_NAIVE,
) -> Decision:
    """A size for every managed pool that has settings.

    Args:
        state: what the decision before returned; an empty one at first.
        now: seconds since the epoch; never less than that of the decision before.
        elapsed_seconds: how long the caller has been waiting, for the planner's time limit.

    Raises:
        InvalidInputError: an observation that makes no sense; names field and remedy. Keep the sizes.
    """
    verdicts, link_memory = judged(observation.links, state.links, settings, now)
    memories = remembered(observation, state.pools, settings, now)
    prices = prices_of(observation, settings, now)
    expectations = expected(observation.pools, memories, settings, forecaster)
    sizes, plans, notes = _modelled(observation, settings, verdicts, prices, expectations, elapsed_seconds)

    by_name = {pool.name: pool for pool in observation.pools}
    drafts: dict[str, Draft] = {}
    for pool in sorted(observation.pools, key=lambda each: each.name):
        own = settings.pools.get(pool.name)
        if own is None or not pool.managed:
            continue
        memory = memories[pool.name]
        draft = Draft(
            pool,
            own,
            memory,
            start_seconds_of(memory, settings),
            reach_of(pool, observation, by_name, verdicts),
        )
        _need(draft, observation, settings, sizes.get(pool.name), expectations, now)
        steps.behind_links(draft, settings)
        drafts[pool.name] = draft

    steps.take_over(drafts, observation, prices)
    for draft in drafts.values():
        draft.memory = steps.stabilised(draft, settings, now)
        steps.without_room(draft, settings)
    conversions = steps.convert(drafts, settings, now)
    for draft in drafts.values():
        steps.within_bounds(draft)
    steps.within_quotas(drafts, observation, prices)
    too_dear = steps.within_budget(drafts, settings, prices)
    offers = steps.offers_of(drafts, observation, verdicts, prices)

    for draft in drafts.values():
        memories[draft.name] = _after(draft, now)
    return Decision(
        time=now,
        pools=tuple(_decision(draft, settings) for draft in drafts.values()),
        conversions=tuple(_kept(conversions, drafts)),
        offers=tuple(offers),
        state=State(memories, link_memory),
        plans=tuple(plans),
        notes=tuple(note for note in (*notes, prices.note, too_dear) if note),
    )


def _modelled(
    observation: Observation,
    settings: Settings,
    verdicts: Mapping[str, LinkVerdict],
    prices: Prices,
    expectations: Mapping[str, Expected],
    elapsed_seconds: Callable[[], float],
) -> tuple[dict[str, Modelled], list[Plan], list[str]]:
    """Sizes by pool of the groups that the capacity model can be asked for."""
    sizes: dict[str, Modelled] = {}
    plans: list[Plan] = []
    notes: list[str] = []
    for group in groups(observation):
        if not any(pool.managed and pool.name in settings.pools for pool in group):
            continue
        demands = {}
        for pool in group:
            if pool.role is Role.DECODE and pool.name in expectations:
                own = settings.pools.get(pool.name)
                queued = pool.load.queued if pool.load is not None else 0.0
                seconds = own.drain_seconds if own is not None else 60.0
                demands[pool.name] = expectations[pool.name].per_second + queued / seconds
        found = planned(group, observation, settings, verdicts, prices, demands, elapsed_seconds)
        sizes.update(found.sizes)
        if found.plan is not None:
            plans.append(found.plan)
        if found.note:
            notes.append(f"{group[0].name}: {found.note}" if len(group) == 1 else found.note)
    return sizes, plans, notes


def _need(
    draft: Draft,
    observation: Observation,
    settings: Settings,
    model: Modelled | None,
    expectations: Mapping[str, Expected],
    now: float,
) -> None:
    """What the pool's load needs, and why."""
    pool, own = draft.pool, draft.own
    blamed = _is_to_blame(pool, observation)
    seen = measured_need(pool, own, settings, draft.start_seconds, blamed=blamed)
    rise = rise_of(pool, observation, expectations)
    ahead = seen
    if seen is not None and rise > 1:
        ahead = _risen(seen, rise, own, settings)
    _inputs(draft, seen, model, expectations, settings)
    called = is_called(pool, observation, expectations)
    if model is not None:
        need = _combined(model, seen, pool, own, settings)
        draft.by_model = need.cause not in {Cause.QUEUE_GREW, Cause.OBJECTIVE_MISSED}
    elif ahead is not None:
        need = ahead
    elif pool.replicas == 0 or (pool.ready == 0 and not called and pool.name in expectations):
        need = Need(0, 0, Cause.STEADY, 0.0, "no load was seen")
    else:
        draft.wanted = draft.needed = pool.replicas
        draft.because(Cause.LOAD_UNKNOWN, _unknown(pool, settings))
        return
    draft.need = need
    if pool.replicas == 0:
        if called and need.up == 0 and model is None:
            need = Need(1, 1, Cause.WOKE_UP, need.busy_instances, "there is load, and no instance")
        draft.needed = need.up
        cause = Cause.WOKE_UP if need.up else Cause.IDLE
        draft.because(cause, need.sentence if need.up else "there is no load, and no instance")
        return
    wanted = need.wanted(pool.replicas)
    if wanted == 0:
        idle_since = draft.memory.busy_at if draft.memory.busy_at is not None else draft.memory.since
        if own.minimum == 0 and not called and now - idle_since >= own.idle_seconds:
            draft.needed = 0
            draft.because(Cause.IDLE, f"without load for {now - idle_since:.0f} s")
            return
        wanted = 1
    draft.needed = wanted
    if wanted > pool.replicas:
        cause = need.cause
        if seen is not None and ahead is not seen and seen.wanted(pool.replicas) < wanted and model is None:
            cause = Cause.FORECAST_ROSE
        draft.because(cause, need.sentence)
    elif wanted < pool.replicas:
        draft.because(Cause.LOAD_FELL, need.sentence)
    else:
        draft.because(Cause.STEADY, need.sentence)


def _risen(need: Need, rise: float, own: PoolSettings, settings: Settings) -> Need:
    busy = need.busy_instances * rise
    up = max(need.up, instances_for(busy, own.utilisation_target))
    down = max(need.down, up, instances_for(busy, own.utilisation_target * (1 - settings.shrink_margin)))
    return Need(up, down, need.cause, busy, f"{busy:.2f} instances' worth of work is to come")


def _combined(
    model: Modelled, seen: Need | None, pool: PoolObservation, own: PoolSettings, settings: Settings
) -> Need:
    """The model's size; more when the pool is in trouble by its own account, and never so few that it would
    be.
    """
    up = model.instances
    down = max(up, instances_for(model.busy_instances, own.utilisation_target * (1 - settings.shrink_margin)))
    cause, sentence = Cause.LOAD_ROSE, model.sentence
    if seen is not None:
        down = max(down, instances_for(seen.busy_instances, TROUBLE_ABOVE))
        busy = pool.load is not None and pool.load.utilisation >= TROUBLE_ABOVE
        if seen.up > up and (busy or seen.cause in {Cause.QUEUE_GREW, Cause.OBJECTIVE_MISSED}):
            up, cause, sentence = seen.up, seen.cause, seen.sentence
            down = max(down, seen.down)
    return Need(up, down, cause, model.busy_instances, sentence)


def _is_to_blame(pool: PoolObservation, observation: Observation) -> bool:
    """Of the pools that serve the same clients, the busiest answers for late answers."""
    if pool.role is Role.DECODE:
        circle = {pool.name} | {
            route.prefill_pool for route in observation.routes if route.decode_pool == pool.name
        }
    else:
        served = {route.decode_pool for route in observation.routes if route.prefill_pool == pool.name}
        circle = {pool.name} | served
    by_name = {each.name: each for each in observation.pools}

    def busy(name: str) -> tuple[float, str]:
        load: Load | None = by_name[name].load
        return (load.utilisation + (1.0 if load.queued else 0.0) if load is not None else 0.0, name)

    return max(circle, key=busy) == pool.name


def _unknown(pool: PoolObservation, settings: Settings) -> str:
    if pool.ready == 0:
        return "no instance is ready yet that could tell of its load"
    if pool.load is None or pool.load.reporting == 0:
        return "no engine tells of its load: look at its sidecar's /status"
    return (
        f"the load was last told {pool.load.age_seconds:.0f} s ago, more than"
        f" {settings.load_max_age_seconds:.0f} s"
    )


def _inputs(
    draft: Draft,
    seen: Need | None,
    model: Modelled | None,
    expectations: Mapping[str, Expected],
    settings: Settings,
) -> None:
    pool, add = draft.pool, draft.inputs.append
    add(Input("ready", pool.ready))
    if pool.load is not None:
        add(Input("utilisation", pool.load.utilisation))
        add(Input("running", pool.load.running, "requests"))
        add(Input("queued", pool.load.queued, "requests"))
        if pool.load.age_seconds > settings.load_max_age_seconds:
            add(Input("loadAge", pool.load.age_seconds, "s"))
    own = expectations.get(pool.name)
    if own is not None:
        add(Input("arrivals", own.now_per_second or 0.0, "requests/s"))
        if own.per_second > (own.now_per_second or 0.0):
            add(Input("forecast", own.per_second, "requests/s"))
    if pool.attainment is not None:
        add(Input("objectiveMet", pool.attainment.share))
    if seen is not None:
        add(Input("measuredNeed", seen.up, "instances"))
    if model is not None:
        add(Input("modelNeed", model.instances, "instances"))
    for closed in draft.reach.closed[:1]:
        if closed.used_share is not None:
            add(Input("linkUtilisation", closed.used_share))
    if pool.waiting.instances:
        add(Input("withoutNode", pool.waiting.instances, "instances"))
    add(Input("startSeconds", draft.start_seconds, "s"))


def _after(draft: Draft, now: float) -> PoolState:
    if draft.desired > draft.replicas:
        return replace(draft.memory, grew_at=now)
    if draft.desired < draft.replicas:
        return replace(draft.memory, shrank_at=now)
    return draft.memory


def _decision(draft: Draft, settings: Settings) -> PoolDecision:
    limit, limit_sentence = draft.limit, draft.limit_sentence
    if draft.desired == draft.needed and draft.refused <= 0:
        limit, limit_sentence = None, ""
    return PoolDecision(
        pool=draft.name,
        before=draft.replicas,
        desired=draft.desired,
        needed=draft.needed,
        cause=draft.cause,
        sentence=draft.sentence,
        limit=limit,
        limit_sentence=limit_sentence,
        inputs=tuple(draft.inputs),
        would_change=would_change(draft, settings),
        active=draft.active,
    )


def _kept(conversions: list[Conversion], drafts: Mapping[str, Draft]) -> list[Conversion]:
    """Without those that bounds or the budget have undone."""
    return [
        each
        for each in conversions
        if drafts[each.from_pool].desired < drafts[each.from_pool].replicas
        and drafts[each.to_pool].desired > drafts[each.to_pool].replicas
    ]
