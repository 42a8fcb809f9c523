"""The status of a pool."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prfaas.api.conditions import Finding, set_conditions
from prfaas.api.keys import PREFILL_POOL
from prfaas.api.v1alpha1 import (
    ChargedTo,
    ConditionStatus,
    KVStatus,
    PoolSpec,
    PoolStatus,
    RevisionStatus,
    ScalingDecision,
    ScalingStatus,
    quantity_bytes,
)
from prfaas.api.v1alpha1.scaling import HISTORY_MAX, SENTENCE_MAX_CHARACTERS
from prfaas_operator.planning.capacity import Capacity
from prfaas_operator.planning.children import selector_text
from prfaas_operator.planning.conditions import Picture, fingerprints
from prfaas_operator.planning.replicas import Sizing
from prfaas_operator.planning.values import ObservedPool, PoolKey

REVISIONS_MAX = 32


def pool_status(
    pool: ObservedPool,
    spec: PoolSpec,
    seen: Picture,
    sizing: Sizing,
    capacity: Capacity,
    findings: Iterable[Finding],
    limited_by: str | None,
    now: datetime,
) -> PoolStatus:
    """The whole status. Equal input but for the time gives an equal status."""
    revisions = _revisions(pool, seen)
    update = seen.revision if seen.revision is not None else pool.status.update_revision
    return PoolStatus(
        observed_generation=pool.generation,
        replicas=len(seen.alive),
        ready_replicas=seen.ready,
        updated_replicas=sum(pod.revision == update for pod in seen.alive),
        desired_replicas=seen.desired,
        selector=selector_text(pool.key),
        current_revision=_serving(revisions, update),
        update_revision=update,
        limited_by=limited_by,
        revisions=revisions,
        kv=kv_status(pool.key, spec, _newest_fingerprint(revisions, update)),
        capacity=capacity.status,
        hold=sizing.hold,
        scaling=_scaling(pool.status, sizing, now),
        clusters=pool.status.clusters,
        placed=pool.status.placed,
        conditions=set_conditions(pool.status.conditions, findings, generation=pool.generation, now=now),
    )


def kv_status(key: PoolKey, spec: PoolSpec, fingerprint: str | None) -> KVStatus:
    """The arena belongs to whom touches its pages first: the engine that produces, or the sidecar that
    receives.
    """
    charged = ChargedTo.ENGINE if key.kind == PREFILL_POOL else ChargedTo.SIDECAR
    return KVStatus(fingerprint=fingerprint, arena_bytes=quantity_bytes(spec.kv.arena), charged_to=charged)


def _revisions(pool: ObservedPool, seen: Picture) -> tuple[RevisionStatus, ...]:
    names = sorted({pod.revision for pod in seen.alive if pod.revision})[:REVISIONS_MAX]
    revisions = []
    for name in names:
        pods = [pod for pod in seen.alive if pod.revision == name]
        told = fingerprints(pool, pods, name).most_common(1)
        revisions.append(
            RevisionStatus(
                name=name,
                replicas=len(pods),
                ready=sum(pod.ready for pod in pods),
                fingerprint=told[0][0] if told else None,
            )
        )
    return tuple(revisions)


def _serving(revisions: tuple[RevisionStatus, ...], update: str | None) -> str | None:
    """The other revision with most ready instances while there is one, else the newest."""
    others = [each for each in revisions if each.name != update]
    best = max(others, key=lambda each: (each.ready, each.replicas, each.name), default=None)
    return best.name if best is not None else update


def _newest_fingerprint(revisions: tuple[RevisionStatus, ...], update: str | None) -> str | None:
    told = [each for each in revisions if each.fingerprint]
    best = max(told, key=lambda each: (each.name == update, each.ready, each.name), default=None)
    return best.fingerprint if best is not None else None


def _scaling(before: PoolStatus, sizing: Sizing, now: datetime) -> ScalingStatus | None:
    """The last decisions, and why the size is what it is. What is not decided by load has no explanation."""
    known = before.scaling or ScalingStatus()
    explanation = sizing.verdict.explanation if sizing.verdict is not None else None
    if sizing.scale is None:
        after = known.model_copy(update={"explanation": explanation})
        return after if after != ScalingStatus() else None
    decision = ScalingDecision(
        time=now,
        from_replicas=sizing.scale.replicas_before,
        to_replicas=sizing.scale.replicas,
        reason=sizing.scale_reason,
        message=sizing.scale.why[:SENTENCE_MAX_CHARACTERS] or None,
        inputs=explanation.inputs if explanation is not None else None,
    )
    return ScalingStatus(
        last_decision=decision,
        history=(decision, *(known.history or ()))[:HISTORY_MAX],
        explanation=explanation,
    )


def limiting_word(*findings: Finding) -> str | None:
    """For the column LIMITED-BY: the first reason why there are not as many ready instances as wanted."""
    for finding in findings:
        limits = finding.status is (
            ConditionStatus.TRUE if finding.type in _ABNORMAL_WHEN_TRUE else ConditionStatus.FALSE
        )
        if limits:
            return str(finding.reason)
    return None


_ABNORMAL_WHEN_TRUE = frozenset({"Stalled", "ScalingLimited"})
