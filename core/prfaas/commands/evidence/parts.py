"""Workloads in which single parts have something to do: roles that change, links that get narrow."""

from __future__ import annotations

import numpy as np

from prfaas.capacity import DecodeRate, TruncatedLogNormal, paper
from prfaas.commands.evidence.workloads import SLOW_PRICE, TTFT_SECONDS
from prfaas.planner import DecodePool, Instances, PrefillPool, Problem, direct_routes
from prfaas.simulator import Arrival, Demand, Policy, RouterKind, Settings, Sizing, Trace, TraceForm
from prfaas.simulator.arrivals import LengthSampler

MIX = "mix"
MIX_HOURS = 8
DOCUMENTS = (1.5, TruncatedLogNormal(9.9, 1.0, 128, paper.LONGEST_TOKENS))
CHAT = (6.0, TruncatedLogNormal(7.1, 1.0, 128, 32_768))
"""Requests per second and lengths of the two kinds; both get answers of 512 tokens on average."""
MIX_OUTPUT_TOKENS = 512.0


def mixed_arrivals() -> tuple[Arrival, ...]:
    """Hours of documents and of chat in turn: the ones need prefill, the others decoding."""
    random = np.random.default_rng(7)
    found: list[Arrival] = []
    for number, (rate, lengths) in enumerate((DOCUMENTS, CHAT)):
        seconds = MIX_HOURS * 3600.0
        times = np.sort(random.uniform(0.0, seconds, random.poisson(rate * seconds)))
        mine = times[(times // 3600).astype(int) % 2 == number]
        tokens = LengthSampler(lengths, random).draw(len(mine))
        outputs = random.geometric(1 / MIX_OUTPUT_TOKENS, len(mine))
        found.extend(
            Arrival(float(at), length, int(output))
            for at, length, output in zip(mine, tokens, outputs, strict=True)
        )
    return tuple(sorted(found, key=lambda each: each.at_seconds))


def mixed_problem() -> Problem:
    """One cluster with instances of one kind, divided between the two roles."""
    prefill = (PrefillPool("p", "c", "m", paper.PREFILL_H20, _instances(11), 0.85),)
    decode = (
        DecodePool(
            "d",
            "c",
            "m",
            kv=paper.KV,
            decode=DecodeRate(0.025, 20, MIX_OUTPUT_TOKENS),
            lengths=DOCUMENTS[1],
            arrivals_per_second=DOCUMENTS[0],
            instances=_instances(2),
            ttft_seconds=TTFT_SECONDS,
            utilisation_max=0.9,
        ),
    )
    return Problem(prefill, decode, direct_routes(prefill, decode, ()))


def mixed_settings(*, conversion: bool) -> Settings:
    """Sizes by the planner every five minutes."""
    return Settings(
        duration_seconds=MIX_HOURS * 3600.0,
        warm_up_seconds=1800.0,
        sample_seconds=300.0,
        queue_seconds_max=120.0,
        demand={"d": Demand(pattern=Trace(kind="Trace", file=MIX, form=TraceForm.PRFAAS))},
        policy=Policy(
            sizing=Sizing.PLANNER,
            router=RouterKind.SCHEDULER,
            replan_seconds=300.0,
            control_seconds=60.0,
            conversion=conversion,
        ),
    )


def _instances(current: int) -> Instances:
    return Instances(
        maximum=40, current=current, accelerators_each=8, price_per_hour=SLOW_PRICE, start_seconds=300.0
    )
