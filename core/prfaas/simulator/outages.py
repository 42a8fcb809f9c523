"""What fails, when that is found out, and what becomes of the requests that were there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from prfaas.simulator.links import LinkStation
from prfaas.simulator.request import Request
from prfaas.simulator.settings import Failure
from prfaas.simulator.stations import DecodeStation, Fleet, PrefillStation

if TYPE_CHECKING:
    from prfaas.simulator.world import World


class Outages:
    """Carries out the settings' failures.

    Attributes:
        known_down: pools and links that are known to be down; routers leave them out.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._links = {link.name: link for link in world.links}
        self._prefill = {station.name for station in world.prefill}
        self._shares: dict[str, list[float]] = {}
        self._lost: dict[str, list[Request]] = {}
        self.known_down: set[str] = set()

    def arm(self) -> None:
        """Put all failures on the calendar."""
        end = self._world.settings.duration_seconds
        for failure in self._world.settings.failures:
            at = failure.at_seconds
            while at < end:
                for name in self._targets(failure):
                    self._later(at, partial(self._fails, name, failure.capacity_share))
                    self._later(
                        at + failure.for_seconds, partial(self._recovers, name, failure.capacity_share)
                    )
                if failure.every_seconds is None:
                    break
                at += failure.every_seconds

    def _targets(self, failure: Failure) -> list[str]:
        if failure.link is not None:
            return [failure.link]
        if failure.pool is not None:
            return [failure.pool]
        problem = self._world.problem
        clusters = {failure.cluster} if failure.cluster is not None else self._clusters_in(failure.region)
        return [pool.name for pool in problem.pools if pool.cluster in clusters] + [
            link.name
            for link in problem.links
            if link.source_cluster in clusters or link.target_cluster in clusters
        ]

    def _clusters_in(self, region: str | None) -> set[str | None]:
        problem = self._world.problem
        inside = {region}
        for _ in problem.regions:
            inside |= {each.name for each in problem.regions if each.within in inside}
        return {each.name for each in problem.clusters if each.region in inside}

    def _later(self, at: float, what: partial[None]) -> None:
        env = self._world.env
        env.timeout(max(0.0, at - env.now)).callbacks.append(lambda _event: what())

    def _fails(self, name: str, left_share: float) -> None:
        shares = self._shares.setdefault(name, [])
        shares.append(left_share)
        link = self._links.get(name)
        if link is not None:
            link.set_share(min(shares))
        elif len(shares) == 1:
            fleet = self._world.pools[name]
            fleet.up = False
            self._lost[name] = _lose(fleet)
        if left_share <= 0:
            self._later(
                self._world.env.now + self._world.settings.detect_seconds, partial(self._found_out, name)
            )

    def _recovers(self, name: str, left_share: float) -> None:
        shares = self._shares[name]
        shares.remove(left_share)
        link = self._links.get(name)
        if link is not None:
            share = min(shares, default=1.0)
            link.set_share(share)
            if share > 0:
                self.known_down.discard(name)
        elif not shares:
            fleet = self._world.pools[name]
            fleet.up = True
            self.known_down.discard(name)
            self._reroute(name, [*self._lost.pop(name, []), *_lose(fleet)])

    def _found_out(self, name: str) -> None:
        if 0.0 not in self._shares.get(name, []) or name in self.known_down:
            return
        self.known_down.add(name)
        link = self._links.get(name)
        if link is not None:
            self._give_up_transfers(link)
        else:
            lost, self._lost[name] = self._lost.get(name, []), []
            self._reroute(name, [*lost, *_lose(self._world.pools[name])])

    def _reroute(self, name: str, lost: list[Request]) -> None:
        for request in lost:
            if name in self._prefill:
                self._world.leave_link(request)
                self._world.elsewhere(request, "PrefillDown", 0.0)
            else:
                self._world.fail(request, "DecodeDown")

    def _give_up_transfers(self, link: LinkStation) -> None:
        """Who waits for KV takes what has landed; who waits for a prefill behind the link goes elsewhere."""
        for request in link.transfers.jobs():
            left = self._world.leave_link(request)
            landed_share = 1 - left / request.wire_bits if request.wire_bits else 1.0
            if not request.prefilled:
                self._world.prefill[request.prefill].abandon(request)
            self._world.elsewhere(request, "LinkDown", landed_share)
        index = self._world.links.index(link)
        for station in self._world.prefill:
            for request in [each for each in station.queue if each.link == index]:
                station.withdraw(request)
                self._world.elsewhere(request, "LinkDown", 0.0)


def _lose(fleet: Fleet) -> list[Request]:
    return fleet.lose_all() if isinstance(fleet, PrefillStation | DecodeStation) else []
