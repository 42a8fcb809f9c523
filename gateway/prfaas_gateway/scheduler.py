"""The scheduler's memory in this gateway: indexes, paces, links, ledgers, shadows and the waiting room.

All of it in the event loop's thread. `tick` brings views up to date four times a second, so that decisions
only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prfaas.capacity import Curve
from prfaas.scheduling import CompiledCurve, Link, Producer, SloClass
from prfaas_gateway.config import AssumedPool, Config
from prfaas_gateway.fleet import SLOT_OF_NOBODY, Decoder, Prefiller, RoutePolicy
from prfaas_gateway.observing import Observations
from prfaas_gateway.paces import LinkBook, PaceBook, queue_seconds
from prfaas_gateway.prefix_index import PrefixTable
from prfaas_gateway.shadow import ShadowFleet
from prfaas_gateway.waiting_room import WaitingRoom

TICK_SECONDS = 0.25


class Scheduler:
    """What decisions are made from, beside the fleet."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        limits = config.limits
        self.blocks = PrefixTable(
            limits.all_prefix_index_blocks, has_tenants=config.tenant_header is not None
        )
        self.paces = PaceBook()
        self.links = LinkBook(config.region)
        self.observations = Observations()
        self.room = WaitingRoom(limits.max_waiting, config.tenant_weights, clock)
        self._shadows: dict[str, tuple[tuple[object, ...], ShadowFleet]] = {}
        classes = {
            name: SloClass(name, each.ttft_seconds, each.priority, each.shed)
            for name, each in config.slo.classes.items()
        }
        self._default_class = classes.get(config.slo.default, SloClass(config.slo.default))
        self._classes = classes

    def slo_class(self, name: str | None) -> SloClass:
        """The class of this name, or the default."""
        return self._classes.get(name, self._default_class) if name else self._default_class

    def tick(self, prefillers: Iterable[Prefiller], now: float) -> None:
        """Bring paces, links and queues of all views up to date."""
        self.links.tick(now)
        links = self.links.links
        for prefiller in prefillers:
            prefiller.view.link = links.get(prefiller.region) if prefiller.region is not None else None
            prefiller.refresh(self.paces)
        self.room.wake_all()

    def local_queue_seconds(self, decoder: Decoder, curve: CompiledCurve | None) -> float:
        """How long a prompt waits before this decode engine begins with it."""
        return queue_seconds(curve, decoder.prefill_tokens)

    def shadow(self, policy: RoutePolicy, real: Iterable[Producer]) -> ShadowFleet:
        """What a route in mode Observe decides with: engines that it has, else those that are assumed."""
        members = tuple(real) or policy.assumed
        known = self._shadows.get(policy.name)
        if known is not None and known[0] == members:
            return known[1]
        fleet = ShadowFleet(list(members))
        self._shadows[policy.name] = (members, fleet)
        return fleet

    def keep_routes(self, names: set[str]) -> None:
        """Forget what belonged to other routes."""
        self.observations.keep(names)
        for name in [name for name in self._shadows if name not in names]:
            del self._shadows[name]


def assumed_producers(pool: AssumedPool) -> list[Producer]:
    """The engines of a pool that is not there, behind one link."""
    prefill = CompiledCurve(Curve.from_points(pool.prefill_points, extrapolates=True))
    link = None
    if pool.gbits_per_second is not None:
        bits = pool.gbits_per_second * 1e9
        link = Link(pool.name, "", bits, rtt_seconds=pool.rtt_seconds, planned_bits_per_second=bits)
    return [
        Producer(f"{pool.name}-{number}", SLOT_OF_NOBODY, pool.name, prefill=prefill, link=link)
        for number in range(pool.instances)
    ]
