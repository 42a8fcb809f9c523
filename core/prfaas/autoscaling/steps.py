"""The steps from what a load needs to what is asked for, each a change of drafts. `decide` has the order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prfaas.autoscaling.decision import Cause, Conversion, Limit, LoadOffer
from prfaas.autoscaling.draft import Draft
from prfaas.autoscaling.links import LinkVerdict
from prfaas.autoscaling.observation import Observation, PoolObservation, Role, Shortage
from prfaas.autoscaling.prices import Prices
from prfaas.autoscaling.settings import Settings
from prfaas.autoscaling.state import PoolState, noted

OFFERED = frozenset(
    {
        Limit.LINK_SATURATED,
        Limit.LINK_DOWN,
        Limit.LINK_BUDGET,
        Limit.LINK_UNKNOWN,
        Limit.NO_CAPACITY,
        Limit.QUOTA_PENDING,
        Limit.QUOTA,
        Limit.BUDGET,
        Limit.MAXIMUM,
    }
)


def behind_links(draft: Draft, settings: Settings) -> None:
    """No growth of prefill capacity that its links cannot carry."""
    draft.wanted = draft.needed
    growth = draft.needed - draft.replicas
    if growth <= 0 or draft.pool.role is not Role.PREFILL:
        return
    reach = draft.reach
    if (
        draft.replicas == 0
        and reach.is_closed
        and all(each.closed is Limit.LINK_UNKNOWN for each in reach.closed)
    ):
        # Nobody could have measured the link, and it stays so until somebody uses it.
        draft.wanted = 1
        if draft.needed > 1:
            draft.limited(
                Limit.LINK_UNKNOWN, f"{reach.closed[0].sentence}: one instance will show what it carries"
            )
    elif reach.is_closed:
        draft.wanted = draft.replicas
        why = reach.closed[0]
        draft.limited(why.closed or Limit.LINK_UNKNOWN, f"{why.sentence}: nothing is added behind it")
    elif not draft.by_model:
        allowed = draft.replicas + math.ceil(growth * reach.open_share)
        if math.isfinite(reach.room_bits_per_second):
            # In this order: a share next to nothing would allow more than a number can hold.
            fills = settings.link_full_above * draft.replicas
            if allowed * reach.tightest_share > fills:
                allowed = max(draft.replicas, int(fills / reach.tightest_share))
        if allowed < draft.needed:
            draft.wanted = allowed
            why_not = (
                reach.closed[0].sentence
                if reach.closed
                else f"link {reach.tightest} would be saturated by more"
            )
            draft.limited(Limit.LINK_SATURATED, why_not)
    draft.refused = draft.needed - draft.wanted


def take_over(drafts: Mapping[str, Draft], observation: Observation, prices: Prices) -> None:
    """What one prefill pool may not add behind its link, another adds that reaches the same decode pools."""
    taken: dict[str, int] = {}
    for draft in sorted(drafts.values(), key=lambda each: each.name):
        if draft.refused <= 0 or draft.pool.role is not Role.PREFILL:
            continue
        able = [
            each
            for each in drafts.values()
            if each.name != draft.name
            and each.pool.role is Role.PREFILL
            and each.pool.model == draft.pool.model
            and each.active
            and not each.reach.is_closed
            and each.refused == 0
            and not each.pool.waiting.instances
            and _serve_alike(draft.name, each.name, observation)
        ]
        able.sort(key=lambda each: (prices.total(each.name), -each.reach.room_bits_per_second, each.name))
        for each in able:
            # On top of what its own load needs, not of what it has: what it took over before is in there.
            own = each.need.up if each.need is not None else each.replicas
            enough = min(each.own.maximum, own + taken.get(each.name, 0) + draft.refused)
            taking = enough - own - taken.get(each.name, 0)
            if taking <= 0:
                continue
            taken[each.name] = taken.get(each.name, 0) + taking
            draft.refused -= taking
            if enough > each.wanted:
                each.wanted = each.needed = enough
                each.because(
                    Cause.TAKES_OVER, f"takes over what {draft.name} cannot add: {draft.limit_sentence}"
                )
            if draft.refused == 0:
                break


def _serve_alike(one: str, other: str, observation: Observation) -> bool:
    served = [
        {route.decode_pool for route in observation.routes if route.prefill_pool == name}
        for name in (one, other)
    ]
    return bool(served[0] & served[1])


def stabilised(draft: Draft, settings: Settings, now: float) -> PoolState:
    """Grow when that was wanted for the whole window, shrink likewise; not to and fro; in bounded steps.

    Returns what to remember: `wanted` becomes a part of the history.
    """
    own, replicas = draft.own, draft.replicas
    keep = max(own.grow_window_seconds, own.shrink_window_seconds, settings.conversion_window_seconds)
    memory = draft.memory
    if draft.active:
        memory = replace(memory, wanted=noted(memory.wanted, now, draft.wanted, keep))
    draft.desired = replicas
    if not draft.active:
        return memory
    if draft.wanted > replicas:
        wakes = replicas == 0
        least = memory.least_wanted(own.grow_window_seconds, now)
        target = draft.wanted if wakes or own.grow_window_seconds == 0 or least is None else least
        if now - memory.since < own.grow_window_seconds and not wakes:
            target = replicas
        if target <= replicas:
            draft.limited(
                Limit.STABILISING,
                f"more has to be wanted for {own.grow_window_seconds:.0f} s before it is added",
            )
        elif not wakes and _within(memory.shrank_at, own.cool_down_seconds, now):
            draft.limited(Limit.COOLING_DOWN, f"it shrank less than {own.cool_down_seconds:.0f} s ago")
        else:
            draft.desired = target
    elif draft.wanted < replicas:
        cool = max(own.cool_down_seconds, draft.start_seconds if memory.grew_at is not None else 0.0)
        most = memory.most_wanted(own.shrink_window_seconds, now)
        if most is None or most >= replicas:
            draft.limited(
                Limit.STABILISING,
                f"fewer have to be enough for {own.shrink_window_seconds:.0f} s before any is taken away",
            )
        elif _within(memory.grew_at, cool, now):
            draft.limited(Limit.COOLING_DOWN, f"it grew less than {cool:.0f} s ago")
        else:
            draft.desired = most
    step = max(own.step_instances, math.ceil(replicas * own.step_share))
    bounded = min(max(draft.desired, replicas - step), replicas + step)
    if bounded != draft.desired:
        draft.limited(Limit.STEP, f"at most {step} instances more or fewer in one step")
        draft.desired = bounded
    return memory


def _within(then: float | None, seconds: float, now: float) -> bool:
    return then is not None and now - then < seconds


def without_room(draft: Draft, settings: Settings) -> None:
    """Instances that wait for a node: nothing more is asked for while they do."""
    waiting = draft.pool.waiting
    if not waiting.instances:
        return
    if draft.desired > draft.replicas:
        draft.desired = draft.replicas
    if draft.wanted < draft.replicas:
        return
    patience = max(settings.patience_seconds, 2 * draft.start_seconds)
    if waiting.why is None and waiting.oldest_seconds <= patience:
        return
    limit = Limit.QUOTA_PENDING if waiting.why is Shortage.QUOTA_PENDING else Limit.NO_CAPACITY
    draft.limit, draft.limit_sentence = (
        limit,
        f"{waiting.instances} instances have been without a node for {waiting.oldest_seconds:.0f} s"
        f" ({waiting.why or 'no reason told'}): no more are asked for",
    )
    missing = draft.needed - (draft.replicas - waiting.instances)
    if waiting.why is Shortage.QUOTA_PENDING or waiting.oldest_seconds > patience:
        draft.refused = max(draft.refused, missing)


def convert(drafts: Mapping[str, Draft], settings: Settings, now: float) -> list[Conversion]:
    """Instances of a role that has too many become those of one that lacks some, in the same cluster."""
    found = []
    for receiver in sorted(drafts.values(), key=lambda each: each.name):
        lacks = min(receiver.wanted, receiver.own.maximum) - receiver.replicas
        least = receiver.memory.least_wanted(receiver.own.grow_window_seconds, now)
        if lacks <= 0 or not receiver.own.convertible or receiver.replicas == 0:
            continue
        if receiver.desired <= receiver.replicas and (least is None or least <= receiver.replicas):
            # Growth is not settled yet.
            continue
        if _within(receiver.memory.shrank_at, receiver.own.cool_down_seconds, now):
            continue
        for donor in sorted(drafts.values(), key=lambda each: each.name):
            spare = _spare(donor, receiver, settings, now)
            count = min(lacks, spare)
            if count <= 0:
                continue
            lacks -= count
            donor.converted += count
            receiver.converted += count
            donor.desired = min(donor.desired, donor.replicas - donor.converted)
            receiver.desired = max(receiver.desired, receiver.replicas + receiver.converted)
            sentence = (
                f"{count} of {donor.name} become {receiver.name}: {donor.wanted} of {donor.replicas} are"
                f" enough there, {receiver.wanted} are needed here"
            )
            donor.because(Cause.CONVERTED, sentence)
            receiver.because(Cause.CONVERTED, sentence)
            for each in (donor, receiver):
                each.limit, each.limit_sentence = None, ""
            found.append(Conversion(donor.name, receiver.name, count, sentence))
    return found


def _spare(donor: Draft, receiver: Draft, settings: Settings, now: float) -> int:
    """Instances of the donor that are not needed, and fit."""
    own = donor.own
    if (
        donor.name == receiver.name
        or donor.pool.role is receiver.pool.role
        or donor.pool.cluster != receiver.pool.cluster
        or donor.pool.model != receiver.pool.model
        or own.accelerators_each != receiver.own.accelerators_each
        or own.hardware != receiver.own.hardware
        or not own.convertible
        or not donor.active
        or donor.pool.waiting.instances
    ):
        return 0
    if _within(donor.memory.grew_at, max(own.cool_down_seconds, donor.start_seconds), now):
        return 0
    most = donor.memory.most_wanted(settings.conversion_window_seconds, now)
    if most is None:
        return 0
    # At least one stays: going to zero is for idle pools.
    return donor.replicas - donor.converted - max(most, own.minimum, 1)


def within_bounds(draft: Draft) -> None:
    """Minimum and maximum come before all else but quotas and the budget."""
    own = draft.own
    if draft.desired > own.maximum or (draft.wanted > own.maximum and draft.desired >= own.maximum):
        draft.limit, draft.limit_sentence = (
            Limit.MAXIMUM,
            f"maxReplicas is {own.maximum}, {draft.needed} are needed",
        )
        draft.refused = max(draft.refused, draft.needed - own.maximum)
    elif draft.desired < own.minimum or (draft.active and draft.wanted < own.minimum == draft.desired):
        draft.limit, draft.limit_sentence = (
            Limit.MINIMUM,
            f"minReplicas is {own.minimum}, {draft.needed} would do",
        )
    bounded = min(max(draft.desired, own.minimum), own.maximum)
    if bounded != draft.desired and not own.minimum <= draft.replicas <= own.maximum:
        draft.because(Cause.BOUNDS, f"{draft.replicas} are outside of minReplicas and maxReplicas")
    draft.desired = bounded


def within_quotas(drafts: Mapping[str, Draft], observation: Observation, prices: Prices) -> None:
    """Accelerators that pools have together. Growth is given up first, the dearest pool's first."""
    by_name = {pool.name: pool for pool in observation.pools}
    for quota in observation.quotas:
        members = [drafts[name] for name in sorted(quota.pools) if name in drafts]
        others = sum(by_name[name].replicas for name in quota.pools if name in by_name and name not in drafts)

        def used(members: Sequence[Draft] = members, others: int = others) -> float:
            return others + sum(each.desired * each.own.accelerators_each for each in members)

        while used() > quota.accelerators:
            growing = [each for each in members if each.desired > max(each.replicas, each.own.minimum)]
            if not growing:
                break
            each = max(growing, key=lambda draft: (prices.total(draft.name), draft.name))
            each.desired -= 1
            each.refused = max(each.refused, each.needed - each.desired)
            each.limit, each.limit_sentence = (
                Limit.QUOTA,
                f"quota {quota.name} has {quota.accelerators:g} accelerators",
            )


