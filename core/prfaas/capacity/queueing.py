"""Waiting time of a pool of equal instances, for the time to first token."""

from __future__ import annotations

import math

from prfaas.capacity.errors import InvalidInputError, require_not_negative, require_positive


def waiting_probability(servers: int, offered_load: float) -> float:
    """Erlang C: the share of requests that find all servers busy.

    `offered_load` is arrival rate times mean service time, in servers. At or above `servers` it is 1.
    """
    if servers < 1:
        raise InvalidInputError("servers", f"is {servers}", "give at least 1")
    require_not_negative("offered_load", offered_load)
    if offered_load >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered_load * blocked / (count + offered_load * blocked)
    return blocked / (1 - offered_load / servers * (1 - blocked))


def mean_wait_seconds(
    servers: int,
    arrivals_per_second: float,
    mean_service_seconds: float,
    *,
    service_variation: float,
    arrival_variation: float = 1.0,
) -> float:
    """Mean wait of G/G/m by Allen and Cunneen: the wait of M/M/m times (c_a² + c_s²) / 2, in seconds.

    The variations are squared coefficients of variation; 1 for Poisson arrivals, 0 for a constant. Infinite
    at or above full load. Exact for M/M/m and M/G/1, an approximation in between.
    """
    require_not_negative("arrivals_per_second", arrivals_per_second)
    require_positive("mean_service_seconds", mean_service_seconds)
    require_not_negative("service_variation", service_variation)
    require_not_negative("arrival_variation", arrival_variation)
    load = arrivals_per_second * mean_service_seconds
    if load >= servers:
        return math.inf
    exponential = waiting_probability(servers, load) * mean_service_seconds / (servers - load)
    return exponential * (arrival_variation + service_variation) / 2
