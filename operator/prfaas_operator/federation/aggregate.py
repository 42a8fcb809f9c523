"""What the clusters' reports add up to: the pools' `status.clusters`, and whether regions are heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ClusterReport, ConditionStatus, PlacedStatus, ReportedPool
from prfaas_operator.federation.values import ObjectKey

PLACED_MAX_CHARACTERS = 1024
POOL_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A cluster as it is known here.

    Attributes:
        region: that lists it; None: no Region does.
        report: its last one, None when it never reported.
        lost_since: since when it has not been heard of; None while it is.
        heard: whether it was ever heard of.
    """

    region: str | None
    report: ClusterReport | None = None
    lost_since: datetime | None = None
    heard: bool = True

    @property
    def stale(self) -> bool:
        return self.lost_since is not None


def placed(
    key: ObjectKey, generation: int, clusters: Sequence[str], states: Mapping[str, ClusterState]
) -> tuple[tuple[PlacedStatus, ...], str]:
    """`status.clusters` and `status.placed` of a pool that is placed in these clusters."""
    found = tuple(_placed(key, generation, name, states.get(name)) for name in sorted(clusters))
    text = ", ".join(
        f"{each.name} {each.ready_replicas}/{each.desired_replicas}{' (stale)' if each.stale else ''}"
        if _was_told(each)
        else f"{each.name} ?"
        for each in found
    )
    return found, text if len(text) <= PLACED_MAX_CHARACTERS else f"{text[: PLACED_MAX_CHARACTERS - 1]}…"


def _placed(key: ObjectKey, generation: int, name: str, state: ClusterState | None) -> PlacedStatus:
    if state is None or state.region is None:
        text = f"No Region has cluster {name}: correct spec.placement, or create the Region."
        return _unknown(name, None, Reason.UNKNOWN_CLUSTER, text)
    pool = _reported(key, state.report)
    if pool is None:
        if state.report is not None and state.report.omitted_pools:
            text = "Too many pools for the cluster's report: ask the cluster itself."
            return _unknown(name, state.region, Reason.NOT_OBSERVED, text, stale=state.stale)
        text = (
            f"The cluster reports, but not of this pool yet: look at Region {state.region}, MirrorReady."
            if state.report is not None
            else f"The cluster has never reported: has it joined (prfaas federation check {state.region})?"
        )
        return _unknown(name, state.region, Reason.NEVER_REPORTED, text, stale=state.stale)
    behind = pool.hub_generation is not None and pool.hub_generation < generation
    told = {"ready": pool.ready, "reason": pool.reason, "message": pool.message}
    if behind and pool.ready is not ConditionStatus.FALSE:
        text = f"The cluster has generation {pool.hub_generation}, and the hub has {generation}."
        told = {"ready": ConditionStatus.UNKNOWN, "reason": str(Reason.MIRRORING), "message": text}
    return PlacedStatus.model_validate(
        {
            "name": name,
            "region": state.region,
            "desired_replicas": pool.desired_replicas,
            "ready_replicas": pool.ready_replicas,
            "stale": state.stale,
            **told,
        }
    )


def _unknown(
    name: str, region: str | None, reason: Reason, message: str, *, stale: bool = False
) -> PlacedStatus:
    return PlacedStatus(
        name=name,
        region=region,
        ready=ConditionStatus.UNKNOWN,
        reason=str(reason),
        message=message,
        stale=stale,
    )


def _was_told(each: PlacedStatus) -> bool:
    return each.reason not in (Reason.UNKNOWN_CLUSTER, Reason.NEVER_REPORTED, Reason.NOT_OBSERVED)


def _reported(key: ObjectKey, report: ClusterReport | None) -> ReportedPool | None:
    pools = report.pools if report is not None else ()
    return next(
        (
            each
            for each in pools
            if (each.kind, each.namespace, each.name) == (key.kind, key.namespace, key.name)
        ),
        None,
    )


def report_fresh(region: str, clusters: Sequence[str], states: Mapping[str, ClusterState]) -> Finding:
    """ReportFresh of a region, by the clusters that it lists."""
    type_ = ConditionType.REPORT_FRESH
    known = [(name, states.get(name)) for name in sorted(clusters)]
    lost = [(name, state.lost_since) for name, state in known if state is not None and state.lost_since]
    if lost:
        text = "; ".join(f"cluster {name} was last heard of at {at:%Y-%m-%dT%H:%M:%SZ}" for name, at in lost)
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.LEASE_STALE,
            f"{text}: is its operator up, and does it reach this API server?",
        )
    never = [name for name, state in known if state is None or not state.heard]
    if never:
        return Finding(
            type_,
            ConditionStatus.UNKNOWN,
            Reason.NEVER_REPORTED,
            f"Cluster {', '.join(never)} has never been heard of: has region {region} joined?",
        )
    return Finding(type_, ConditionStatus.TRUE, Reason.REPORTED, "All its clusters are heard of.")


@dataclass(frozen=True, slots=True)
class Allowance:
    """Writes that may be done: a bucket that is filled at a steady pace. All seconds are monotonic."""

    per_second: float
    most: float
    left: float
    at: float

    def spend(self, now: float) -> tuple[Allowance, float]:
        """The bucket after one write, and how long that one has to wait."""
        left = min(self.most, self.left + (now - self.at) * self.per_second) - 1.0
        wait = 0.0 if left >= 0 else -left / self.per_second
        return Allowance(self.per_second, self.most, left, now), wait
