"""Equations 1 to 8 of the PrfaaS paper (arXiv 2604.15039), each as one function of plain numbers.

Throughputs are in requests per second, sizes in bytes, times in seconds, bandwidths in bits per second. Every
function raises InvalidInputError for an argument that is not finite or has the wrong sign. Which length a
time or a size is taken at is the caller's choice: the paper takes the mean length of a class, the planner
exact means.
"""

from __future__ import annotations

import math

from prfaas.capacity.errors import require_not_negative, require_positive, require_share
from prfaas.capacity.profiles import BITS_PER_BYTE


def kv_throughput_bits_per_second(kv_bytes: float, prefill_seconds: float) -> float:
    """Eq. 1: Φ_kv(l) = S_kv(l) / T_prefill(l), of one instance, in bits per second."""
    require_positive("kv_bytes", kv_bytes)
    return kv_bytes * BITS_PER_BYTE / require_positive("prefill_seconds", prefill_seconds)


def egress_needed_bits_per_second(
    instances: float, mean_kv_bytes: float, mean_prefill_seconds: float
) -> float:
    """Eq. 2: B_out,min = (N/P) · E[S_kv] / E[T_prefill], in bits per second.

    `instances` is N/P; the means are over the uncached lengths of the requests that are really offloaded.
    """
    require_not_negative("instances", instances)
    return instances * kv_throughput_bits_per_second(mean_kv_bytes, mean_prefill_seconds)


def remote_prefill_throughput(
    instances: float, prefill_seconds: float, kv_bytes: float, egress_bits_per_second: float
) -> float:
    """Eq. 3: Θ_prfaas = min(N_prfaas / T_prefill(l_long), B_out / S_kv(l_long)), in requests per second."""
    require_not_negative("egress_bits_per_second", egress_bits_per_second)
    require_positive("kv_bytes", kv_bytes)
    return min(
        local_prefill_throughput(instances, prefill_seconds),
        egress_bits_per_second / (kv_bytes * BITS_PER_BYTE),
    )


def local_prefill_throughput(instances: float, prefill_seconds: float) -> float:
    """Eq. 4: Θ_pd-p = N_p / T_prefill(l_short), in requests/s; the local network never binds."""
    require_not_negative("instances", instances)
    return instances / require_positive("prefill_seconds", prefill_seconds)


def decode_throughput(instances: float, batch_max: float, step_seconds: float, output_tokens: float) -> float:
    """Eq. 5: Θ_pd-d = N_d · BS_max / (T_decode · L_out), in requests per second."""
    require_not_negative("instances", instances)
    require_positive("batch_max", batch_max)
    require_positive("step_seconds", step_seconds)
    return instances * batch_max / (step_seconds * require_positive("output_tokens", output_tokens))


def system_throughput(remote: float, local: float, decode: float, remote_share: float) -> float:
    """Eq. 6: Λ_max = min(Θ_prfaas / p, Θ_pd-p / (1 - p), Θ_pd-d), in requests per second.

    `remote_share` is p = P(L > t). A class with no requests does not bind, whatever its throughput.
    """
    return min(*prefill_limits(remote, local, remote_share), require_not_negative("decode", decode))


def prefill_limits(remote: float, local: float, remote_share: float) -> tuple[float, float]:
    """The first two terms of Eq. 6, (Θ_prfaas / p, Θ_pd-p / (1 - p)); infinite for an empty class."""
    require_not_negative("remote", remote)
    require_not_negative("local", local)
    share = require_share("remote_share", remote_share)
    return (remote / share if share > 0 else math.inf, local / (1 - share) if share < 1 else math.inf)


def threshold_imbalance(remote: float, local: float, remote_share: float) -> float:
    """Eq. 7 as a difference: Θ_prfaas / p - Θ_pd-p / (1 - p), 0 at the best threshold.

    Negative: the remote prefill binds, raise t. Positive: the local one binds, lower t. Rises with t.
    Infinite when a class has no requests.
    """
    remote_limit, local_limit = prefill_limits(remote, local, remote_share)
    if math.isinf(remote_limit) and math.isinf(local_limit):
        return 0.0
    return remote_limit - local_limit


def stage_imbalance(remote: float, local: float, decode: float) -> float:
    """Eq. 8 as a difference: Θ_prfaas + Θ_pd-p - Θ_pd-d, 0 when prefill matches decode.

    Negative: prefill binds, convert decode instances to prefill. Positive: decode binds, the other way. With
    whole instances it is only near 0 at the optimum.
    """
    return (
        require_not_negative("remote", remote)
        + require_not_negative("local", local)
        - require_not_negative("decode", decode)
    )
