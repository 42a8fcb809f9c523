"""What a simulation found out: figures of requests, pools and links, and samples over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from prfaas.simulator.links import LinkStation
from prfaas.simulator.recorder import Series
from prfaas.simulator.stations import DecodeStation, Fleet
from prfaas.simulator.world import World

CDF_SHARES = (*(index / 100 for index in range(100)), 0.995, 0.999, 1.0)
SECONDS_PER_HOUR = 3600.0
REVERSAL_SECONDS = 1800.0
"""A change of size in the other direction within this time counts as an oscillation."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and quantiles of times in seconds; all None without any."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    cdf: tuple[float, ...] = ()

    @classmethod
    def of(cls, seconds: Floats) -> Spread:
        """`cdf` holds the quantiles of CDF_SHARES."""
        if not len(seconds):
            return cls(0, None, None, None, None)
        quantiles = np.quantile(seconds, CDF_SHARES)
        p50, p90, p99 = np.quantile(seconds, (0.5, 0.9, 0.99))
        return cls(
            len(seconds),
            float(seconds.mean()),
            float(p50),
            float(p90),
            float(p99),
            tuple(float(value) for value in quantiles),
        )


@dataclass(frozen=True, slots=True)
class DemandResult:
    """What became of a decode pool's requests, or of all together.

    Attributes:
        arrived: after the warm-up, as everything here.
        served: with their last token before the end.
        unserved: failed, by reason.
        unfinished: under way at the end; in no other figure.
        remote_share: of what was routed, the part that was prefilled in another cluster at first.
        attained_share: of those whose first token was due, the part that had it within the objective; failed
            ones are due. None without an objective.
    """

    name: str
    arrived: int
    served: int
    unserved: Mapping[str, int]
    unfinished: int
    remote_share: float
    ttft_seconds: Spread
    total_seconds: Spread
    attained_share: float | None

    @property
    def served_share(self) -> float:
        """Of those whose end is known; 1 when nothing came."""
        known = self.served + sum(self.unserved.values())
        return self.served / known if known else 1.0


@dataclass(frozen=True, slots=True)
class PoolResult:
    """A pool over the time after the warm-up.

    Attributes:
        kind: `prefill` or `decode`.
        utilisation: share of the ready instances' time that was busy; for decode, of their batch slots.
        billed_instances: mean, those that start included.
        resizes: how often another size was asked for.
        oscillations: of them, how often in the other direction than within half an hour before.
    """

    name: str
    kind: str
    ready_instances: float
    billed_instances: float
    utilisation: float
    cost: float
    resizes: int
    oscillations: int


@dataclass(frozen=True, slots=True)
class LinkResult:
    """A link over the time after the warm-up; `busiest` is the largest sample."""

    name: str
    gigabytes: float
    mean_bits_per_second: float
    busiest_bits_per_second: float
    utilisation: float


@dataclass(frozen=True, slots=True)
class Result:
    """Everything. Rates are per second, costs in the scenario's currency.

    Attributes:
        seconds: simulated after the warm-up; less than asked for when it was interrupted.
        cost_per_1000: of pools and links, per thousand requests served; None when none was.
        reasons: of the routing decisions.
        fallbacks: requests that continued elsewhere, by what failed.
        cached_share: of the prompts' tokens, held by the decode pool's cluster.
        events: of the simulation.
        notes: what the planner said, each time it said something else, with the second.
    """

    seconds: float
    interrupted: bool
    total: DemandResult
    demand: tuple[DemandResult, ...]
    pools: tuple[PoolResult, ...]
    links: tuple[LinkResult, ...]
    cost: float
    link_cost: float
    cost_per_1000: float | None
    served_per_second: float
    output_tokens_per_second: float
    reasons: Mapping[str, int]
    fallbacks: Mapping[str, int]
    cached_share: float
    plans: int
    converted: int
    events: int
    notes: tuple[tuple[float, str], ...]
    series: Series

    @property
    def oscillations(self) -> int:
        """Of all pools."""
        return sum(pool.oscillations for pool in self.pools)

    @property
    def decode_idle_share(self) -> float | None:
        """Of the paid time of decode pools, the part in which slots were empty; None without decode pools."""
        pools = [pool for pool in self.pools if pool.kind == "decode"]
        billed = sum(pool.billed_instances for pool in pools)
        busy = sum(pool.ready_instances * pool.utilisation for pool in pools)
        return 1 - busy / billed if billed > 0 else None


