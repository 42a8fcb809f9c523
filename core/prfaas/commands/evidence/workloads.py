"""The workloads of the evidence: the paper's systems, and three regions whose days are eight hours apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from prfaas.capacity import Curve, DecodeRate, KVSize, Lengths, TruncatedLogNormal, Wire, paper
from prfaas.planner import (
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    PrefillPool,
    Problem,
    Quota,
    direct_routes,
    plan,
)
from prfaas.simulator import (
    Demand,
    Diurnal,
    Outputs,
    Policy,
    PoolDetails,
    RouterKind,
    Sessions,
    Settings,
    Sizing,
)

P = TypeVar("P", PrefillPool, DecodePool)

SLOW_PRICE = 12.0
FAST_PRICE = SLOW_PRICE * 2.02
"""What the paper's equal-cost comparison implies for the H200 against the H20."""

REGIONS = {"us": 20.0, "eu": 12.0, "ap": 4.0}
"""Hour of the peak, on one common clock."""

HOURS = 8.0
"""With equal regions eight hours apart, eight hours show every region at every hour of a day once."""

WARM_UP_SECONDS = 1800.0
REPLAN_SECONDS = 600.0
HEADROOM = 0.08
"""On the measured demand, for what comes until the next plan's instances are there: the demand of a region
grows by 17 % of its mean an hour at most.
"""
TTFT_SECONDS = 20.0
DENSE = KVSize.per_token(188_416, to_tokens=paper.LONGEST_TOKENS)
"""94 layers of 4 KV heads of 128 two-byte values for key and value, as in Qwen3-235B."""


CODEC = Wire(1.0, 1.3)


OUTPUT_TOKENS = 650.0
"""As many prompt tokens to one of the answer as in the published Mooncake trace: on average 7,590 to 182
(arXiv 2407.00079, section 4.2), on the paper's prompts of 27K tokens on average.
"""
NIGHT_SHARE = 0.4
"""Price at night: capacity that can be interrupted, at the lesser end of the 60 to 91 % discount that a large
cloud states for it.
"""
NIGHT_BEGINS, NIGHT_ENDS = 22, 8


@dataclass(frozen=True, slots=True)
class World:
    """What one multi-region workload is like.

    Attributes:
        mean_per_second: requests of each region, over the day.
        trough_share: the least demand of a day as a share of the most.
        gigabits: of each link.
        night_share: price of every instance between 22 and 8 o'clock of its region, as a share.
        sessions: conversations with caches instead of single prompts.
    """

    mean_per_second: float = 4.0
    trough_share: float = 0.2
    gigabits: float = 40.0
    kv: KVSize = paper.KV
    output_tokens: float = OUTPUT_TOKENS
    night_share: float = NIGHT_SHARE
    sessions: bool = False
    lengths: Lengths = paper.LENGTHS
    wire: Wire = CODEC

    @property
    def peak_per_second(self) -> float:
        """Of a region at its busiest hour."""
        return self.mean_per_second * 2 / (1 + self.trough_share)


OPTIONS = Options(
    goal=Goal.LEAST_COST, buckets=8, gap=0.02, keep_within=0.05, horizon_hours=2.0, time_limit_seconds=20.0
)


def shared(world: World, *, sizes: dict[str, int] | None = None) -> Problem:
    """All regions together: fast and slow prefill and decoding in each, joined by links."""
    return _problem(world, fast=True, linked=True, sizes=sizes)


def alone(world: World, *, fast: bool, sizes: dict[str, int] | None = None) -> Problem:
    """The same regions, each for itself; without `fast` all hardware is alike, as in the paper's baseline."""
    return _problem(world, fast=fast, linked=False, sizes=sizes)


def sized_for(problem: Problem, per_second: float) -> dict[str, int]:
    """Instances of every pool by one plan for this demand in each region."""
    demand = tuple(replace(pool, arrivals_per_second=per_second) for pool in problem.decode_pools)
    found = plan(replace(problem, decode_pools=demand), OPTIONS, elapsed_seconds=lambda: 0.0)
    return {pool.name: pool.instances for pool in found.pools}


