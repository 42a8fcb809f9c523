"""The world: requests go from station to station, routed and sized by the production code.

A request arrives, is routed, waits and is prefilled; if that is in another cluster its KV crosses a link
while it is computed, then it waits for a decode slot and is decoded. What fails is in `outages`, who decides
on sizes is asked in `steering`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import cast

import simpy

from prfaas.capacity import BITS_PER_BYTE, Wire
from prfaas.planner import DecodePool, Plan, Problem, Route
from prfaas.simulator.arrivals import Drawn
from prfaas.simulator.calendar import Calendar
from prfaas.simulator.control import Controller, LengthWindow
from prfaas.simulator.links import LinkStation
from prfaas.simulator.names import check_names
from prfaas.simulator.outages import Outages
from prfaas.simulator.prefixes import PrefixCache
from prfaas.simulator.recorder import Recorder
from prfaas.simulator.request import Request
from prfaas.simulator.routers import Candidate, Choices, Report, Router, choices_of
from prfaas.simulator.settings import Demand, Network, PoolDetails, Settings, Trace
from prfaas.simulator.stations import DecodeStation, Fleet, PrefillStation
from prfaas.simulator.steering import Steering
from prfaas.simulator.traces import Arrival, played

LEAST_COMPUTE_TOKENS = 1.0
"""Of a prompt that is cached as a whole the last token is computed anew: somebody has to say what follows."""
ANYTIME_MARGIN = 1.25
"""Computing at home has to be sooner by this factor: both times are predictions."""
ANYTIME_SECONDS = 0.5
"""So soon at most a wait is thought over again."""

MakeRouter = Callable[[Sequence[Choices], dict[tuple[int, int], Route]], Router]


@dataclass(slots=True)
class Counts:
    """Of a decode pool, since the start."""

    arrived: int = 0
    first_tokens: int = 0
    in_time: int = 0


class World:
    """Everything that is simulated. `env.run` lets it happen.

    Args:
        sizes: instances at the start, by pool.
        router: makes the one who decides, from the choices that there are.
        traces: arrivals of the files that the settings name, by file name.

    Raises:
        InvalidInputError: the settings name what the scenario does not have.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Settings,
        sizes: Mapping[str, int],
        router: MakeRouter,
        controller: Controller,
        traces: Mapping[str, Sequence[Arrival]],
    ) -> None:
        check_names(problem, settings)
        self.problem = problem
        self.settings = settings
        self.env = Calendar()
        self.recorder = Recorder(len(problem.decode_pools), settings.warm_up_seconds)
        self.prefill = [
            PrefillStation(
                self.env,
                pool,
                settings.pools.get(pool.name, PoolDetails()),
                sizes[pool.name],
                settings.start_hour,
                queue_seconds_max=settings.queue_seconds_max,
                begun=self._prefill_begun,
                done=self._prefill_done,
                gave_up=partial(self.fail, reason="WaitedForPrefill"),
            )
            for pool in problem.prefill_pools
        ]
        self.decode = [
            DecodeStation(
                self.env,
                pool,
                settings.pools.get(pool.name, PoolDetails()),
                sizes[pool.name],
                settings.start_hour,
                queue_seconds_max=settings.queue_seconds_max,
                begun=self._decode_begun,
                done=self._decode_done,
                gave_up=partial(self.fail, reason="WaitedForDecode"),
            )
            for pool in problem.decode_pools
        ]
        self.links = [
            LinkStation(self.env, link, settings.networks.get(link.name, Network()), self._landed)
            for link in problem.links
        ]
        self.pools: dict[str, Fleet] = {each.name: each for each in (*self.prefill, *self.decode)}
        self.caches = {pool.cluster: PrefixCache(settings.cache_tokens) for pool in problem.pools}
        self.choices, self._routes = choices_of(problem)
        self.router = router(self.choices, self._routes)
        self.lengths = [LengthWindow() for _ in problem.decode_pools]
        self._counts = [Counts() for _ in problem.decode_pools]
        self.counts = {
            pool.name: counts for pool, counts in zip(problem.decode_pools, self._counts, strict=True)
        }
        self.link_cost = 0.0
        self.report: Report | None = None
        blocks = count()
        self._sources = [self._source(index, traces, blocks) for index in range(len(self.decode))]
        for source, _ in self._sources:
            self._await_next(source)
        self.outages = Outages(self)
        self.outages.arm()
        self.steering = Steering(self, controller)
        self.steering.step()
        if settings.policy.link_data_age_seconds:
            self._look_anew(None)

    def adopt(self, plan: Plan) -> None:
        """Route by a new plan from now on."""
        flows = {(flow.prefill_pool, flow.decode_pool): flow.requests_per_second for flow in plan.flows}
        for pool, choices in zip(self.problem.decode_pools, self.choices, strict=True):
            choices.plan = plan.decode_pool(pool.name)
            for candidate in (*choices.local, *choices.remote):
                name = self.problem.prefill_pools[candidate.prefill].name
                candidate.weight = flows.get((name, pool.name), 0.0)
        self.router.planned(plan, self.choices)

    def _source(
        self, index: int, traces: Mapping[str, Sequence[Arrival]], blocks: Iterator[int]
    ) -> tuple[Iterator[Request], Drawn | None]:
        pool, settings = self.problem.decode_pools[index], self.settings
        demand = settings.demand.get(pool.name, Demand())
        pattern = demand.pattern
        if isinstance(pattern, Trace):
            arrivals = tuple(traces[pattern.file])
            return played(arrivals, pattern, index, settings.duration_seconds, blocks), None
        drawn = Drawn(
            index,
            pool.name,
            pool.lengths,
            pool.decode,
            demand,
            pool.arrivals_per_second,
            duration_seconds=settings.duration_seconds,
            start_hour=settings.start_hour,
            seed=settings.seed,
            blocks=blocks,
        )
        return iter(drawn), drawn

    def _await_next(self, source: Iterator[Request]) -> None:
        request = next(source, None)
        if request is None:
            return
        event = self.env.timeout(max(0.0, request.arrived - self.env.now), request)
        event.callbacks.append(self._arrived)

    def _arrived(self, event: simpy.Event) -> None:
        request = cast(Request, event.value)
        self._await_next(self._sources[request.decode][0])
        self._enter(request)

    def _turn(self, event: simpy.Event) -> None:
        self._enter(cast(Request, event.value))

    def _enter(self, request: Request) -> None:
        self.recorder.came(request)
        self._counts[request.decode].arrived += 1
        if self.decode[request.decode].name in self.outages.known_down:
            self.fail(request, "DecodeDown")
            return
        choices = self.choices[request.decode]
        choice = self.router.route(request, choices, self)
        cached = self.cached_tokens(request, choices.cluster)
        self.lengths[request.decode].add(request.tokens - cached)
        if choice.candidate is None:
            self.fail(request, choice.reason)
            return
        self.recorder.routed(request, choice.reason, remote=choice.candidate.link >= 0, cached_tokens=cached)
        self._send(request, choice.candidate)

    def _send(self, request: Request, to: Candidate, *, left_share: float = 1.0) -> None:
        """To a prefill pool: what it has to compute, and what has to cross.

        Args:
            left_share: of what it would compute, the rest having landed already.
        """
        station = self.prefill[to.prefill]
        route = self._routes[to.prefill, request.decode]
        pool = self.problem.decode_pools[request.decode]
        request.prefill, request.link = to.prefill, to.link
        request.remote = to.link >= 0
        request.prefilled = False
        request.landed = to.link < 0
        wire = route.wire
        if self.settings.cache_tokens:
            compute = float(request.tokens - self.caches[station.cluster].held_tokens(request.blocks))
            crossing = request.tokens - self.caches[pool.cluster].held_tokens(request.blocks)
            wire = Wire(wire.state_ratio, wire.token_ratio)
        else:
            compute, crossing = request.tokens * (1 - route.prefill_hit_share), request.tokens
        request.compute_tokens = max(LEAST_COMPUTE_TOKENS, compute * left_share)
        request.service_seconds = station.curve.at(request.compute_tokens)
        request.wire_bits = 0.0
        if to.link >= 0:
            sent = wire.bytes_of(pool.kv.state_bytes, _token_bytes(pool, crossing))
            request.wire_bits = sent * BITS_PER_BYTE
        station.submit(request)

    def _prefill_begun(self, request: Request) -> None:
        if request.link >= 0:
            self.links[request.link].transfers.add(request, request.wire_bits)

    def _prefill_done(self, request: Request) -> None:
        request.prefilled = True
        self.caches[self.prefill[request.prefill].cluster].hold(request.blocks)
        if request.landed:
            self._ready_to_decode(request)
        elif self.settings.policy.anytime:
            self._reconsider(request)

    def _reconsider(self, request: Request) -> None:
        """Anytime KV: whether to wait on, or to take what has landed and compute the rest at home."""
        link = self.links[request.link]
        left = link.transfers.left(request)
        pace = link.transfers.pace_now
        remaining = left / pace if pace > 0 else float("inf")
        local = [each for each in self.choices[request.decode].local if self.usable(each)]
        if not local:
            return
        rest = max(LEAST_COMPUTE_TOKENS, request.compute_tokens * left / request.wire_bits)
        here = min(
            station.wait_seconds() + station.curve.at(rest)
            for station in (self.prefill[each.prefill] for each in local)
        )
        if here * ANYTIME_MARGIN < remaining:
            self.leave_link(request)
            self.elsewhere(request, "TransferSlow", 1 - left / request.wire_bits)
        else:
            again = self.env.timeout(
                max(ANYTIME_SECONDS, remaining * ANYTIME_MARGIN), (request, request.attempts)
            )
            again.callbacks.append(self._still_waiting)

    def _still_waiting(self, event: simpy.Event) -> None:
        request, attempts = cast(tuple[Request, int], event.value)
        if request.attempts == attempts and request.prefilled and not request.landed:
            self._reconsider(request)

    def _landed(self, request: Request) -> None:
        request.landed = True
        self._pay(request, request.wire_bits)
        if request.prefilled:
            self._ready_to_decode(request)

    def leave_link(self, request: Request) -> float:
        """Take a request's transfer off its link, if it is there; returns the bits that have not crossed."""
        if request.link < 0 or request not in self.links[request.link].transfers:
            return 0.0
        left = self.links[request.link].transfers.remove(request)
        self._pay(request, request.wire_bits - left)
        return left

    def _pay(self, request: Request, bits: float) -> None:
        link = self.links[request.link].spec
        self.link_cost += bits / BITS_PER_BYTE / 1e9 * link.price_per_gigabyte

    def _ready_to_decode(self, request: Request) -> None:
        rtt = self.links[request.link].spec.rtt_seconds if request.link >= 0 else 0.0
        if rtt > 0:
            event = self.env.timeout(rtt, request)
            event.callbacks.append(self._to_decode)
        else:
            self.decode[request.decode].submit(request)

    def _to_decode(self, event: simpy.Event) -> None:
        request = cast(Request, event.value)
        self.decode[request.decode].submit(request)

    def _decode_begun(self, request: Request) -> None:
        station = self.decode[request.decode]
        ttft = self.env.now - request.arrived
        if self.settings.step_in_first_token:
            ttft += station.step_seconds(len(station.batch) + 1)
        request.first_token = ttft
        counts, objective = self._counts[request.decode], station.spec.ttft_seconds
        counts.first_tokens += 1
        counts.in_time += objective is None or ttft <= objective
        self.recorder.first_token(request, ttft)

    def _decode_done(self, request: Request) -> None:
        now = self.env.now
        self.recorder.done(request, now - request.arrived)
        self.caches[self.decode[request.decode].cluster].hold(request.blocks)
        drawn = self._sources[request.decode][1]
        if drawn is not None and request.session >= 0:
            following = drawn.next_turn(request, now)
            if following is not None and following.arrived < self.settings.duration_seconds:
                event = self.env.timeout(max(0.0, following.arrived - now), following)
                event.callbacks.append(self._turn)

    def fail(self, request: Request, reason: str) -> None:
        """A request will never be answered."""
        self.recorder.lost(request, reason)

    def elsewhere(self, request: Request, why: str, landed_share: float) -> None:
        """What waited for something that is down continues in its own cluster, with what has landed."""
        self.recorder.fallbacks[why] += 1
        local = [each for each in self.choices[request.decode].local if self.usable(each)]
        others = [each for each in self.choices[request.decode].remote if self.usable(each)]
        if not local and not others:
            self.fail(request, why)
            return
        to = min(local or others, key=lambda each: self.prefill[each.prefill].wait_seconds())
        # KV that goes on to another remote pool is not what that pool sends: it begins anew.
        self._send(request, to, left_share=1.0 - landed_share if to.link < 0 else 1.0)

    def usable(self, candidate: Candidate) -> bool:
        """See `View`."""
        if self.prefill[candidate.prefill].name in self.outages.known_down:
            return False
        return candidate.link < 0 or self.links[candidate.link].name not in self.outages.known_down

    def wait_seconds(self, prefill: int) -> float:
        """See `View`."""
        return self.prefill[prefill].wait_seconds()

    def free_bits_per_second(self, link: int) -> float:
        """See `View`."""
        return self.links[link].next_bits_per_second()

    def cached_tokens(self, request: Request, cluster: str) -> int:
        """See `View`."""
        if not request.blocks or not self.settings.policy.cache_aware:
            return 0
        return self.caches[cluster].held_tokens(request.blocks)

    def overdue(self, decode: int, objective_seconds: float) -> int:
        """Requests that count, have no first token yet and should have had it by now."""
        latest = self.env.now - objective_seconds
        begin = self.recorder.warm_up_seconds
        return sum(1 for each in self.waiting() if each.decode == decode and begin <= each.arrived < latest)

    def waiting(self) -> set[Request]:
        """Everyone under way without a first token, but for those within a round trip."""
        found: set[Request] = set()
        for station in self.prefill:
            found.update(station.queue, station.running_requests())
        for link in self.links:
            found.update(link.transfers.jobs())
        for decode in self.decode:
            found.update(decode.queue)
        return found

    def _look_anew(self, _event: simpy.Event | None) -> None:
        """Report on all queues and links, now and every so many seconds; it is known after a delay."""
        policy = self.settings.policy
        made = Report(
            self.env.now,
            tuple(station.busy_seconds_each() for station in self.prefill),
            tuple(station.submitted_seconds for station in self.prefill),
            tuple(link.next_bits_per_second() for link in self.links),
        )
        if policy.link_data_delay_seconds and self.report is not None:
            arrival = self.env.timeout(policy.link_data_delay_seconds, made)
            arrival.callbacks.append(self._report_arrived)
        else:
            self.report = made
        event = self.env.timeout(policy.link_data_age_seconds)
        event.callbacks.append(self._look_anew)

    def _report_arrived(self, event: simpy.Event) -> None:
        self.report = cast(Report, event.value)


def _token_bytes(pool: DecodePool, tokens: float) -> float:
    return pool.kv.token_bytes.at(tokens) if tokens > 0 else 0.0
