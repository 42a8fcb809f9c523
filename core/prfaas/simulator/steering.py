"""Between the world and who decides on sizes: what is observed, and what is done about a decision."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import simpy

from prfaas.planner import Plan
from prfaas.simulator.control import Controller, Decided, LinkState, Observed, PoolState, kind_of
from prfaas.simulator.links import LinkStation
from prfaas.simulator.stations import DecodeStation, Fleet, PrefillStation

if TYPE_CHECKING:
    from prfaas.simulator.world import World

NOTES_MAX = 1_000


class Steering:
    """Asks the controller at every control step, and carries out what it says.

    Attributes:
        size_changes: of each pool, when it was asked for how many instances more or fewer.
        notes: what the controller said, when; the last 1,000.
    """

    def __init__(self, world: World, controller: Controller) -> None:
        self._world = world
        self._controller = controller
        self._kinds = {pool.name: kind_of(pool) for pool in world.problem.pools}
        self._marks: dict[str, tuple[float, ...]] = {}
        self._last = 0.0
        self.size_changes: dict[str, list[tuple[float, int]]] = {name: [] for name in world.pools}
        self.notes: list[tuple[float, str]] = []
        self.plans = 0
        self.converted = 0
        self.plan: Plan | None = None

    def step(self, _event: simpy.Event | None = None) -> None:
        """One control step, and the next one on the calendar."""
        env = self._world.env
        observed = self._observed()
        self._world.router.measured(list(observed.links.values()), env.now)
        self._carry_out(self._controller.step(observed, env.now))
        event = env.timeout(self._world.settings.policy.control_seconds)
        event.callbacks.append(self.step)

    def _carry_out(self, decided: Decided) -> None:
        now = self._world.env.now
        if decided.note:
            self.notes = [*self.notes[-NOTES_MAX + 1 :], (now, decided.note)]
        if decided.plan is not None:
            self.plan = decided.plan
            self.plans += 1
            self._world.adopt(decided.plan)
        pools = self._world.pools
        changes = {name: size for name, size in decided.sizes.items() if size != pools[name].wanted}
        given = self._given_up(changes)
        # Whoever gives up instances does so before another pool is offered them.
        for name, size in sorted(changes.items(), key=lambda item: item[1] - pools[item[0]].wanted):
            fleet = pools[name]
            self.size_changes[name].append((now, size - fleet.wanted))
            taken = 0
            if self._world.settings.policy.conversion:
                kind = self._kinds[name]
                taken = min(given.get(kind, 0), max(0, size - fleet.ready - fleet.starting))
                given[kind] = given.get(kind, 0) - taken
                self.converted += taken
            fleet.resize(size, partial(self._start_seconds, fleet, taken))

    def _given_up(self, changes: Mapping[str, int]) -> dict[tuple[object, ...], int]:
        given: dict[tuple[object, ...], int] = {}
        for name, size in changes.items():
            fewer = self._world.pools[name].ready - size
            if fewer > 0:
                given[self._kinds[name]] = given.get(self._kinds[name], 0) + fewer
        return given

    def _start_seconds(self, fleet: Fleet, converted: int, number: int) -> float:
        if number < converted:
            return self._world.settings.policy.convert_seconds
        return fleet.spec_instances.start_seconds

    def _observed(self) -> Observed:
        """What is known at this moment; rates are of the time since the step before."""
        world, now = self._world, self._world.env.now
        passed = max(1e-9, now - self._last)
        self._last = now
        windows = {
            pool.name: window for pool, window in zip(world.problem.decode_pools, world.lengths, strict=True)
        }
        return Observed(
            {fleet.name: self._pool(fleet, now, passed) for fleet in world.pools.values()},
            {link.name: self._link(link, passed) for link in world.links},
            windows,
        )

    def _pool(self, fleet: Fleet, now: float, passed: float) -> PoolState:
        world = self._world
        fleet.settle()
        busy, ready = self._since(fleet.name, fleet.busy_seconds, fleet.ready_seconds)
        attained, rate, first, queued, running = None, 0.0, 0.0, 0, 0
        if isinstance(fleet, DecodeStation):
            counts = world.counts[fleet.name]
            arrived, first, timely = self._since(
                f"{fleet.name}/requests", counts.arrived, counts.first_tokens, counts.in_time
            )
            rate = arrived / passed
            attained = timely / first if first else None
            queued, running = len(fleet.queue), len(fleet.batch)
        elif isinstance(fleet, PrefillStation):
            queued, running = len(fleet.queue), fleet.running
        return PoolState(
            name=fleet.name,
            ready=fleet.ready,
            starting=fleet.starting,
            wanted=fleet.wanted,
            queued=queued,
            running=running,
            utilisation=min(1.0, busy / ready) if ready > 0 else 0.0,
            up=fleet.name not in world.outages.known_down,
            price_per_hour=fleet.price_per_hour(now),
            ttft_attained=attained,
            first_tokens=first,
            arrivals_per_second=rate,
        )

    def _link(self, link: LinkStation, passed: float) -> LinkState:
        (bits,) = self._since(f"{link.name}/bits", link.transfers.settle())
        return LinkState(
            name=link.name,
            bits_per_second=min(link.spec.bits_per_second, link.bits_per_second),
            used_bits_per_second=bits / passed,
            waiting_bits=link.waiting_bits(),
            up=link.name not in self._world.outages.known_down,
        )

    def _since(self, name: str, *values: float) -> tuple[float, ...]:
        before = self._marks.get(name, (0.0,) * len(values))
        self._marks[name] = values
        return tuple(value - earlier for value, earlier in zip(values, before, strict=True))