def static_for(world: World, money: float) -> Problem:
    """Every region for itself with slow hardware, as many instances as this money buys for a day.

    Whole instances: what is left of a third goes to the first regions. Each region divides its own between
    prefill and decoding as the planner says serves most.
    """
    each = HOURS * SLOW_PRICE * _mean_price_share(world)
    total = max(2 * len(REGIONS), round(money / each))
    sizes: dict[str, int] = {}
    for number, region in enumerate(REGIONS):
        instances = total // len(REGIONS) + (number < total % len(REGIONS))
        prefill = _prefill_of(world, instances)
        sizes |= {f"{region}-slow": prefill, f"{region}-chat": instances - prefill}
    return alone(world, fast=False, sizes=sizes)


def settings(
    world: World,
    problem: Problem,
    *,
    sizing: Sizing = Sizing.PLANNER,
    router: RouterKind = RouterKind.SCHEDULER,
    pools: dict[str, PoolDetails] | None = None,
    **fields: object,
) -> Settings:
    """A day of that workload; `fields` are those of the policy."""
    policy = Policy.model_validate(
        {"sizing": sizing, "router": router, "replan_seconds": REPLAN_SECONDS, "control_seconds": 60.0}
        | {"headroom": HEADROOM}
        | fields
    )
    sessions = Sessions(turns_mean=3, think_seconds=60, shared_prefixes=20, shared_prefix_tokens=2048)
    return Settings(
        duration_seconds=HOURS * 3600 + WARM_UP_SECONDS,
        warm_up_seconds=WARM_UP_SECONDS,
        sample_seconds=600.0,
        demand={
            f"{region}-chat": Demand(
                pattern=Diurnal(kind="Diurnal", peak_hour=hour, trough_share=world.trough_share),
                outputs=Outputs.GEOMETRIC,
                sessions=sessions if world.sessions else None,
            )
            for region, hour in REGIONS.items()
        },
        cache_tokens=20_000_000 if world.sessions else 0,
        pools=night_prices(world, problem) if pools is None else pools,
        policy=policy,
        queue_seconds_max=120.0,
    )


def night_prices(world: World, problem: Problem) -> dict[str, PoolDetails]:
    """Every pool's prices by the hour, by its region's own clock; nothing where nights cost the same."""
    if world.night_share == 1:
        return {}
    found = {}
    for pool in problem.pools:
        day = pool.instances.price_per_hour or 0.0
        # The peak is at 14 o'clock of the region's own clock.
        local = [(hour - REGIONS[pool.cluster] + 14) % 24 for hour in range(24)]
        found[pool.name] = PoolDetails(
            price_by_hour=tuple(day * (world.night_share if _is_night(hour) else 1.0) for hour in local)
        )
    return found


def _is_night(hour: float) -> bool:
    return hour >= NIGHT_BEGINS or hour < NIGHT_ENDS


def _mean_price_share(world: World) -> float:
    """Of an instance that is there all day: the eight hours of three regions are all hours of a day."""
    return sum(world.night_share if _is_night(hour) else 1.0 for hour in range(24)) / 24


def _prefill_of(world: World, instances: int) -> int:
    """How many of one region's slow instances prefill when it is to serve as much as it can."""
    whole = alone(world, fast=False)
    region = next(iter(REGIONS))
    prefill = tuple(pool for pool in whole.prefill_pools if pool.cluster == region)
    decode = tuple(replace(pool, ttft_seconds=None) for pool in whole.decode_pools if pool.cluster == region)
    names = frozenset({prefill[0].name, decode[0].name})
    problem = Problem(
        prefill,
        decode,
        direct_routes(prefill, decode, ()),
        quotas=(Quota(region, names, instances * 8),),
    )
    found = plan(problem, Options(goal=Goal.MOST_SERVED, buckets=16), elapsed_seconds=lambda: 0.0)
    return found.pool(prefill[0].name).instances