@dataclass(frozen=True, slots=True)
class Mark:
    """Counters at the end of the warm-up."""

    billed_seconds: float = 0.0
    ready_seconds: float = 0.0
    busy_seconds: float = 0.0
    cost: float = 0.0


def mark(fleet: Fleet) -> Mark:
    """The counters now."""
    fleet.settle()
    return Mark(fleet.billed_seconds, fleet.ready_seconds, fleet.busy_seconds, fleet.cost)


def pool_result(fleet: Fleet, begin: Mark, seconds: float, changes: list[tuple[float, int]]) -> PoolResult:
    """Of one pool, since `begin`."""
    end = mark(fleet)
    ready = end.ready_seconds - begin.ready_seconds
    return PoolResult(
        name=fleet.name,
        kind="decode" if isinstance(fleet, DecodeStation) else "prefill",
        ready_instances=ready / seconds if seconds else 0.0,
        billed_instances=(end.billed_seconds - begin.billed_seconds) / seconds if seconds else 0.0,
        utilisation=(end.busy_seconds - begin.busy_seconds) / ready if ready else 0.0,
        cost=end.cost - begin.cost,
        resizes=len(changes),
        oscillations=oscillations(changes),
    )


def oscillations(changes: list[tuple[float, int]]) -> int:
    """Changes of size that take back one in the other direction within REVERSAL_SECONDS."""
    return sum(
        1
        for (earlier, before), (later, after) in pairwise(changes)
        if before * after < 0 and later - earlier <= REVERSAL_SECONDS
    )


def demand_result(
    name: str,
    indices: list[int],
    world: World,
    columns: tuple[npt.NDArray[np.int16], Floats, npt.NDArray[np.int16], Floats],
) -> DemandResult:
    """Of one decode pool, or of several together."""
    recorder = world.recorder
    first_pool, ttft, total_pool, total = columns
    failed: dict[str, int] = {}
    for index in indices:
        for reason, number in recorder.failed[index].items():
            failed[reason] = failed.get(reason, 0) + number
    arrived = sum(recorder.arrived[index] for index in indices)
    served = sum(recorder.finished[index] for index in indices)
    routed = sum(recorder.routed_count[index] for index in indices)
    return DemandResult(
        name=name,
        arrived=arrived,
        served=served,
        unserved=dict(sorted(failed.items())),
        unfinished=arrived - served - sum(failed.values()),
        remote_share=sum(recorder.remote[index] for index in indices) / routed if routed else 0.0,
        ttft_seconds=Spread.of(ttft[np.isin(first_pool, indices)]),
        total_seconds=Spread.of(total[np.isin(total_pool, indices)]),
        attained_share=_attained(indices, world, first_pool, ttft),
    )


def _attained(
    indices: list[int], world: World, first_pool: npt.NDArray[np.int16], ttft: Floats
) -> float | None:
    """Requests without a first token count as late once they are; before that nobody can say."""
    recorder = world.recorder
    timely = due = 0
    for index in indices:
        objective = world.decode[index].spec.ttft_seconds
        if objective is None:
            continue
        had = ttft[first_pool == index]
        timely += int((had <= objective).sum())
        due += len(had) + recorder.failed_before_first[index] + world.overdue(index, objective)
    return timely / due if due else None


def link_result(link: LinkStation, bits_before: float, seconds: float, samples: list[float]) -> LinkResult:
    """Of one link, since its counter was `bits_before`."""
    bits = link.transfers.settle() - bits_before
    mean = bits / seconds if seconds else 0.0
    return LinkResult(
        link.name, bits / 8e9, mean, max(samples, default=0.0), mean / link.spec.bits_per_second
    )
