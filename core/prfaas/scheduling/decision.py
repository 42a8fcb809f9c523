"""Where one prompt is prefilled, by what was predicted for both sides. A function of values, fast.

The threshold t is the slow price: the planner sets it from lengths, profiles and links, so that in the long
run no side runs short. The scheduler follows it, and departs from it for a single request only where the
moment differs from the plan:

- the side that t names is congested (a queue, a link), and the other would be done sooner by a margin;
- a cache elsewhere makes it worth it;
- the deadline would be missed there and not on the other side.

With idle queues and free links it is the paper's rule, comparison by comparison. Lengths are incremental:
what the judged caches do not hold. While bandwidth is scarce each side is judged by its own cache; while it
is abundant the longest prefix anywhere counts, because it can be brought or used where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prfaas.routing.policy import Reason, Route
from prfaas.scheduling.views import DecodeSide, Link, Producer, Rule, Work

_LATE = float("inf")


@dataclass(frozen=True, slots=True)
class CacheCopy:
    """A prefix worth copying to where the prompt is computed.

    Attributes:
        tokens: length of the prefix, from the prompt's start.
        seconds: that the copy takes.
        saved_seconds: of computing, at the copy's target.
    """

    source: str
    tokens: int
    seconds: float
    saved_seconds: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Where to prefill, and what was expected.

    Attributes:
        producer: the best prefill engine, also when the choice is local; None when nobody could take it.
        uncached_tokens: the incremental length that was compared with t.
        threshold_tokens: t as it was for this request, the link's regime included.
        local_seconds, remote_seconds: until the first token could be computed; None while unknown.
        first_kv_seconds: until the first KV of `producer` can be here.
        copy: what to copy first; only with `Rule.copies_to_decode`.
    """

    route: Route
    reason: Reason
    producer: Producer | None
    uncached_tokens: int
    threshold_tokens: float
    local_seconds: float | None = None
    remote_seconds: float | None = None
    first_kv_seconds: float | None = None
    copy: CacheCopy | None = None

    @property
    def seconds(self) -> float | None:
        """Predicted for the side that was chosen."""
        return self.remote_seconds if self.route is Route.REMOTE else self.local_seconds

    @property
    def best_seconds(self) -> float | None:
        """The shorter one of what is known."""
        known = [each for each in (self.local_seconds, self.remote_seconds) if each is not None]
        return min(known, default=None)


@dataclass(slots=True)
class _Best:
    """The producer that would be done first.

    Attributes:
        excess_seconds: how much of `seconds` is due to its queue, to what is on its link, or to a link that
            is slower than planned.
        link_binds: whether the link and not the engine is what takes longest.
    """

    producer: Producer
    cached_tokens: int
    seconds: float
    wait_seconds: float
    excess_seconds: float
    link_binds: bool


def schedule(
    work: Work,
    decode: DecodeSide,
    producers: Sequence[Producer],
    matches: Mapping[int, int],
    rule: Rule,
) -> Choice:
    """Choose the side for one prompt.

    Args:
        producers: those that may take it: healthy, allowed, of the same KV.
        matches: tokens of the prompt that a producer holds, by its slot; absent is none.
    """
    tokens, held = work.tokens, min(decode.cached_tokens, work.tokens)
    uncached = tokens - held
    local = decode.queue_seconds + decode.prefill.at(uncached) if decode.prefill is not None else None
    best, elsewhere = _scan(tokens, held, producers, matches, rule)
    if best is None:
        reason = Reason.CACHED_HERE if tokens > rule.threshold_tokens else Reason.UNDER_THRESHOLD
        if uncached > rule.threshold_tokens:
            reason = Reason.PREFILL_FULL
        return Choice(Route.LOCAL, reason, None, uncached, rule.threshold_tokens, local)
    link = best.producer.link
    threshold = rule.threshold_tokens * (link.threshold_factor if link is not None else 1.0)
    scarce = link is not None and link.scarce
    prefix = held if scarce or elsewhere < held else elsewhere
    length = tokens - prefix
    remote = best.seconds if best.producer.prefill is not None else None
    copy = None
    if uncached > threshold:
        route, reason = Route.REMOTE, Reason.OVER_THRESHOLD
        if length <= threshold:
            # Short only by a cache of the other side: the prefix is brought here, or used where it is.
            reason = Reason.CACHED_ELSEWHERE
            if rule.copies_to_decode:
                copy = worth_copying(tokens, held, decode, producers, matches, rule)
                route = Route.LOCAL if copy is not None else Route.REMOTE
    else:
        route, reason = Route.LOCAL, _why_short(tokens, uncached, rule.threshold_tokens)
    if rule.adaptive and copy is None and local is not None and remote is not None:
        if route is Route.REMOTE and _leave_remote(local, remote, best, rule):
            route, reason = Route.LOCAL, Reason.LINK_BUSY if best.link_binds else Reason.PREFILL_BUSY
        elif route is Route.LOCAL and not scarce and remote * (1 + rule.margin) < local:
            if best.cached_tokens > held:
                route, reason = Route.REMOTE, Reason.CACHED_ELSEWHERE
            elif decode.queue_seconds > rule.slack_seconds:
                route, reason = Route.REMOTE, Reason.DECODE_BUSY
    if work.deadline_seconds is not None and local is not None and remote is not None:
        mine, other = (remote, local) if route is Route.REMOTE else (local, remote)
        if other <= work.deadline_seconds < mine:
            route = Route.LOCAL if route is Route.REMOTE else Route.REMOTE
            reason, copy = Reason.DEADLINE, None
    return Choice(
        route,
        reason,
        best.producer,
        length,
        threshold,
        local,
        remote,
        best.wait_seconds + (link.rtt_seconds if link is not None else 0.0),
        copy,
    )