def _problem(world: World, *, fast: bool, linked: bool, sizes: dict[str, int] | None) -> Problem:
    prefill, decode = [], []
    for region in REGIONS:
        kinds: list[tuple[str, Curve, float]] = [("slow", paper.PREFILL_H20, SLOW_PRICE)]
        if fast:
            kinds.append(("fast", paper.PREFILL_H200, FAST_PRICE))
        for kind, curve, price in kinds:
            name = f"{region}-{kind}"
            prefill.append(PrefillPool(name, region, "m", curve, _instances(name, price, sizes), 0.85))
        name = f"{region}-chat"
        decode.append(
            DecodePool(
                name,
                region,
                "m",
                kv=world.kv,
                decode=DecodeRate(0.025, 20, world.output_tokens),
                lengths=world.lengths,
                arrivals_per_second=world.mean_per_second,
                instances=_instances(name, SLOW_PRICE, sizes),
                ttft_seconds=TTFT_SECONDS,
                utilisation_max=0.9,
            )
        )
    links = (
        [
            Link(f"{one}-{other}", one, other, world.gigabits * 1e9, 0.8, 0.12, 0.002)
            for one in REGIONS
            for other in REGIONS
            if one != other
        ]
        if linked
        else []
    )
    routes = direct_routes(prefill, decode, links, wire=world.wire)
    return Problem(tuple(prefill), tuple(decode), routes, tuple(links))


def _instances(name: str, price: float, sizes: dict[str, int] | None) -> Instances:
    return Instances(
        maximum=80,
        current=None if sizes is None else sizes.get(name, 0),
        accelerators_each=8,
        price_per_hour=price,
        start_seconds=300.0,
    )


PAPER_LENGTHS = TruncatedLogNormal(9.9, 1.0, 128, paper.LONGEST_TOKENS)


def paper_system(
    per_second: float, *, remote: int, local: int, decode: int, gigabits: float = 100.0, kv: KVSize = paper.KV
) -> Problem:
    """The paper's system of section 4.1; without remote instances, its homogeneous baseline."""
    far = PrefillPool("h200", "prfaas", "m", paper.PREFILL_H200, _fixed(remote, FAST_PRICE))
    near = PrefillPool("h20-prefill", "pd", "m", paper.PREFILL_H20, _fixed(local, SLOW_PRICE))
    pool = DecodePool(
        "h20-decode",
        "pd",
        "m",
        kv=kv,
        decode=paper.DECODE,
        lengths=PAPER_LENGTHS,
        arrivals_per_second=per_second,
        instances=_fixed(decode, SLOW_PRICE),
        ttft_seconds=TTFT_SECONDS,
    )
    links = (Link("egress", "prfaas", "pd", gigabits * 1e9, 1.0, 0.03, 0.002),)
    prefill = (far, near) if remote else (near,)
    used = links if remote else ()
    return Problem(prefill, (pool,), direct_routes(prefill, [pool], used), used)


def paper_split(gigabits: float, kv: KVSize) -> tuple[int, int]:
    """The best N_p and N_d of the eight local instances for this link and model, by the planner."""
    system = paper_system(1.0, remote=4, local=8, decode=8, gigabits=gigabits, kv=kv)
    prefill = (system.prefill_pools[0], _free(system.prefill_pools[1]))
    open_sizes = replace(
        system,
        prefill_pools=prefill,
        # The most that can be served is asked for, not what is in time.
        decode_pools=(replace(_free(system.decode_pools[0]), ttft_seconds=None),),
        quotas=(Quota("pd", frozenset({"h20-prefill", "h20-decode"}), 8 * 8),),
    )
    found = plan(open_sizes, Options(goal=Goal.MOST_SERVED, buckets=16), elapsed_seconds=lambda: 0.0)
    return found.pool("h20-prefill").instances, found.pool("h20-decode").instances


def paper_settings(router: RouterKind, seconds: float, queue_seconds: float) -> Settings:
    """A steady load on given instances."""
    return Settings(
        duration_seconds=seconds,
        warm_up_seconds=seconds / 5,
        queue_seconds_max=queue_seconds,
        policy=Policy(router=router, replan_seconds=1e9, control_seconds=60.0),
        demand={"h20-decode": Demand(outputs=Outputs.GEOMETRIC)},
    )


def _free(pool: P) -> P:
    return replace(pool, instances=replace(pool.instances, current=None))


def _fixed(instances: int, price: float) -> Instances:
    return Instances(maximum=max(1, instances), current=instances, accelerators_each=8, price_per_hour=price)
