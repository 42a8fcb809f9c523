"""The gateway's short-term scheduler (`prfaas.scheduling`) as a router of the simulation.

Its views are kept up to date from the stations: queues at each decision, regimes of links at each control
step. The local side of a decode pool is the pool of its own cluster that would be done first; the scheduler
decides between it and the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prfaas.capacity import BITS_PER_BYTE
from prfaas.planner import Plan, Problem, Route
from prfaas.routing import policy
from prfaas.scheduling import Choice as Scheduled
from prfaas.scheduling import CompiledCurve, DecodeSide, Link, Producer, Rule, WireSize, Work, schedule
from prfaas.scheduling.admission import Demand, Shed, SloClass, admit
from prfaas.scheduling.regime import LinkSample, Regime, advance
from prfaas.simulator.control import LinkState
from prfaas.simulator.reported import Reported
from prfaas.simulator.request import Request
from prfaas.simulator.routers import Candidate, Choice, Choices, View, furthest_behind, threshold_of

LEAST_BITS_PER_SECOND = 1.0
"""The scheduler's links carry something; one that is down is not among its candidates."""


@dataclass(slots=True, eq=False)
class _Side:
    """What the scheduler knows of one decode pool's choices."""

    producers: list[Producer]
    by_slot: dict[int, Candidate]
    wire: WireSize
    slo: SloClass | None
    work_deadline_seconds: float | None
    reported: Reported


class SchedulerRouter:
    """See `Router`. One per simulation: it remembers the regimes of links.

    Args:
        refuse: requests that nothing can serve within the objective are refused at the door.
        believes: see `Policy`.
    """

    def __init__(
        self,
        problem: Problem,
        choices: Sequence[Choices],
        routes: dict[tuple[int, int], Route],
        *,
        refuse: bool,
        bandwidth_aware: bool,
        believes: bool = True,
    ) -> None:
        self._curves = [CompiledCurve(pool.prefill) for pool in problem.prefill_pools]
        self._bandwidth_aware = bandwidth_aware
        self._links = [
            Link(link.source_cluster, link.target_cluster, link.bits_per_second, rtt_seconds=link.rtt_seconds)
            for link in problem.links
        ]
        self._names = [link.name for link in problem.links]
        self._regimes = [Regime() for _ in problem.links]
        self._sides: dict[int, _Side] = {}
        for decode, (pool, choice) in enumerate(zip(problem.decode_pools, choices, strict=True)):
            producers = [
                Producer(
                    problem.prefill_pools[each.prefill].name,
                    each.prefill,
                    problem.prefill_pools[each.prefill].cluster,
                    prefill=self._curves[each.prefill],
                    link=self._links[each.link],
                )
                for each in choice.remote
            ]
            wire = routes[choice.remote[0].prefill, decode].wire if choice.remote else None
            self._sides[id(choice)] = _Side(
                producers,
                {each.prefill: each for each in choice.remote},
                WireSize(pool.kv, wire) if wire is not None else WireSize(pool.kv),
                SloClass(pool.name, pool.ttft_seconds, shed=Shed.REFUSE)
                if refuse and pool.ttft_seconds is not None
                else None,
                pool.ttft_seconds,
                Reported(problem, believes=believes),
            )

    @property
    def regime_changes(self) -> int:
        """How often a link became scarce or abundant again."""
        return sum(each.changes for each in self._regimes)

    def planned(self, plan: Plan, choices: Sequence[Choices]) -> None:
        """What the plan counts on for each link."""
        used = {each.name: each.usable_bits_per_second for each in plan.links}
        for name, link in zip(self._names, self._links, strict=True):
            link.planned_bits_per_second = used.get(name, link.planned_bits_per_second)

    def measured(self, states: Sequence[LinkState], now: float) -> None:
        """Links as they were in the last step: their regimes move on."""
        for index, state in enumerate(states):
            if not self._bandwidth_aware:
                continue
            capacity = max(state.bits_per_second, LEAST_BITS_PER_SECOND)
            sample = LinkSample(
                state.used_bits_per_second / capacity, backlog_seconds=state.waiting_bits / capacity
            )
            regime = self._regimes[index] = advance(self._regimes[index], sample, now)
            link = self._links[index]
            link.scarce = regime.scarce
            link.threshold_factor = regime.threshold_factor

    def route(self, request: Request, choices: Choices, view: View) -> Choice:
        """See `Router`."""
        side, now = self._sides[id(choices)], request.arrived
        reported = side.reported if view.report is not None else None
        if reported is not None:
            view = reported.at(view, now)
        held = view.cached_tokens(request, choices.cluster)
        producers = []
        matches: dict[int, int] = {}
        for producer, candidate in zip(side.producers, choices.remote, strict=True):
            if not view.usable(candidate):
                continue
            producer.queue_seconds = view.wait_seconds(candidate.prefill)
            if self._bandwidth_aware:
                link = self._links[candidate.link]
                link.free_bits_per_second = max(
                    view.free_bits_per_second(candidate.link), LEAST_BITS_PER_SECOND
                )
                if reported is not None:
                    link.backlog_seconds = reported.backlog_seconds(candidate.link)
            if request.blocks:
                cached = view.cached_tokens(request, producer.cluster)
                if cached:
                    matches[producer.slot] = cached
            producers.append(producer)
        local = _soonest([each for each in choices.local if view.usable(each)], view)
        decode = DecodeSide(
            held,
            self._curves[local.prefill] if local is not None else None,
            view.wait_seconds(local.prefill) if local is not None else 0.0,
            choices.cluster,
        )
        threshold = threshold_of(request.tokens - held, choices)
        choice = schedule(
            Work(request.tokens, side.work_deadline_seconds),
            decode,
            producers,
            matches,
            Rule(float("inf") if threshold is None else threshold, wire=side.wire),
        )
        if side.slo is not None and admit(Demand(choice.best_seconds), side.slo) is not None:
            return Choice(None, "SloUnreachable")
        to, reason = self._taken(choice, local, side)
        if to is not None and reported is not None:
            cached = matches.get(to.prefill, 0) if to.link >= 0 else held
            bits = side.wire.bytes_of(request.tokens, held) * BITS_PER_BYTE if to.link >= 0 else 0.0
            reported.sent(to, self._curves[to.prefill].at(request.tokens - cached), bits, now)
        return Choice(to, reason)

    def _taken(self, choice: Scheduled, local: Candidate | None, side: _Side) -> tuple[Candidate | None, str]:
        if choice.route is policy.Route.REMOTE and choice.producer is not None:
            return side.by_slot[choice.producer.slot], choice.reason
        if local is not None:
            return local, choice.reason
        if choice.producer is not None:
            return side.by_slot[choice.producer.slot], "NoLocalPrefill"
        return None, "NoPrefill"


def _soonest(candidates: list[Candidate], view: View) -> Candidate | None:
    """Of a decode pool's own cluster, the pool with the shortest wait; the plan's shares among idle ones."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    waits = [view.wait_seconds(each.prefill) for each in candidates]
    least = min(waits)
    return furthest_behind([each for each, wait in zip(candidates, waits, strict=True) if wait <= least])