def within_budget(drafts: Mapping[str, Draft], settings: Settings, prices: Prices) -> str:
    """Cut down to the budget: growth first, then what there is, prefill before decode, the dearest first.
    Minimums stay. Returns a note when they alone are too dear, else "".
    """
    budget = settings.budget_per_hour
    if budget is None or not drafts:
        return ""

    def cost() -> float:
        return sum(each.desired * prices.by_pool[each.name][0] for each in drafts.values())

    while cost() > budget * (1 + 1e-9):
        able = [
            each
            for each in drafts.values()
            if each.desired > each.own.minimum and prices.by_pool[each.name][0] > 0
        ]
        if not able:
            return f"the minimums alone cost {cost():.4g} per hour, the budget is {budget:.4g}"
        each = max(
            able,
            key=lambda draft: (
                draft.desired > draft.replicas,
                draft.pool.role is Role.PREFILL,
                prices.by_pool[draft.name][0],
                draft.name,
            ),
        )
        each.desired -= 1
        each.refused = max(each.refused, each.needed - each.desired)
        each.limit, each.limit_sentence = Limit.BUDGET, f"the budget is {budget:.4g} per hour"
        if each.desired < each.replicas:
            each.because(Cause.BUDGET, f"{cost():.4g} per hour are within the budget of {budget:.4g}")
    return ""