def worth_copying(
    tokens: int,
    held: int,
    decode: DecodeSide,
    producers: Sequence[Producer],
    matches: Mapping[int, int],
    rule: Rule,
) -> CacheCopy | None:
    """The prefix whose copy saves the decode side most, if any saves more than it costs.

    A copy pays when it ends before the compute that it replaces would have, with the rule's margin: bandwidth
    that is free now may not be in a second. Behind scarce links nothing is copied.
    """
    if decode.prefill is None or rule.wire is None or not matches:
        return None
    whole = decode.prefill.at(tokens - held)
    best: CacheCopy | None = None
    for producer in producers:
        prefix = min(matches.get(producer.slot, 0), tokens)
        link = producer.link
        if prefix <= held or (link is not None and link.scarce):
            continue
        saved = whole - decode.prefill.at(tokens - prefix)
        seconds = _copy_seconds(link, rule.wire.bytes_of(prefix, held))
        gain = saved - seconds * (1 + rule.margin)
        if gain > 0 and (best is None or gain > best.saved_seconds - best.seconds * (1 + rule.margin)):
            best = CacheCopy(producer.name, prefix, seconds, saved)
    return best


def _copy_seconds(link: Link | None, size_bytes: float) -> float:
    return 0.0 if link is None else link.backlog_seconds + link.seconds_for(size_bytes) + link.rtt_seconds


def _leave_remote(local: float, remote: float, best: _Best, rule: Rule) -> bool:
    """Whether to leave the remote side although the prompt is long: it is congested, and local is sooner."""
    return best.excess_seconds > rule.slack_seconds and local * (1 + rule.margin) < remote


def _why_short(tokens: int, uncached: int, planned: float) -> Reason:
    if tokens <= planned:
        return Reason.UNDER_THRESHOLD
    return Reason.CACHED_HERE if uncached <= planned else Reason.LINK_SCARCE


def _scan(
    tokens: int, held: int, producers: Sequence[Producer], matches: Mapping[int, int], rule: Rule
) -> tuple[_Best | None, int]:
    """The producer that would be done first, and the longest prefix behind links that are not scarce.

    The inner loop of the request path: what most candidates share (a link, a profile with nothing cached) is
    computed once.
    """
    send_bytes = rule.wire.bytes_of(tokens, held) if rule.wire is not None else 0.0
    get = matches.get if matches else None
    last_link: Link | None = None
    send = backlog = rtt = 0.0
    last_prefill, last_uncached, compute = None, -1, 0.0
    chosen: Producer | None = None
    chosen_seconds, chosen_cached, chosen_compute = _LATE, 0, 0.0
    elsewhere = 0
    for producer in producers:
        cached = get(producer.slot, 0) if get is not None else 0
        link = producer.link
        if link is not last_link:
            last_link = link
            if link is None:
                send = backlog = rtt = 0.0
            else:
                send, backlog, rtt = link.seconds_for(send_bytes), link.backlog_seconds, link.rtt_seconds
        if cached:
            cached = min(cached, tokens)
            if cached > elsewhere and (link is None or not link.scarce):
                elsewhere = cached
        queued = producer.queued_tokens
        uncached = tokens - cached
        if queued and queued + uncached > producer.most_queued_tokens:
            continue
        prefill = producer.prefill
        if uncached != last_uncached or prefill is not last_prefill:
            last_uncached, last_prefill = uncached, prefill
            # Without a profile producers are compared by tokens, and against one another only.
            compute = prefill.at(uncached) if prefill is not None else float(uncached)
        wait = producer.queue_seconds if prefill is not None else float(queued)
        ready = wait + compute
        # Calls of max would cost as much as the rest of the loop.
        sent = (wait if wait > backlog else backlog) + send  # noqa: FURB136
        seconds = (ready if ready > sent else sent) + rtt  # noqa: FURB136
        if seconds < chosen_seconds:
            chosen, chosen_seconds, chosen_cached, chosen_compute = producer, seconds, cached, compute
    if chosen is None:
        return None, elsewhere
    link = chosen.link
    wait = chosen.queue_seconds
    alone, link_binds = chosen_compute, False
    if link is not None:
        planned = link.planned_bits_per_second
        as_planned = link.seconds_for(send_bytes) if planned is None else send_bytes * 8 / planned
        alone = max(chosen_compute, as_planned) + link.rtt_seconds
        sent = max(wait, link.backlog_seconds) + link.seconds_for(send_bytes)
        link_binds = sent > wait + chosen_compute
    return _Best(chosen, chosen_cached, chosen_seconds, wait, chosen_seconds - alone, link_binds), elsewhere
