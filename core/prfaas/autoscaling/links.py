"""Which links have room for more, and which prefill pools may therefore grow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prfaas.autoscaling.decision import Limit
from prfaas.autoscaling.observation import LinkObservation, LinkState, Observation, PoolObservation
from prfaas.autoscaling.settings import Settings
from prfaas.autoscaling.state import LinkMemory


@dataclass(frozen=True, slots=True)
class LinkVerdict:
    """Attributes:
    closed: why nothing may grow behind it; None: it has room.
    usable_bits_per_second: what may be planned for; 0: nothing; None: unknown.
    used_share: None: unknown.
    """

    link: LinkObservation
    closed: Limit | None
    usable_bits_per_second: float | None
    used_share: float | None
    sentence: str

    @property
    def room_bits_per_second(self) -> float:
        """What it could carry beyond what it carries; 0 where that is not known."""
        if self.closed is not None or self.usable_bits_per_second is None:
            return 0.0
        return max(0.0, self.usable_bits_per_second * (1 - (self.used_share or 0.0)))


def judged(
    links: Iterable[LinkObservation], memory: Mapping[str, LinkMemory], settings: Settings, now: float
) -> tuple[dict[str, LinkVerdict], dict[str, LinkMemory]]:
    """A verdict on each link, and what to remember of it."""
    verdicts, after = {}, {}
    for link in links:
        verdicts[link.name], after[link.name] = _judge(
            link, memory.get(link.name, LinkMemory()), settings, now
        )
    return verdicts, after


def _judge(
    link: LinkObservation, before: LinkMemory, settings: Settings, now: float
) -> tuple[LinkVerdict, LinkMemory]:
    share = link.used_share
    if link.age_seconds > settings.link_max_age_seconds or link.state is LinkState.UNKNOWN:
        why = (
            f"link {link.name} was last measured {link.age_seconds:.0f} s ago"
            if link.age_seconds > settings.link_max_age_seconds
            else f"nothing is known of link {link.name}"
        )
        return LinkVerdict(link, Limit.LINK_UNKNOWN, link.capacity_bits_per_second, share, why), before
    if link.state is LinkState.DOWN:
        return (
            LinkVerdict(link, Limit.LINK_DOWN, 0.0, share, f"link {link.name} is down"),
            before.closed(now),
        )
    if link.state is LinkState.SPENT:
        why = f"the month's budget of link {link.name} is spent"
        return LinkVerdict(link, Limit.LINK_BUDGET, 0.0, share, why), before
    is_full = link.state is LinkState.CONGESTED or (share is not None and share >= settings.link_full_above)
    has_room = not is_full and (share is None or share < settings.link_room_below)
    settle = before.settle_seconds(settings.link_settle_seconds)
    if is_full:
        after = before.closed(now)
    elif before.full and not has_room:
        after = replace(before, room_since=None)
    elif before.full:
        since = now if before.room_since is None else before.room_since
        full = now - since < settle
        after = replace(before, full=full, room_since=since if full else None)
    else:
        after = before
    usable = _usable(link, full=after.full)
    how_full = _how_full(link)
    if not after.full:
        return LinkVerdict(link, None, usable, share, f"link {link.name}{how_full} has room"), after
    if after.room_since is not None:
        left = settle - (now - after.room_since)
        why = f"link {link.name}{how_full} has room again and is watched for {left:.0f} s more"
    else:
        why = f"link {link.name} is saturated{how_full}"
    return LinkVerdict(link, Limit.LINK_SATURATED, usable, share, why), after


def _how_full(link: LinkObservation) -> str:
    share = link.used_share
    text = "" if share is None else f" at {share:.0%}"
    if link.capacity_bits_per_second is not None:
        text += f" of {link.capacity_bits_per_second / 1e9:.3g} Gbit/s"
    return text


def _usable(link: LinkObservation, *, full: bool) -> float | None:
    """A full link carries what it is measured to carry, whatever it is said to be able to."""
    if full and link.goodput_bits_per_second:
        return link.goodput_bits_per_second
    return link.capacity_bits_per_second


@dataclass(frozen=True, slots=True)
class Reach:
    """How a prefill pool reaches the decode pools of its routes.

    Attributes:
        open_share: share of what it does that goes where there is room; 1 without any link.
        closed: verdicts on the links without room that it uses.
        tightest_share: of the fullest open link; 0 without one.
        room_bits_per_second: of the widest open path; infinite inside one region.
        tightest: names the fullest open link, with how full it is; "" without one.
    """

    open_share: float
    closed: tuple[LinkVerdict, ...]
    tightest_share: float
    room_bits_per_second: float
    tightest: str = ""

    @property
    def is_closed(self) -> bool:
        return bool(self.closed) and self.open_share == 0


def reach_of(
    pool: PoolObservation,
    observation: Observation,
    by_name: Mapping[str, PoolObservation],
    verdicts: Mapping[str, LinkVerdict],
) -> Reach:
    """What stands between a prefill pool and those that it serves.

    Routes whose traffic is not known count alike. A path that no link is known for is closed: nothing says
    that it could carry anything.
    """
    closed, open_weight, all_weight, tightest, room, which = [], 0.0, 0.0, 0.0, 0.0, ""
    routes = [route for route in observation.routes if route.prefill_pool == pool.name]
    known = all(route.requests_per_second is not None for route in routes)
    total = sum(route.requests_per_second or 0.0 for route in routes)
    for route in routes:
        weight = (route.requests_per_second or 0.0) if known and total > 0 else 1.0
        all_weight += weight
        target = by_name[route.decode_pool].region
        if target == pool.region:
            open_weight, room = open_weight + weight, math.inf
            continue
        verdict = verdicts.get(f"{pool.region}-{target}") or _no_link(pool.region, target)
        if verdict.closed is not None:
            closed.append(verdict)
            continue
        open_weight += weight
        if (verdict.used_share or 0.0) > tightest:
            tightest, which = verdict.used_share or 0.0, verdict.link.name + _how_full(verdict.link)
        room = max(room, verdict.room_bits_per_second)
    share = open_weight / all_weight if all_weight else 1.0
    return Reach(share, tuple(closed), tightest, room, which)


def _no_link(source: str, target: str) -> LinkVerdict:
    link = LinkObservation(source, target)
    return LinkVerdict(link, Limit.LINK_UNKNOWN, None, None, f"nothing is known of link {link.name}")
