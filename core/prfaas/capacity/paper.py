"""The published figures of the PrfaaS paper (arXiv 2604.15039), and the curves that they imply.

Published: tables 3, 5 and 6 and the set-up of section 4.1. Implied: the decode rate (from Θ_pd-d of table 6)
and T_prefill of the H20, which the paper does not print; its curve is solved from Θ_pd-p at l_short and at
the mean length and from the P90 of table 6, and then predicts the mean time of table 6 within 0.2 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from prfaas.capacity.curves import Curve
from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.capacity.profiles import DecodeRate, KVSize
from prfaas.capacity.two_site import Means, TwoSite

MIB = 2**20
LONGEST_TOKENS = 131_072

TABLE_3_TOKENS = (1_024, 8_192, 32_768, 131_072)
TABLE_3_GBITS_PER_SECOND = {
    "Kimi Linear": (1.19, 2.29, 3.87, 4.88),
    "MiMo-V2-Flash": (0.82, 2.85, 4.66, 4.71),
    "Qwen3.5-397B": (4.13, 6.28, 8.25, 7.47),
    "Ring-2.5-1T": (7.27, 4.47, 2.59, 1.46),
    "MiniMax-M2.5": (4.94, 32.87, 59.93, 47.82),
    "Qwen3-235B": (4.12, 22.42, 33.35, 21.50),
}
"""Φ_kv of one instance of eight H200, by length; the last two models are dense."""


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One row of table 5: a 1T hybrid model on eight H200."""

    tokens: int
    kv_mib: float
    prefill_seconds: float
    kv_gbits_per_second: float


TABLE_5 = (
    ProfileRow(1_024, 190.8, 0.44, 3.61),
    ProfileRow(8_192, 308.9, 0.72, 3.59),
    ProfileRow(32_768, 701.3, 1.84, 3.19),
    ProfileRow(131_072, 2316.3, 7.40, 2.62),
)


@dataclass(frozen=True, slots=True)
class SystemColumn:
    """One column of table 6. None where the paper prints a dash."""

    name: str
    threshold_tokens: float | None
    remote_instances: int
    local_prefill_instances: int
    decode_instances: int
    ttft_mean_seconds: float
    ttft_p90_seconds: float
    remote_prefill: float | None
    local_prefill: float | None
    decode: float
    throughput: float


TABLE_6 = (
    SystemColumn("PrfaaS-PD", 19_400, 4, 3, 5, 2.22, 3.51, 1.61, 1.64, 3.91, 3.24),
    SystemColumn("homogeneous PD", None, 0, 9, 3, 4.44, 9.73, None, 2.11, 2.35, 2.11),
    SystemColumn("naive heterogeneous", None, 4, 0, 8, 1.74, 3.51, 2.45, None, 6.25, 2.45),
)

LENGTHS = TruncatedLogNormal(mu=9.90, sigma=1.00, min_tokens=128, max_tokens=LONGEST_TOKENS)
"""Uncached prompt lengths of section 4.1."""

KV = KVSize.per_token(15 * 576 * 2, state_bytes=173.9 * MIB, to_tokens=LONGEST_TOKENS)
"""15 MLA layers of 576 two-byte values per token, and the recurrent state of the KDA layers."""

PREFILL_H200 = Curve.polynomial(0.389, 4.107e-5, 9.476e-11, to_tokens=LONGEST_TOKENS)
"""A fit of table 5, within 2 % of each row."""

PREFILL_H200_TABLE = Curve.from_points(
    [(row.tokens, row.prefill_seconds) for row in TABLE_5], extrapolates=True
)
"""Table 5 itself, with straight lines between its rows."""

PREFILL_H20 = Curve.polynomial(0.469, 1.300e-4, 2.94e-10, to_tokens=LONGEST_TOKENS)

DECODE = DecodeRate(step_seconds=0.025, batch_max=20, output_tokens=1024)
"""40 tokens/s, 1024 tokens of output, and the batch that Θ_pd-d = 3.91 of 5 instances implies."""

LINK_BITS_PER_SECOND = 100e9


def two_site(
    *,
    egress_bits_per_second: float = LINK_BITS_PER_SECOND,
    remote_instances: int = 4,
    local_instances: int = 8,
    remote_prefill: Curve = PREFILL_H200,
    means: Means = Means.AT_MEAN_LENGTH,
) -> TwoSite:
    """The system of section 4.1: 32 H200 as 4 remote instances, 64 H20 as 8 local ones, 100 Gbit/s."""
    return TwoSite(
        remote_instances=remote_instances,
        local_instances=local_instances,
        egress_bits_per_second=egress_bits_per_second,
        remote_prefill=remote_prefill,
        local_prefill=PREFILL_H20,
        kv=KV,
        decode=DECODE,
        lengths=LENGTHS,
        means=means,
    )
