"""What a cluster's Region objects say, judged: hops, problems, remedies. Pure, the time is a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from prfaas.api.conditions import ConditionType, Reason
from prfaas.api.v1alpha1 import Condition, ConditionStatus, Hop, RegionSpec, RegionStatus
from prfaas.commands.durations import short_duration
from prfaas.kube.resources import Object

_REMEDIES = {
    Reason.NO_PEER_ADDRESS: "prfaas federation init --peer HOST:7410 in that region, then join again",
    Reason.NAME_NOT_RESOLVED: "correct spec.peer.address of the Region, or this cluster's DNS",
    Reason.CONNECTION_FAILED: "let TCP pass to peer.address: routes, firewalls, the region's gateway Service",
    Reason.TLS_FAILED: "spec.trustBundle may be out of date: prfaas federation join renews it",
    Reason.WRONG_IDENTITY: "peer.address has to lead to gateways of that region (port 7410)",
    Reason.NOT_AUTHORISED: "that region has to know this one and its trustBundle: prfaas federation join",
    Reason.CLOCKS_DIFFER: "set the nodes' clocks of both clusters (NTP)",
    Reason.SILENT: "look at that region's gateways and their logs",
    Reason.NOT_LOOKED_YET: "see that gateways run here (pods with app.kubernetes.io/component=gateway)",
    Reason.BUNDLE_MISSING: "prfaas federation join brings the region's authorities",
    Reason.BUNDLE_UNREADABLE: "prfaas federation init in that region, then join again",
    Reason.AUTHORITY_EXPIRED: "prfaas federation rotate-ca in that region, then join again",
    Reason.AUTHORITY_NOT_IN_BUNDLE: "prfaas federation init here, then join again",
    Reason.LEASE_STALE: "look at that cluster's operator, and whether it reaches the hub",
    Reason.NEVER_REPORTED: "prfaas federation join in that cluster, and federation.source=Hub in its chart",
    Reason.HUB_SILENT: "bring the hub's API server back, or the way to it; nothing here waits for it",
    Reason.HUB_REFUSES: "prfaas federation join renews account, rights, Region and token",
    Reason.NAME_CLASH: "rename or delete the object here, or the one in the hub",
    Reason.MIRROR_REFUSED: "change the object in the hub, or what this cluster allows (federation.allowed…)",
    Reason.FROZEN: "bring the hub back as it was, or: prfaas federation accept-deletes",
    Reason.TOKEN_ENDS_SOON: "prfaas federation join renews it",
    Reason.TOKEN_REFUSED: "prfaas federation join renews it",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        bad: it is so for sure; else it is not known.
    """

    type: str
    reason: str
    message: str
    remedy: str
    bad: bool
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class RegionCheck:
    """A Region as this cluster sees it."""

    name: str
    own: bool
    peer: str | None
    hops: tuple[Hop, ...]
    problems: tuple[Problem, ...]
    at: datetime

    def lines(self) -> list[str]:
        """For people."""
        what = "own region" if self.own else f"peer {self.peer or 'none'}"
        bad = any(problem.bad for problem in self.problems)
        state = "not well" if bad else ("not known" if self.problems else "well")
        found = [f"{self.name}  {state}  ({what})"]
        found += [
            f"  {'ok ' if hop.ok else 'NOT'}  {hop.name}{f': {hop.message}' if hop.message else ''}"
            for hop in self.hops
        ]
        for problem in self.problems:
            since = f", for {short_duration(self.at - problem.since)}" if problem.since is not None else ""
            found.append(f"  {problem.type}: {problem.reason}{since}: {problem.message}")
            if problem.remedy:
                found.append(f"    to do: {problem.remedy}")
        return found

    def to_document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "region": self.name,
            "own": self.own,
            "peer": self.peer,
            "hops": [hop.to_api() for hop in self.hops],
            "problems": [
                {
                    "condition": each.type,
                    "reason": each.reason,
                    "message": each.message,
                    "remedy": each.remedy,
                    "certain": each.bad,
                    "since": each.since.isoformat() if each.since is not None else None,
                }
                for each in self.problems
            ],
        }


def check_regions(
    regions: Sequence[Object], own_region: str, cluster: str, own_authorities: str | None, now: datetime
) -> list[RegionCheck]:
    """Every Region, the own one first.

    Args:
        own_authorities: `ca.crt` of the authority here; None: it may not be read.
    """
    found = [_check(body, own_region, cluster, own_authorities, now) for body in regions]
    if not any(each.own for each in found):
        missing = Problem(
            "Region",
            "NoOwnRegion",
            f"this cluster has no Region {own_region}: others cannot know it",
            "prfaas federation init",
            bad=True,
        )
        found.append(RegionCheck(own_region, True, None, (), (missing,), now))
    return sorted(found, key=lambda each: (not each.own, each.name))


def _check(
    body: Object, own_region: str, cluster: str, own_authorities: str | None, now: datetime
) -> RegionCheck:
    name = body["metadata"]["name"]
    own = name == own_region
    try:
        spec = RegionSpec.model_validate(body.get("spec") or {})
        status = RegionStatus.model_validate(body.get("status") or {})
    except ValidationError as error:
        text = f"this prfaas cannot read it ({error.error_count()} fields): upgrade it"
        problem = Problem("Region", "NotReadable", text, "upgrade prfaas", bad=True)
        return RegionCheck(name, own, None, (), (problem,), now)
    problems = [_problem(each) for each in status.conditions if _is_bad(each)]
    if own and spec.clusters and cluster not in spec.clusters:
        text = f"spec.clusters is {', '.join(spec.clusters)}, and this cluster is {cluster}"
        problems.append(
            Problem("Region", Reason.UNKNOWN_CLUSTER, text, "prfaas federation init here", bad=True)
        )
    told = any(each.reason == Reason.AUTHORITY_NOT_IN_BUNDLE for each in problems)
    if own and not told and own_authorities is not None and not _same(own_authorities, spec.trust_bundle):
        text = "spec.trustBundle is not what Secret prfaas-ca holds (ca.crt)"
        remedy = "prfaas federation init here, then join again"
        problems.append(Problem("Region", "BundleDiffers", text, remedy, bad=True))
    if not status.conditions:
        text = "no operator has looked at this Region yet"
        problems.append(
            Problem("Region", Reason.NOT_OBSERVED, text, "is the operator up (prfaas status)?", bad=False)
        )
    hops = status.seen.hops if status.seen is not None else ()
    peer = spec.peer.address if spec.peer is not None else None
    return RegionCheck(name, own, peer, hops, tuple(problems), now)


def _is_bad(condition: Condition) -> bool:
    # Ready says again what another one says.
    return condition.type != ConditionType.READY and condition.status is not ConditionStatus.TRUE


def _problem(condition: Condition) -> Problem:
    remedy = next((text for reason, text in _REMEDIES.items() if reason == condition.reason), "")
    return Problem(
        condition.type,
        condition.reason,
        condition.message,
        remedy,
        condition.status is ConditionStatus.FALSE,
        condition.last_transition_time,
    )


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.split() == other.split()
