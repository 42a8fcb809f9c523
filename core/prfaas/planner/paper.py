"""The paper's system of section 4.1 as a problem for the planner."""

from __future__ import annotations

from prfaas.capacity import paper
from prfaas.capacity.profiles import Wire
from prfaas.planner.problem import DecodePool, Instances, Link, PrefillPool, Problem, Quota, Route

_PLAIN = Wire()


def paper_problem(
    *,
    egress_bits_per_second: float = paper.LINK_BITS_PER_SECOND,
    wire: Wire = _PLAIN,
    prefill_hit_share: float = 0.0,
) -> Problem:
    """32 H200 that prefill, 64 H20 that do both, one link; the demand is 1 request/s, so θ is Λ_max."""
    return Problem(
        prefill_pools=(
            PrefillPool("h200", "prfaas", "1t", paper.PREFILL_H200, Instances(maximum=4)),
            PrefillPool("h20-prefill", "pd", "1t", paper.PREFILL_H20, Instances(maximum=8)),
        ),
        decode_pools=(
            DecodePool(
                "h20-decode",
                "pd",
                "1t",
                kv=paper.KV,
                decode=paper.DECODE,
                lengths=paper.LENGTHS,
                arrivals_per_second=1.0,
                instances=Instances(maximum=8),
            ),
        ),
        routes=(
            Route("h20-prefill", "h20-decode", (), _PLAIN, prefill_hit_share),
            Route("h200", "h20-decode", ("egress",), wire, prefill_hit_share),
        ),
        links=(Link("egress", "prfaas", "pd", egress_bits_per_second),),
        quotas=(Quota("h20", frozenset({"h20-prefill", "h20-decode"}), 8),),
    )
