"""How regions are seen from here: hop by hop as the own gateways tell, and whether bundles can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus, Hop, HopName, SeenFromHere
from prfaas.api.v1alpha1.region import MESSAGE_MAX_CHARACTERS

# Gateways use no region that was silent for 3 s; a person is told when it is more than a hiccup.
UNHEARD_SECONDS = 20.0
_REASONS = {
    HopName.DNS: Reason.NAME_NOT_RESOLVED,
    HopName.TCP: Reason.CONNECTION_FAILED,
    HopName.TLS: Reason.TLS_FAILED,
    HopName.IDENTITY: Reason.WRONG_IDENTITY,
    HopName.AUTHORISATION: Reason.NOT_AUTHORISED,
    HopName.CLOCK: Reason.CLOCKS_DIFFER,
}


@dataclass(frozen=True, slots=True)
class GatewayView:
    """A region as one gateway of this cluster sees it.

    Attributes:
        cluster: of the region's, that it talks to; "" when not known.
        age_seconds: since it last heard the region; None: never.
    """

    cluster: str = ""
    age_seconds: float | None = None
    hops: tuple[Hop, ...] = ()
    code: str | None = None
    report: Mapping[str, object] | None = None

    @property
    def hears(self) -> bool:
        return self.age_seconds is not None and self.age_seconds <= UNHEARD_SECONDS


@dataclass(frozen=True, slots=True)
class BundleFact:
    """A trust bundle as it was read.

    Attributes:
        ids: SHA-256 of its authorities.
        ends_at: of each.
        error: why it cannot be read, "" when it can.
    """

    ids: tuple[str, ...] = ()
    ends_at: tuple[datetime, ...] = ()
    error: str = ""


def reachable(
    region: str,
    peer_address: str | None,
    views: Sequence[GatewayView],
    *,
    own_region: str,
    clusters: Sequence[str] = (),
) -> Finding:
    """Reachable of a region.

    Args:
        views: of the gateways that answered, with an entry for this region.
        clusters: of the region. Behind one address only one of several is spoken to at a time.
    """
    type_ = ConditionType.REACHABLE
    if region == own_region:
        return Finding(type_, ConditionStatus.TRUE, Reason.OWN_REGION, "It is this cluster's own region.")
    if peer_address is None:
        text = "spec.peer.address is absent: nothing can be prefilled there from here."
        return Finding(type_, ConditionStatus.FALSE, Reason.NO_PEER_ADDRESS, text)
    if not views:
        text = "No gateway of this cluster has told of it yet: do gateways run here?"
        return Finding(type_, ConditionStatus.UNKNOWN, Reason.NOT_LOOKED_YET, text)
    hearing = sum(view.hears for view in views)
    failing = [view for view in views if not view.hears]
    if hearing and len(clusters) > 1:
        return Finding(type_, ConditionStatus.FALSE, Reason.CLUSTERS_SHARE_ADDRESS, _shared(clusters, views))
    if hearing:
        text = "Gateways here hear its gateways."
        if failing:
            text = f"{hearing} of {len(views)} gateways here hear it; another says: {_first(failing)[1]}"
        return Finding(type_, ConditionStatus.TRUE, Reason.REACHED, text)
    reason, text = _first(failing)
    return Finding(type_, ConditionStatus.FALSE, reason, text)


def _shared(clusters: Sequence[str], views: Sequence[GatewayView]) -> str:
    heard = sorted({view.cluster for view in views if view.hears and view.cluster})
    return (
        f"Clusters {', '.join(clusters)} have one peer.address, and a gateway speaks to one of them alone "
        f"(now: {', '.join(heard) or 'not known which'}): what the others have is not used here. Give each "
        "cluster a Region of its own with an address of its own."
    )


def _first(failing: Sequence[GatewayView]) -> tuple[Reason, str]:
    """Why, by the first gateway that knows."""
    for view in failing:
        hop = next((each for each in view.hops if not each.ok), None)
        if hop is not None:
            silent = hop.name is HopName.AUTHORISATION and view.code == "PeerSilent"
            return Reason.SILENT if silent else _REASONS[hop.name], f"{hop.name}: {hop.message or view.code}"
    if any(view.age_seconds is not None for view in failing):
        return Reason.SILENT, "It was heard before, and says nothing now: look at its gateways."
    return Reason.SILENT, "It has not been heard yet: look at its gateways and at peer.address."


def seen(before: SeenFromHere | None, views: Sequence[GatewayView], now: datetime) -> SeenFromHere | None:
    """`status.seen`: the hops as the gateway sees them that gets farthest. None: nobody told.

    Its time moves when a hop begins or ceases to work.
    """
    if not views:
        return before
    best = max(views, key=lambda view: (view.hears, sum(hop.ok for hop in view.hops)))
    # Of one that is heard nothing fails but, perhaps, the clock.
    hops = tuple(
        hop.model_copy(update={"message": (hop.message or None) and hop.message[:MESSAGE_MAX_CHARACTERS]})
        for hop in best.hops
    )
    if not hops:
        return before
    same = before is not None and _shape(before.hops) == _shape(hops)
    return SeenFromHere(hops=hops, since=before.since if before is not None and same else now)


def _shape(hops: Sequence[Hop]) -> dict[str, bool]:
    return {str(hop.name): hop.ok for hop in hops}


def trust_bundle_valid(
    bundle: str | None,
    fact: BundleFact,
    now: datetime,
    *,
    own_authority_id: str | None = None,
    rotation: str = "",
) -> Finding:
    """TrustBundleValid of a region.

    Args:
        own_authority_id: of the authority that signs, for the own region only; None for others.
        rotation: how far its rotation is, for the own region only; "" without one.
    """
    type_ = ConditionType.TRUST_BUNDLE_VALID
    bad = ConditionStatus.FALSE
    if bundle is None:
        text = "spec.trustBundle is absent: nobody of the region is believed (prfaas federation join)."
        return Finding(type_, bad, Reason.BUNDLE_MISSING, text)
    if fact.error:
        return Finding(type_, bad, Reason.BUNDLE_UNREADABLE, f"spec.trustBundle: {fact.error}")
    valid = [end for end in fact.ends_at if end > now]
    if not valid:
        last = max(fact.ends_at)
        text = f"All its authorities have ended, the last at {last:%Y-%m-%dT%H:%M:%SZ}: rotate them there."
        return Finding(type_, bad, Reason.AUTHORITY_EXPIRED, text)
    if own_authority_id and own_authority_id not in fact.ids:
        text = (
            "spec.trustBundle lacks the authority that signs here (Secret prfaas-ca): other regions will not "
            "believe this one. Run prfaas federation init again, and join."
        )
        return Finding(type_, bad, Reason.AUTHORITY_NOT_IN_BUNDLE, text)
    if rotation:
        return Finding(type_, ConditionStatus.TRUE, Reason.ROTATING, rotation)
    if len(fact.ids) > 1:
        text = f"The bundle has {len(fact.ids)} authorities: one is being replaced."
        return Finding(type_, ConditionStatus.TRUE, Reason.ROTATING, text)
    text = f"Its authority is valid until {max(valid):%Y-%m-%dT%H:%M:%SZ}."
    return Finding(type_, ConditionStatus.TRUE, Reason.BUNDLE_VALID, text)


def ready(findings: Sequence[Finding]) -> Finding:
    """Ready of a region: nothing that was found of it is bad, and it is known to be reached."""
    order = {ConditionStatus.FALSE: 0, ConditionStatus.UNKNOWN: 1, ConditionStatus.TRUE: 2}
    worst = min(findings, key=lambda each: order[each.status])
    if worst.status is not ConditionStatus.TRUE:
        return Finding(ConditionType.READY, worst.status, worst.reason, worst.message)
    good = next((each for each in findings if each.type is ConditionType.REACHABLE), worst)
    return Finding(ConditionType.READY, ConditionStatus.TRUE, good.reason, good.message)
