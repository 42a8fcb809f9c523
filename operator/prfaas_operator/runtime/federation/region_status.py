"""Writes how regions are seen from this cluster into the status of its Region objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from prfaas.api import keys
from prfaas.api.conditions import ConditionType, Finding, Reason, find, set_conditions
from prfaas.api.v1alpha1 import ClusterReport, Condition, ConditionStatus, RegionStatus
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import REGIONS
from prfaas_operator.federation import regions as judge
from prfaas_operator.runtime.federation.bundles import read_bundle
from prfaas_operator.runtime.federation.following import Followed, Wake
from prfaas_operator.runtime.federation.gateways import GatewayViews
from prfaas_operator.runtime.federation.region_objects import RegionObject
from prfaas_operator.runtime.fence import WritingStopped

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
WORDS_PAUSE_SECONDS = 60.0
REPORTS_PAUSE_SECONDS = 10.0
_OF_THE_HUB = (ConditionType.HUB_REACHABLE, ConditionType.MIRROR_READY, ConditionType.TOKEN_VALID)
_OWN = (ConditionType.READY, ConditionType.REACHABLE, ConditionType.TRUST_BUNDLE_VALID, *_OF_THE_HUB)


class RegionStatusWriter:
    """Looks every few seconds, and at every change of a Region.

    Args:
        own_region: of this cluster.
        hub_findings: HubReachable, MirrorReady and TokenValid, as far as they are known.
        authority_id: of the authority that signs here, "" when it is not known.
        rotation: how far its rotation is, "" without one.
        reports_here: names of the clusters that report into this API server themselves; None: nobody else's
            reports belong here, as this cluster mirrors a hub that has them.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        own_region: str,
        regions: Followed[RegionObject],
        gateways: GatewayViews,
        hub_findings: Callable[[], tuple[Finding, ...]],
        authority_id: Callable[[], str],
        rotation: Callable[[], str] = lambda: "",
        reports_here: Callable[[], frozenset[str] | None],
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._own_region = own_region
        self._regions, self._gateways = regions, gateways
        self._hub_findings, self._authority_id = hub_findings, authority_id
        self._rotation = rotation
        self._reports_here = reports_here
        self._clock = clock
        self.wake = Wake()
        self._written_at: dict[str, float] = {}

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self.wake.wait(LOOK_SECONDS)
            if not self._regions.synced:
                continue
            for region in list(self._regions.objects.values()):
                try:
                    await self._look(region)
                except errors.NotFound:
                    continue
                except (errors.KubeError, WritingStopped) as error:
                    logger.info("status of Region %s: %s", region.name, error)
                    break

    async def _look(self, region: RegionObject) -> None:
        now, at = self._api.server_now(), self._clock()
        wanted = self._status(region, now)
        stored = _of_us(region.status, {each.name for each in wanted.clusters})
        if wanted == stored:
            return
        pause = 0.0
        if _shape(wanted) == _shape(stored):
            pause = REPORTS_PAUSE_SECONDS if wanted.clusters != stored.clusters else WORDS_PAUSE_SECONDS
        if at - self._written_at.get(region.name, float("-inf")) < pause:
            return
        body: dict[str, Any] = {
            "metadata": {"name": region.name, "uid": region.uid},
            "status": _without_nothing(wanted.to_api()),
        }
        await self._api.apply_status(REGIONS, body, field_manager=keys.MANAGER_STATUS)
        self._written_at[region.name] = at

    def _status(self, region: RegionObject, now: datetime) -> RegionStatus:
        views = self._gateways.views.get(region.name, ())
        own = region.name == self._own_region
        bundle = region.spec.trust_bundle
        peer = region.spec.peer.address if region.spec.peer is not None else None
        findings = [
            judge.reachable(region.name, peer, views, own_region=self._own_region, clusters=region.clusters),
            judge.trust_bundle_valid(
                bundle,
                read_bundle(bundle) if bundle is not None else judge.BundleFact(),
                now,
                own_authority_id=(self._authority_id() or None) if own else None,
                rotation=self._rotation() if own else "",
            ),
        ]
        if own:
            findings += _hub(self._hub_findings(), region.status.conditions)
        weighed = [*findings, *_bad_report(region.status.conditions)]
        conditions = set_conditions(
            [each for each in region.status.conditions if each.type in _OWN],
            [judge.ready(weighed), *findings],
            generation=region.generation,
            now=now,
        )
        return RegionStatus(
            observed_generation=region.generation,
            seen=None if own else judge.seen(region.status.seen, views, now),
            conditions=conditions,
            clusters=() if own else self._told_by_gateways(region),
        )

    def _told_by_gateways(self, region: RegionObject) -> tuple[ClusterReport, ...]:
        """Reports that no hub brings. What was heard once stays, with its age elsewhere."""
        here = self._reports_here()
        if here is None:
            return ()
        stored = {each.name: each for each in region.status.clusters}
        told = self._gateways.reports(region.name)
        found = []
        for name in region.clusters:
            if name in here:
                continue
            report = _report(name, told[name]) if name in told else stored.get(name)
            if report is not None:
                found.append(report)
        return tuple(found)


def _report(name: str, document: Mapping[str, object]) -> ClusterReport | None:
    try:
        return ClusterReport.model_validate({**document, "name": name})
    except ValidationError as error:
        logger.debug("the report of cluster %s cannot be read: %s", name, error)
        return None


def _hub(found: tuple[Finding, ...], stored: tuple[Condition, ...]) -> list[Finding]:
    """What is not known yet stays as it is stored."""
    known = {each.type: each for each in found}
    kept = (find(stored, type_) for type_ in _OF_THE_HUB if type_ not in known)
    return [*found, *(_finding(each) for each in kept if each is not None)]


def _bad_report(stored: tuple[Condition, ...]) -> list[Finding]:
    condition = find(stored, ConditionType.REPORT_FRESH)
    return (
        [_finding(condition)] if condition is not None and condition.status is ConditionStatus.FALSE else []
    )


def _finding(condition: Condition) -> Finding:
    return Finding(
        ConditionType(condition.type), condition.status, Reason(condition.reason), condition.message
    )


def _of_us(status: RegionStatus, clusters: set[str]) -> RegionStatus:
    """The part of a stored status that this writer writes."""
    return status.model_copy(
        update={
            "clusters": tuple(each for each in status.clusters if each.name in clusters),
            "conditions": tuple(each for each in status.conditions if each.type in _OWN),
        }
    )


def _shape(status: RegionStatus) -> object:
    """Without words and numbers that move by themselves."""
    hops = status.seen.hops if status.seen is not None else ()
    return (
        status.observed_generation,
        {each.type: (each.status, each.reason) for each in status.conditions},
        {str(hop.name): hop.ok for hop in hops},
        {each.name for each in status.clusters},
    )


def _without_nothing(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if value not in ([], None)}