def offers_of(
    drafts: Mapping[str, Draft],
    observation: Observation,
    verdicts: Mapping[str, LinkVerdict],
    prices: Prices,
) -> list[LoadOffer]:
    """What cannot be served where it should be, and who could serve it."""
    found = []
    for draft in sorted(drafts.values(), key=lambda each: each.name):
        if draft.refused <= 0 or draft.limit not in OFFERED:
            continue
        able = [
            pool
            for pool in observation.pools
            if pool.name != draft.name
            and pool.model == draft.pool.model
            and pool.ready > 0
            and not pool.waiting.instances
            and _has_spare(pool, drafts)
            and _can_take(pool, draft.pool, observation, verdicts)
        ]
        able.sort(key=lambda pool: (prices.total(pool.name), _share(pool), pool.name))
        names = tuple(pool.name for pool in able)
        whom = f"offered to {', '.join(names)}" if names else "nobody is known that could take it"
        found.append(
            LoadOffer(
                pool=draft.name,
                region=draft.pool.region,
                model=draft.pool.model,
                instances=draft.refused,
                limit=draft.limit,
                to_pools=names,
                sentence=f"load of {draft.refused} instances: {draft.limit_sentence}; {whom}",
            )
        )
    return found


def _has_spare(pool: PoolObservation, drafts: Mapping[str, Draft]) -> bool:
    draft = drafts.get(pool.name)
    if draft is not None:
        return draft.refused == 0 and draft.needed <= pool.ready
    return _share(pool) < 0.75 and (pool.load is None or pool.load.queued == 0)


def _share(pool: PoolObservation) -> float:
    return 0.0 if pool.load is None else pool.load.utilisation


def _can_take(
    pool: PoolObservation,
    lacking: PoolObservation,
    observation: Observation,
    verdicts: Mapping[str, LinkVerdict],
) -> bool:
    """Prefill for the same decode pools over a path with room, or decode in another region."""
    if pool.role is Role.DECODE:
        return lacking.role is Role.DECODE and pool.region != lacking.region
    regions = {each.name: each.region for each in observation.pools}
    for route in observation.routes:
        if route.prefill_pool != pool.name:
            continue
        shares = (
            route.decode_pool == lacking.name
            if lacking.role is Role.DECODE
            else _serve_alike(pool.name, lacking.name, observation)
        )
        target = regions[route.decode_pool]
        verdict = verdicts.get(f"{pool.region}-{target}")
        if shares and (target == pool.region or (verdict is not None and verdict.closed is None)):
            return True
    return False
