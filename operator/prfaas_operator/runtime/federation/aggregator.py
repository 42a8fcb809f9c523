"""In the hub: adds up what clusters report, and notices those that are heard of no more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from prfaas.api import keys
from prfaas.api.conditions import ConditionType, Reason, set_condition
from prfaas.api.v1alpha1 import PlacedStatus
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import BY_KIND, LEASES, REGIONS, Object
from prfaas_operator.federation import liveness
from prfaas_operator.federation.aggregate import (
    POOL_PAUSE_SECONDS,
    Allowance,
    ClusterState,
    placed,
    report_fresh,
)
from prfaas_operator.federation.values import ObjectKey
from prfaas_operator.federation.wanted import clusters_of
from prfaas_operator.runtime.elector import Elector, LeaseLost, Timings
from prfaas_operator.runtime.facts import CustomValue, Fact
from prfaas_operator.runtime.federation.following import Followed, Wake
from prfaas_operator.runtime.federation.region_objects import RegionObject
from prfaas_operator.runtime.fence import WritingStopped
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 0.5
LOOK_SECONDS = 60.0
RETRY_SECONDS = 5.0
AT_ONCE = 8
# A cluster reports every ten seconds at most.
NEW_SECONDS = 15.0
# A whole fleet may change at once, and then has to be told within a minute; steadily it may not cost more.
BURST_WRITES = 2000.0
WRITES_PER_SECOND = 4.0


class Aggregator:
    """Writes the pools' `status.clusters` and the Regions' ReportFresh.

    Args:
        lease_api: a client whose writes no fence stops.
        gateway_seconds: how long ago gateways here heard a cluster, None when never.
    """

    def __init__(
        self,
        api: KubeApi,
        lease_api: KubeApi,
        *,
        namespace: str,
        identity: str,
        timings: Timings,
        store: Store,
        regions: Followed[RegionObject],
        gateway_seconds: Callable[[str], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._api, self._lease_api = api, lease_api
        self._namespace, self._identity, self._timings = namespace, identity, timings
        self._store, self._regions = store, regions
        self._gateway_seconds = gateway_seconds
        self._clock = clock
        self.wake = Wake()
        self._leases: dict[str, liveness.LeaseSeen] = {}
        self._followed = Followed(
            api, LEASES, _lease, self._leases_changed, namespace=namespace, label_selector=keys.LABEL_CLUSTER
        )
        self._lost: dict[str, datetime] = {}
        self._written_at: dict[ObjectKey, float] = {}
        self._allowance = Allowance(WRITES_PER_SECOND, BURST_WRITES, BURST_WRITES, clock())

    def reporting_clusters(self) -> frozenset[str]:
        """Those that have a Lease here."""
        return frozenset(self._leases)

    async def run(self) -> None:
        """Add up whenever this process holds the aggregator's Lease, until cancelled."""
        while True:
            elector = Elector(
                self._lease_api,
                namespace=self._namespace,
                name=keys.AGGREGATOR_LEASE,
                identity=self._identity,
                timings=self._timings,
                clock=self._clock,
            )
            try:
                await elector.hold(self._lead)
            except LeaseLost as error:
                logger.warning("aggregator: %s", error)
            finally:
                await elector.release()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._followed.run(), name="aggregator's reflector of Leases")
            group.create_task(self._passes(), name="aggregator")

    def _leases_changed(self) -> None:
        now, wall = self._clock(), self._api.server_now()
        before = self._leases
        self._leases = {
            cluster: liveness.see_lease(before.get(cluster), renewed, now, wall)
            for cluster, renewed in self._followed.objects.values()
            # One that joining has just made was never renewed: the cluster is not lost, it has yet to come.
            if renewed
        }
        if self._leases.keys() != before.keys() or self._lost.keys() & self._fresh(now):
            self.wake()

    def _fresh(self, now: float) -> set[str]:
        return {name for name, seen in self._leases.items() if not liveness.is_stale(seen, now)}

    async def _passes(self) -> None:
        look_seconds: float = 0.0
        while True:
            await self.wake.wait(look_seconds)
            if not (self._followed.synced and self._regions.synced):
                look_seconds = SETTLE_SECONDS
                continue
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                look_seconds = await self._pass()
            except (errors.KubeError, WritingStopped) as error:
                logger.info("aggregator: %s", error)
                look_seconds = RETRY_SECONDS

    async def _pass(self) -> float:
        """One pass; when to look again."""
        states = self.states()
        for region in list(self._regions.objects.values()):
            await self._tell_region(region, states)
        look_seconds = min([LOOK_SECONDS, *self._stale_in()])
        pools = list(self._pools())
        for first in range(0, len(pools), AT_ONCE):
            waits = await asyncio.gather(
                *(self._tell_pool(kind, fact, states) for fact, kind in pools[first : first + AT_ONCE]),
                return_exceptions=True,
            )
            for each in waits:
                if isinstance(each, BaseException):
                    raise each
                look_seconds = min(look_seconds, each)
        return look_seconds

    def states(self) -> dict[str, ClusterState]:
        """Every cluster that a Region lists; of several that list it the first by name counts."""
        now, wall = self._clock(), self._api.server_now()
        found: dict[str, ClusterState] = {}
        for key in sorted(self._regions.objects, reverse=True):
            region = self._regions.objects[key]
            reports = {each.name: each for each in region.status.clusters}
            for name in region.clusters:
                ages = [*self._ages(name, now)]
                if not ages or min(ages) <= liveness.STALE_SECONDS:
                    self._lost.pop(name, None)
                else:
                    self._lost.setdefault(name, (wall - timedelta(seconds=min(ages))).replace(microsecond=0))
                found[name] = ClusterState(
                    region.name, reports.get(name), self._lost.get(name), heard=bool(ages)
                )
        return found

    def _ages(self, cluster: str, now: float) -> Iterator[float]:
        lease, gateways = self._leases.get(cluster), self._gateway_seconds(cluster)
        if lease is not None:
            yield now - lease.since
        if gateways is not None:
            yield gateways

    def _stale_in(self) -> Iterator[float]:
        now = self._clock()
        for seen in self._leases.values():
            left = liveness.seconds_until_stale(seen, now)
            if left is not None:
                yield left + SETTLE_SECONDS

    async def _tell_region(self, region: RegionObject, states: dict[str, ClusterState]) -> None:
        finding = report_fresh(region.name, region.clusters, states)
        stored = [each for each in region.status.conditions if each.type == ConditionType.REPORT_FRESH]
        conditions = set_condition(stored, finding, generation=region.generation, now=self._api.server_now())
        if list(conditions) == stored:
            return
        body: Object = {
            "metadata": {"name": region.name, "uid": region.uid},
            "status": {"conditions": [each.to_api() for each in conditions]},
        }
        await self._write(REGIONS, body)

    def _pools(self) -> Iterator[tuple[Fact[CustomValue], keys.PoolKind]]:
        kinds: tuple[keys.PoolKind, ...] = (keys.PREFILL_POOL, keys.DECODE_POOL)
        for kind in kinds:
            for fact in self._store.custom(kind):
                if not fact.value.deleted and (
                    b'"placement"' in fact.value.spec or b'"placed"' in fact.value.status
                ):
                    yield fact, kind

    async def _tell_pool(
        self, kind: keys.PoolKind, fact: Fact[CustomValue], states: dict[str, ClusterState]
    ) -> float:
        """Write when it differs; in how many seconds that is possible, when it is not now."""
        key = ObjectKey(kind, fact.namespace, fact.name)
        clusters = clusters_of(json.loads(fact.value.spec))
        found, text = placed(key, fact.value.generation, clusters or (), states)
        stored, stored_text = _stored(fact.value.status)
        if (found, text) == (stored, stored_text):
            return LOOK_SECONDS
        age_seconds = (self._api.server_now() - fact.value.created_at).total_seconds()
        untold = any(each.reason == Reason.NEVER_REPORTED for each in found)
        if untold and not stored and age_seconds < NEW_SECONDS:
            # Its clusters are about to tell of it.
            return NEW_SECONDS - age_seconds
        wait_seconds = self._written_at.get(key, float("-inf")) + POOL_PAUSE_SECONDS - self._clock()
        if wait_seconds > 0:
            return wait_seconds
        status: dict[str, Any] = {}
        if clusters is not None:
            status = {"clusters": [each.to_api() for each in found], "placed": text}
        body: Object = {
            "metadata": {"namespace": fact.namespace, "name": fact.name, "uid": fact.uid},
            "status": status,
        }
        try:
            await self._write(BY_KIND[kind], body)
        except (errors.NotFound, errors.Conflict):
            return LOOK_SECONDS
        self._written_at[key] = self._clock()
        return LOOK_SECONDS

    async def _write(self, resource: Any, body: Object) -> None:
        self._allowance, wait_seconds = self._allowance.spend(self._clock())
        if wait_seconds:
            await asyncio.sleep(wait_seconds)
        await self._api.apply_status(resource, body, field_manager=keys.MANAGER_AGGREGATOR)


def _lease(body: Object) -> tuple[str, str]:
    cluster = str(body["metadata"]["labels"][keys.LABEL_CLUSTER])
    return cluster, str((body.get("spec") or {}).get("renewTime") or "")


def _stored(status: bytes) -> tuple[tuple[PlacedStatus, ...], str]:
    if b'"placed"' not in status:
        return (), ""
    document = json.loads(status)
    try:
        clusters = tuple(PlacedStatus.model_validate(each) for each in document.get("clusters") or ())
    except ValidationError:
        clusters = ()
    return tuple(sorted(clusters, key=lambda each: each.name)), str(document.get("placed") or "")
