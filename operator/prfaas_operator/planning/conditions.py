"""What a pool's state means, in the words of conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.planning.diagnosis import Diagnosis, diagnose
from prfaas_operator.planning.fingerprints import difference
from prfaas_operator.planning.pods import is_alive, is_ending
from prfaas_operator.planning.rollout import Wait
from prfaas_operator.planning.values import ObservedPod, ObservedPool, SpecProblem
from prfaas_operator.planning.workload import Work

PROBLEMS_NAMED_MAX = 5
NOT_LIMITED = Finding(
    ConditionType.SCALING_LIMITED, ConditionStatus.FALSE, Reason.NOT_LIMITED, "Nothing limits the size."
)
_QUIET = frozenset({Reason.STARTING, Reason.NOT_ENOUGH_READY})


@dataclass(frozen=True, slots=True)
class Picture:
    """A pool's pods in numbers, and what is done about them."""

    desired: int
    alive: tuple[ObservedPod, ...]
    ready: int
    ending: int
    draining: int
    revision: str | None
    max_unavailable: int
    diagnosis: Diagnosis | None
    work: Work

    @property
    def enough(self) -> int:
        """Fewer ready instances than this is a lack."""
        return max(1, self.desired - self.max_unavailable)


def picture(
    pool: ObservedPool,
    *,
    engine: str,
    desired: int,
    revision: str | None,
    max_unavailable: int,
    work: Work,
    now: datetime,
) -> Picture:
    """Count."""
    alive = tuple(pod for pod in pool.pods if is_alive(pod))
    return Picture(
        desired=desired,
        alive=alive,
        ready=sum(pod.ready for pod in alive),
        ending=sum(is_ending(pod, now) for pod in pool.pods),
        draining=sum(pod.drain_since is not None for pod in alive),
        revision=revision,
        max_unavailable=max_unavailable,
        diagnosis=diagnose(
            pool.pods, pool.deployments, pool=pool.key, engine=engine, revision=revision, now=now
        ),
        work=work,
    )


def workloads_available(seen: Picture) -> Finding:
    """WorkloadsAvailable: enough instances are ready."""
    type_ = ConditionType.WORKLOADS_AVAILABLE
    count = f"{seen.ready} of {seen.desired} instances are ready"
    if seen.desired == 0:
        return Finding(type_, ConditionStatus.TRUE, Reason.SCALED_TO_ZERO, "No instance is wanted.")
    why = f" {seen.diagnosis.message}" if seen.diagnosis is not None else ""
    if seen.ready >= seen.enough:
        return Finding(type_, ConditionStatus.TRUE, Reason.AVAILABLE, f"{count}.{why}")
    if seen.diagnosis is not None:
        return Finding(type_, ConditionStatus.FALSE, seen.diagnosis.reason, f"{count}.{why}")
    if seen.ready == 0 and all(pod.restarts == 0 for pod in seen.alive):
        return Finding(type_, ConditionStatus.FALSE, Reason.STARTING, f"{count}: {_what_starts(seen)}.")
    return Finding(
        type_, ConditionStatus.FALSE, Reason.NOT_ENOUGH_READY, f"{count}, {seen.enough} are needed."
    )


def _what_starts(seen: Picture) -> str:
    if not seen.alive:
        return "pods are to come"
    nodeless = sum(not pod.node for pod in seen.alive)
    if nodeless == len(seen.alive):
        return "all wait for a node"
    return "engines are loading" + (f", {nodeless} wait for a node" if nodeless else "")


def hindrance(available: Finding) -> Finding:
    """The same, as what keeps the pool from its size: starting is no hindrance."""
    good = available.status is not ConditionStatus.TRUE and available.reason in _QUIET
    return replace(available, status=ConditionStatus.TRUE) if good else available


def kv_compatible(pool: ObservedPool, seen: Picture) -> Finding:
    """KVCompatible of a pool: the ready engines of the newest revision agree among themselves."""
    type_ = ConditionType.KV_COMPATIBLE
    told = fingerprints(pool, seen.alive, seen.revision)
    if not told:
        return Finding(
            type_,
            ConditionStatus.UNKNOWN,
            Reason.FINGERPRINT_UNKNOWN,
            "No ready engine has told its fingerprint yet.",
        )
    if len(told) == 1:
        return Finding(
            type_, ConditionStatus.TRUE, Reason.FINGERPRINTS_AGREE, "All engines report the same KV."
        )
    text = ", ".join(f"{count} with {fingerprint[:12]}…" for fingerprint, count in told.most_common(4))
    first, second = (each for each, _ in told.most_common(2))
    text += difference(
        _fields_of(pool, first),
        _fields_of(pool, second),
        one_has=f"in {first[:12]}…",
        other_has=f"in {second[:12]}…",
    )
    return Finding(
        type_,
        ConditionStatus.FALSE,
        Reason.FINGERPRINT_MISMATCH,
        f"Engines of one revision report different KV: {text}. Pin the engine's image by digest and the "
        "model's revision: pods have loaded different versions.",
    )


