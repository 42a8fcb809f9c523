"""Reads KVLinks for the autoscaler: what the links between regions can carry, and do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from prfaas.api.conditions import ConditionType, Reason
from prfaas.api.v1alpha1 import KVLink
from prfaas.autoscaling import LinkObservation
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import KV_LINKS
from prfaas_operator.planning.autoscale.observe import link_observation

logger = logging.getLogger(__name__)

_SPENT = frozenset({Reason.BUDGET_SPENT, Reason.BUDGET_UNKNOWN})
LIST_EVERY_SECONDS = 10.0


class LinkMeasurements:
    """The KVLinks of this cluster. Its own operator or the mirror writes them, at most once a minute.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, api: KubeApi, *, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._listed_at = float("-inf")
        self._known: tuple[LinkObservation, ...] = ()
        self._problem = ""

    async def ask(self) -> tuple[LinkObservation, ...]:
        """All links. While they cannot be listed the known ones grow old, and nothing grows behind those."""
        now = self._clock()
        if now - self._listed_at < LIST_EVERY_SECONDS:
            return self._known
        try:
            bodies = await self._api.list(KV_LINKS, None)
        except errors.KubeError as error:
            if str(error) != self._problem:
                logger.warning("KVLinks cannot be listed: %s", error)
            self._problem = str(error)
            age = now - self._listed_at
            return tuple(_aged(each, age) for each in self._known)
        self._problem, self._listed_at = "", now
        found: dict[tuple[str, str], LinkObservation] = {}
        for body in bodies:
            try:
                link = KVLink.model_validate(body)
            except ValidationError as error:
                logger.warning("KVLink %s cannot be read: %s", body["metadata"]["name"], error)
                continue
            ends = (link.spec.source.region, link.spec.destination.region)
            # Of several for one path the first by name counts.
            found.setdefault(ends, observed(link))
        self._known = tuple(found[ends] for ends in sorted(found))
        return self._known


def observed(link: KVLink) -> LinkObservation:
    """What a KVLink says."""
    spec, status = link.spec, link.status
    return link_observation(
        source=spec.source.region,
        target=spec.destination.region,
        capacity=spec.capacity_bits_per_second,
        goodput=status.goodput_bits_per_second or None,
        utilisation_percent=status.utilisation_percent,
        rtt_seconds=status.rtt_seconds,
        price_per_gibibyte=spec.price_per_gibibyte,
        conditions={each.type: str(each.status) for each in status.conditions},
        age_seconds=0.0,
        budget_spent=any(
            each.type == ConditionType.CONGESTED and each.status == "True" and each.reason in _SPENT
            for each in status.conditions
        ),
    )


def _aged(link: LinkObservation, seconds: float) -> LinkObservation:
    return replace(link, age_seconds=link.age_seconds + seconds)
