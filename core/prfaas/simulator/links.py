"""Links between clusters: what a transfer gets of one."""

from __future__ import annotations

import math
from collections.abc import Callable

import simpy

from prfaas.capacity import BITS_PER_BYTE
from prfaas.planner import Link
from prfaas.simulator.fluid import SharedServer
from prfaas.simulator.request import Request
from prfaas.simulator.settings import Network

SEGMENT_BITS = 1460 * BITS_PER_BYTE
_MATHIS = math.sqrt(1.5)


class LinkStation:
    """A directed link: transfers share what it carries, and none exceeds what its connections can.

    Attributes:
        share: of the capacity that is there; 0 while the link is down.
        bits_sent: up to the last `settle`.
    """

    def __init__(
        self, env: simpy.Environment, spec: Link, network: Network, landed: Callable[[Request], None]
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.share = 1.0
        self.each_bits_per_second = connection_bits_per_second(spec.rtt_seconds, network)
        self._goodput = spec.bits_per_second * (1 - network.loss_share)
        self.transfers: SharedServer[Request] = SharedServer(env, self._pace, landed)

    @property
    def bits_per_second(self) -> float:
        """What it carries at this moment, all transfers together."""
        return self._goodput * self.share

    @property
    def up(self) -> bool:
        """Whether anything crosses at all."""
        return self.share > 0

    def _pace(self, inside: int) -> float:
        return min(self._goodput * self.share / inside, self.each_bits_per_second)

    def next_bits_per_second(self) -> float:
        """What one more transfer would get."""
        return self._pace(len(self.transfers) + 1)

    def waiting_bits(self) -> float:
        """Of KV that is computed and has not crossed."""
        transfers = self.transfers
        return sum(transfers.left(each) for each in transfers.jobs() if each.prefilled)

    def set_share(self, share: float) -> None:
        """Change what is left of the capacity."""
        self.share = share
        self.transfers.pace_changed()


def connection_bits_per_second(rtt_seconds: float, network: Network) -> float:
    """Of one transfer over its connections, each within Mathis' bound; none without loss or round trip."""
    if network.loss_share <= 0 or rtt_seconds <= 0:
        return math.inf
    each = SEGMENT_BITS / rtt_seconds * _MATHIS / math.sqrt(network.loss_share)
    return each * network.connections
