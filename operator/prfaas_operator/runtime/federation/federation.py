"""The federation's parts put together. They run on the leader only, and none of them stops the others."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from prfaas.api import keys
from prfaas.api.conditions import Finding
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import REGIONS
from prfaas_operator.config import OperatorConfig
from prfaas_operator.federation import hub as hub_rules
from prfaas_operator.federation import mirror as mirror_rules
from prfaas_operator.federation.values import MirrorSettings, Refused
from prfaas_operator.runtime.elector import Timings
from prfaas_operator.runtime.federation.aggregator import Aggregator
from prfaas_operator.runtime.federation.following import Followed
from prfaas_operator.runtime.federation.gateways import GatewayViews
from prfaas_operator.runtime.federation.hub import Hub
from prfaas_operator.runtime.federation.hub_client import hub_client
from prfaas_operator.runtime.federation.leftovers import give_up_adding_up
from prfaas_operator.runtime.federation.links import Links
from prfaas_operator.runtime.federation.mirror import Mirror
from prfaas_operator.runtime.federation.presence import BEAT_SECONDS, renew
from prfaas_operator.runtime.federation.region_objects import RegionObject, region_key, region_object
from prfaas_operator.runtime.federation.region_status import RegionStatusWriter
from prfaas_operator.runtime.federation.reporter import Reporter, pools_of_store
from prfaas_operator.runtime.fence import Fence, WritingStopped
from prfaas_operator.runtime.metrics import Metrics
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0


class Federation:
    """What a leading operator does about other clusters.

    Args:
        api: of the own cluster, fenced; `lease_api` without a fence.
        fence: also around writes to the hub.
        identity: of this process.
        authority_id: of the authority that signs here.
        rotation: how far its rotation is, "" without one.
    """

    def __init__(
        self,
        config: OperatorConfig,
        api: KubeClient,
        lease_api: KubeClient,
        *,
        fence: Fence,
        store: Store,
        metrics: Metrics,
        namespace: str,
        namespaces: tuple[str | None, ...],
        identity: str,
        authority_id: Callable[[], str],
        rotation: Callable[[], str],
        user_agent: str,
        clock: Callable[[], float],
        links_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._api = api
        self._clock = clock
        self._namespace, self._identity = namespace, identity
        self._namespaces = namespaces
        self.region = config.region
        self.cluster = config.cluster or config.region
        self.regions: Followed[RegionObject] = Followed(api, REGIONS, region_object, self._regions_changed)
        self.gateways = GatewayViews(api, namespace=namespace, clock=clock, changed=self._gateways_told)
        path = config.federation.hub_kubeconfig
        self.hub = None if path is None else self._hub(path, fence, user_agent)
        self.mirror = None if self.hub is None else self._mirror(self.hub, namespaces)
        self.aggregator: Aggregator | None = None
        if self.hub is None:
            timings = config.leader_election
            self.aggregator = Aggregator(
                api,
                lease_api,
                namespace=namespace,
                identity=identity,
                timings=Timings(timings.lease_seconds, timings.renew_deadline_seconds, timings.retry_seconds),
                store=store,
                regions=self.regions,
                gateway_seconds=self.gateways.heard_seconds,
                clock=clock,
            )
        self.reporter = Reporter(
            self.hub.api if self.hub is not None else api,
            region=self.region,
            cluster=self.cluster,
            pools=lambda: pools_of_store(store, self.cluster),
            told=self._told_by_mirror,
            clock=clock,
            chance=random.random,
            there=lambda: self.hub is not None or region_key(self.region) in self.regions.objects,
        )
        self.status = RegionStatusWriter(
            api,
            own_region=self.region,
            regions=self.regions,
            gateways=self.gateways,
            hub_findings=self.hub_findings,
            authority_id=authority_id,
            rotation=rotation,
            reports_here=self._reports_here,
            clock=clock,
        )
        self.links = Links(
            api,
            namespace=namespace,
            region=self.region,
            pods=partial(_decode_pods, store),
            clock=clock,
            clusters=self._own_clusters,
            changed=links_changed,
        )
        self._register(metrics)

    def _hub(self, path: str, fence: Fence, user_agent: str) -> Hub:
        return Hub(
            hub_client(path, fence, user_agent),
            path=path,
            namespace=self._config.federation.hub_namespace,
            own_namespace=self._namespace,
            cluster=self.cluster,
            holder=f"{self.cluster}/{self._identity}",
            clock=self._clock,
            chance=random.random,
            changed=self._hub_changed,
        )

    def _mirror(self, hub: Hub, namespaces: tuple[str | None, ...]) -> Mirror:
        federation = self._config.federation
        return Mirror(
            hub,
            self._api,
            namespace=self._namespace,
            watched=namespaces,
            settings=MirrorSettings(
                self.cluster,
                self.region,
                frozenset(federation.allowed_namespaces),
                frozenset(federation.allowed_service_accounts),
                federation.allowed_host_paths,
            ),
            clock=self._clock,
            chance=random.random,
            changed=self._mirror_changed,
        )

    async def run(self) -> None:
        """Until cancelled."""
        parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("reflector of Regions", self.regions.run),
            ("questions to gateways", self.gateways.run),
            ("status of Regions", self.status.run),
            ("report", self.reporter.run),
            ("links", self.links.run),
        ]
        if self.hub is not None and self.mirror is not None:
            parts += [("contact with the hub", self.hub.run), ("mirror", self.mirror.run)]
            parts.append(("former hub", self._give_up_adding_up))
        else:
            parts.append(("presence", self._be_present))
        if self.aggregator is not None:
            parts.append(("aggregator", partial(self._aggregate, self.aggregator)))
        self.reporter.wake()
        try:
            async with asyncio.TaskGroup() as group:
                for name, part in parts:
                    group.create_task(_again_and_again(name, part), name=f"federation: {name}")
        finally:
            if self.hub is not None:
                await self.hub.api.close()

    def pools_changed(self) -> None:
        """A pool, or its status, is another one."""
        self.reporter.wake()
        if self.aggregator is not None:
            self.aggregator.wake()

    def hub_findings(self) -> tuple[Finding, ...]:
        """HubReachable, MirrorReady and TokenValid as far as they are known."""
        if self.hub is None or self.mirror is None:
            return (*hub_rules.no_hub(), mirror_rules.no_hub())
        contact = self.hub.contact
        found = (
            hub_rules.reachable(contact, self._clock()),
            hub_rules.token_valid(self.hub.way.token_ends_at, contact, self._now()),
            self.mirror.finding,
        )
        return tuple(each for each in found if each is not None)

    def _now(self) -> datetime:
        return self._api.server_now()

    async def _be_present(self) -> None:
        """Where there is no hub, or this is it: the Lease is here, once there is a Region."""
        while True:
            if region_key(self.region) in self.regions.objects:
                try:
                    await renew(self._api, self._namespace, self.cluster, self._identity, make=True)
                except (errors.KubeError, WritingStopped) as error:
                    logger.info("the cluster's Lease: %s", error)
            await asyncio.sleep(BEAT_SECONDS * (0.9 + 0.2 * random.random()))  # noqa: S311 - spreads calls

    async def _give_up_adding_up(self) -> None:
        """Once: before it had a hub this cluster was its own."""
        while True:
            try:
                await give_up_adding_up(self._api, self.cluster, self._namespaces)
                break
            except (errors.KubeError, WritingStopped) as error:
                logger.info("what was added up here before: %s", error)
            await asyncio.sleep(BEAT_SECONDS)
        await asyncio.Event().wait()

    async def _aggregate(self, aggregator: Aggregator) -> None:
        """A cluster without Regions has nothing to add up, and no second Lease to renew."""
        while not self.regions.objects:
            await aggregator.wake.wait(None)
        await aggregator.run()

    def _reports_here(self) -> frozenset[str] | None:
        return self.aggregator.reporting_clusters() if self.aggregator is not None else None

    def _told_by_mirror(self) -> tuple[tuple[Refused, ...], str | None, bool | None]:
        if self.mirror is None:
            return (), None, None
        return self.mirror.refused, self.mirror.hub_uid, self.mirror.frozen or None

    def _regions_changed(self) -> None:
        self.status.wake()
        if self.aggregator is not None:
            self.aggregator.wake()
        if self.hub is None:
            # The Region to report into may have come.
            self.reporter.wake()

    def _gateways_told(self) -> None:
        self.status.wake()

    def _own_clusters(self) -> int:
        """How many clusters the own region has, by its Region."""
        own = self.regions.objects.get(region_key(self.region))
        return 1 if own is None else len(own.clusters)

    def _hub_changed(self) -> None:
        self.status.wake()

    def _mirror_changed(self) -> None:
        self.status.wake()
        self.reporter.wake()

    def _register(self, metrics: Metrics) -> None:
        metrics.gauges(
            "prfaas_operator_region_condition",
            "1 for each condition of a Region as this cluster sees it, by type and status.",
            ("region", "condition", "status"),
            self._conditions,
        )
        hub, mirror = self.hub, self.mirror
        if hub is not None and mirror is not None:
            metrics.gauge(
                "prfaas_operator_hub_seconds",
                "How long ago the hub answered last.",
                lambda: self._hub_seconds(hub),
            )
            metrics.gauge(
                "prfaas_operator_mirror_refused",
                "Objects that the hub wants here and that are not carried out.",
                lambda: float(len(mirror.refused)),
            )

    def _hub_seconds(self, hub: Hub) -> float:
        contact = hub.contact
        last = contact.answered_at if contact.answered_at is not None else contact.began_at
        return self._clock() - last

    def _conditions(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for region in self.regions.objects.values():
            for each in region.status.conditions:
                yield (region.name, each.type, str(each.status)), 1.0


async def _again_and_again(name: str, part: Callable[[], Awaitable[Any]]) -> None:
    """A defect in one part must not end the operator, which serves without all of them."""
    while True:
        try:
            await part()
        except Exception:
            logger.exception("federation: %s has failed and begins anew in %.0f s", name, AGAIN_SECONDS)
        else:
            logger.error("federation: %s has ended, which it must not; it begins anew", name)
        await asyncio.sleep(AGAIN_SECONDS)


def _decode_pods(store: Store) -> list[tuple[str, str]]:
    """Pods that may receive KV: uid and address. Those that end receive still."""
    return [
        (each.uid, each.value.address)
        for each in store.pods
        if each.pool is not None and each.pool.kind == keys.DECODE_POOL and each.value.address
    ]
