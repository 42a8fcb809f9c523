"""Writes the cluster's report into its Region's status, when it has changed and not too often."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from pydantic import ValidationError

from prfaas import __version__
from prfaas.api import keys
from prfaas.api.v1alpha1 import ClusterReport, PoolStatus, ReportedPool
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import REGIONS
from prfaas_operator.federation.report import report, reported_pool, seconds_until_write
from prfaas_operator.federation.values import ObjectKey, Refused
from prfaas_operator.federation.wanted import clusters_of
from prfaas_operator.runtime.federation.following import Wake
from prfaas_operator.runtime.fence import WritingStopped
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

# What changes together comes in one report.
SETTLE_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0


class Reporter:
    """Reports.

    Args:
        api: of the server that has the Region: the hub's, or the own one.
        pools: the pools of this cluster, as they are now.
        told: what the mirror adds: refusals, the hub's UID, whether it is frozen.
        there: whether the Region may be there: nothing is tried without one.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        region: str,
        cluster: str,
        pools: Callable[[], list[ReportedPool]],
        told: Callable[[], tuple[tuple[Refused, ...], str | None, bool | None]],
        clock: Callable[[], float],
        chance: Callable[[], float],
        there: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._there = there
        self._region, self._cluster = region, cluster
        self._pools, self._told = pools, told
        self._clock, self._chance = clock, chance
        self.wake = Wake()
        self._written: ClusterReport | None = None
        self._written_at = float("-inf")

    def forget(self) -> None:
        """What was written may be lost: the hub was away."""
        self._written = None
        self.wake()

    def current(self) -> ClusterReport:
        """The report as it would be written now."""
        refused, hub_uid, frozen = self._told()
        return report(self._cluster, __version__, self._pools(), refused, hub_uid=hub_uid, frozen=frozen)

    async def run(self) -> None:
        """Report until cancelled."""
        failures = 0
        while True:
            await self.wake.wait(None)
            await asyncio.sleep(SETTLE_SECONDS)
            if not self._there():
                # Wakes again when it comes.
                continue
            current = self.current()
            wait_seconds = seconds_until_write(self._written, self._written_at, current, self._clock())
            if wait_seconds is None:
                continue
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
                current = self.current()
                if current == self._written:
                    continue
            try:
                await self._write(current)
            except (errors.KubeError, WritingStopped) as error:
                failures += 1
                logger.log(
                    logging.WARNING if failures in (2, 10, 100) else logging.DEBUG, "report: %s", error
                )
                pause = min(LONGEST_RETRY_SECONDS, 2.0 ** min(failures, 8))
                await asyncio.sleep(pause * (0.5 + 0.5 * self._chance()))
                self.wake()
            else:
                failures = 0

    async def _write(self, current: ClusterReport) -> None:
        body = {
            "metadata": {"name": self._region},
            "status": {"clusters": [current.to_api()]},
        }
        await self._api.apply_status(REGIONS, body, field_manager=keys.manager_of_cluster(self._cluster))
        self._written, self._written_at = current, self._clock()


def pools_of_store(store: Store, cluster: str) -> list[ReportedPool]:
    """The pools that this cluster runs, by what their status says."""
    found = []
    for kind in (keys.PREFILL_POOL, keys.DECODE_POOL):
        for fact in store.custom(kind):
            clusters = clusters_of(json.loads(fact.value.spec))
            if fact.value.deleted or (clusters is not None and cluster not in clusters):
                continue
            try:
                status = PoolStatus.model_validate_json(fact.value.status)
            except ValidationError:
                # Of another version; its own pass says so.
                status = PoolStatus()
            key = ObjectKey(kind, fact.namespace, fact.name)
            found.append(reported_pool(key, fact.value.annotations, status))
    return found