def _fields_of(pool: ObservedPool, fingerprint: str) -> Mapping[str, str] | None:
    reports = sorted((pool.reports or {}).items())
    return next((told.fingerprint_fields for _, told in reports if told.fingerprint == fingerprint), None)


def fingerprints(pool: ObservedPool, alive: Sequence[ObservedPod], revision: str | None) -> Counter[str]:
    """Fingerprints of the ready pods (of one revision), with how many report each; sorted for equal
    counts.
    """
    reports = pool.reports or {}
    told = sorted(
        report.fingerprint
        for pod in alive
        if pod.ready and revision in (None, pod.revision)
        if (report := reports.get(pod.name)) is not None and report.fingerprint
    )
    return Counter(told)


def ready(seen: Picture, available: Finding) -> Finding:
    """Ready: the pool serves. Other pools, links and regions have no part in it."""
    if seen.desired == 0 and not seen.alive:
        return Finding(ConditionType.READY, ConditionStatus.TRUE, Reason.SCALED_TO_ZERO, available.message)
    if seen.ready:
        message = f"{seen.ready} of {seen.desired} instances are ready."
        return Finding(ConditionType.READY, ConditionStatus.TRUE, Reason.SERVING, message)
    return Finding(ConditionType.READY, ConditionStatus.FALSE, available.reason, available.message)


def stalled(seen: Picture, accepted: Finding, resolved: Finding) -> Finding:
    """Stalled: somebody has to change something."""
    for finding in (accepted, resolved):
        # A bad annotation is a nuisance, and keeps nobody from what is wanted.
        if finding.status is ConditionStatus.FALSE and finding.reason is not Reason.ANNOTATION_INVALID:
            return Finding(
                ConditionType.STALLED, ConditionStatus.TRUE, finding.reason, finding.message + _goes_on(seen)
            )
    found = seen.diagnosis
    if found is not None and found.lasting and seen.desired:
        kept = " The rollout has stopped; the old revision serves on." if seen.work.rolling else ""
        return Finding(ConditionType.STALLED, ConditionStatus.TRUE, found.reason, found.message + kept)
    return Finding(ConditionType.STALLED, ConditionStatus.FALSE, Reason.NOT_STALLED, "Nobody has to act.")


def _goes_on(seen: Picture) -> str:
    return " The pods that are there go on as they are." if seen.alive else ""


def reconciling(seen: Picture, stalled_: Finding, no_certificate: str, leftover: str = "") -> Finding:
    """Reconciling: the operator is on its way."""
    reason, message = _progress(seen, no_certificate)
    if leftover:
        reason = Reason.RETRYING
        message = (
            f"{leftover} is of an earlier pool of this name and about to go; nothing is done until then."
        )
    if stalled_.status is ConditionStatus.TRUE:
        reason, message = stalled_.reason, "Stalled; see there."
    is_on_its_way = reason is not Reason.SETTLED and stalled_.status is not ConditionStatus.TRUE
    status = ConditionStatus.TRUE if is_on_its_way else ConditionStatus.FALSE
    return Finding(ConditionType.RECONCILING, status, reason, message)


def _progress(seen: Picture, no_certificate: str) -> tuple[Reason, str]:
    if no_certificate:
        return Reason.RETRYING, no_certificate
    if seen.work.rolling:
        new = sum(pod.revision == seen.revision for pod in seen.alive)
        of = f"{new} of {seen.desired} instances are of revision {seen.revision}"
        return Reason.ROLLING_OUT, f"{of}; {_WAITS[seen.work.waits_for].format(partner=seen.work.partner)}."
    if seen.draining or (seen.ending and len(seen.alive) <= seen.desired):
        return Reason.DRAINING, "Instances finish what they have begun, and end."
    if len(seen.alive) != seen.desired:
        return Reason.SCALING, f"From {len(seen.alive)} to {seen.desired} instances."
    if seen.ready < seen.desired:
        return Reason.WAITING_FOR_PODS, f"{seen.ready} of {seen.desired} instances are ready."
    return Reason.SETTLED, "All is as it is wanted."


_WAITS = {
    Wait.NOTHING: "goes on",
    Wait.NEW_NOT_READY: "waits for its new instances to become ready",
    Wait.ENDING: "waits for old instances to end and free their accelerators",
    Wait.PARTNER: "waits for {partner}, which rolls too, so that KV of both generations has both sides",
    Wait.NO_CAPACITY: "waits for capacity",
    Wait.FAILING: "stopped",
}


def problems_text(problems: Sequence[SpecProblem]) -> str:
    """Why a stored spec cannot be read, and what to do."""
    named = [f"{each.field}: {each.message}" for each in problems[:PROBLEMS_NAMED_MAX]]
    if len(problems) > PROBLEMS_NAMED_MAX:
        named.append(f"and {len(problems) - PROBLEMS_NAMED_MAX} more")
    return f"{'; '.join(named)}. Correct the field, or run an operator that knows it."
