"""Every name in the settings has to be one of the scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prfaas.capacity import InvalidInputError
from prfaas.planner import Problem
from prfaas.simulator.settings import Settings


def check_names(problem: Problem, settings: Settings) -> None:
    """InvalidInputError for the first name that the scenario does not have, with those that it has."""
    decode = [pool.name for pool in problem.decode_pools]
    pools = [pool.name for pool in problem.pools]
    links = [link.name for link in problem.links]
    clusters = {pool.cluster for pool in problem.pools}
    regions = [region.name for region in problem.regions]
    _known("demand", settings.demand, decode, "decode pool")
    _known("networks", settings.networks, links, "link")
    _known("pools", settings.pools, pools, "pool")
    for index, failure in enumerate(settings.failures):
        for field, known in (("link", links), ("pool", pools), ("cluster", clusters), ("region", regions)):
            name = getattr(failure, field)
            if name is not None and name not in known:
                raise _unknown(f"failures.{index}.{field}", name, known, field)
    for route in problem.routes:
        if len(route.links) > 1:
            raise InvalidInputError(
                f"routes[{route.prefill_pool} to {route.decode_pool}].links",
                f"has {len(route.links)} links in a row",
                "simulate it as one link with the rate of the slowest and the sum of the round trips",
            )


def _known(field: str, given: Mapping[str, object], known: Iterable[str], kind: str) -> None:
    for name in given:
        if name not in known:
            raise _unknown(f"{field}.{name}", name, known, kind)


def _unknown(field: str, name: str, known: Iterable[str], kind: str) -> InvalidInputError:
    there = ", ".join(sorted(known)) or "none: the scenario has no such thing"
    return InvalidInputError(f"simulation.{field}", f"there is no {kind} {name}", f"use one of: {there}")
