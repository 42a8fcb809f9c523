"""What the autoscaler says of one pool, as its status and its conditions tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus, ScalingExplanation, ScalingInput
from prfaas.api.v1alpha1.scaling import INPUTS_MAX, SENTENCE_MAX_CHARACTERS, SENTENCES_MAX
from prfaas.autoscaling import PASSING, Decision, Input, Limit, PoolDecision
from prfaas.autoscaling.learning import Drift

RENEWED_SECONDS = 300.0

_REASONS = {
    Limit.MAXIMUM: Reason.TOO_MANY_REPLICAS,
    Limit.MINIMUM: Reason.TOO_FEW_REPLICAS,
    Limit.LINK_SATURATED: Reason.LINK_SATURATED,
    Limit.LINK_DOWN: Reason.LINK_DOWN,
    Limit.LINK_BUDGET: Reason.LINK_BUDGET_SPENT,
    Limit.LINK_UNKNOWN: Reason.LINK_UNKNOWN,
    Limit.NO_CAPACITY: Reason.NO_CAPACITY,
    Limit.QUOTA_PENDING: Reason.QUOTA_PENDING,
    Limit.QUOTA: Reason.QUOTA_EXHAUSTED,
    Limit.BUDGET: Reason.BUDGET_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class ScalingVerdict:
    """The last decision about a pool that is worth telling.

    Attributes:
        desired: instances; holds whatever else has changed until the next decision.
        for_replicas: `spec.replicas` that it was made for; with another one there it does not count.
        active: False: nothing is known of its load, for longer than a start takes.
        limited: what keeps the pool from what it needs, beyond minutes.
        profile: whether its profile fits; None: it has none.
    """

    explanation: ScalingExplanation
    desired: int
    for_replicas: int
    active: bool = True
    limited: Finding | None = None
    profile: Finding | None = None

    @property
    def says(self) -> tuple[object, ...]:
        """What makes two verdicts differ for people; numbers alone do not."""
        told = self.explanation
        return (
            self.desired,
            told.needed,
            told.reason,
            told.limited_by,
            self.active,
            self.for_replicas,
            self.profile.reason if self.profile is not None else None,
            len(told.offers or ()),
        )


def verdict_of(
    decision: Decision,
    pool: PoolDecision,
    *,
    now: datetime,
    active: bool,
    drifts: Sequence[Drift] | None,
    measured: bool,
    notes: Sequence[str] = (),
) -> ScalingVerdict:
    """From what the library says.

    Args:
        drifts: of the pool's profile; None: it has none.
        measured: enough was measured to say so.
    """
    offers = [each.sentence for each in decision.offers if each.pool == pool.pool]
    explanation = ScalingExplanation(
        time=now,
        desired=pool.desired,
        needed=pool.needed,
        reason=str(pool.cause),
        message=_short(pool.sentence) or None,
        limited_by=str(pool.limit) if pool.limit is not None else None,
        limit_message=_short(pool.limit_sentence) or None,
        inputs=inputs_of(pool.inputs) or None,
        would_change=_sentences(pool.would_change),
        offers=_sentences(offers),
        notes=_sentences((*notes, *decision.notes)),
    )
    limited = None
    if pool.limit is not None and pool.limit not in PASSING:
        text = f"{pool.desired} instances, {pool.needed} are needed: {pool.limit_sentence}."
        limited = Finding(
            ConditionType.SCALING_LIMITED, ConditionStatus.TRUE, _REASONS[pool.limit], text[:1024]
        )
    return ScalingVerdict(
        explanation, pool.desired, pool.before, active, limited, _profile(drifts, measured=measured)
    )


def renewed(before: ScalingVerdict | None, after: ScalingVerdict) -> ScalingVerdict:
    """The verdict to tell: the old one while it says the same and is not old.

    A status is written for people, and not again every few seconds because a number has moved.
    """
    if before is None or before.says != after.says:
        return after
    age = after.explanation.time - before.explanation.time
    told, said = before.explanation, after.explanation
    if age < timedelta(seconds=RENEWED_SECONDS) or replace_time(told, said.time) == said:
        return before
    return after


def replace_time(explanation: ScalingExplanation, time: datetime) -> ScalingExplanation:
    return explanation.model_copy(update={"time": time})


def without_limits_of_the_cluster(verdict: ScalingVerdict) -> ScalingVerdict:
    """For a pool whose own pods say why they have no node: they know better."""
    reasons = (Reason.NO_CAPACITY, Reason.QUOTA_PENDING)
    if verdict.limited is None or verdict.limited.reason not in reasons:
        return verdict
    return replace(verdict, limited=None)


def inputs_of(inputs: Sequence[Input]) -> tuple[ScalingInput, ...]:
    """Rounded: the API server keeps numbers as they are written."""
    return tuple(
        ScalingInput(name=each.name, value=rounded(each.value), unit=each.unit or None)
        for each in inputs[:INPUTS_MAX]
        if math.isfinite(each.value)
    )


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def _profile(drifts: Sequence[Drift] | None, *, measured: bool) -> Finding | None:
    if drifts is None:
        return None
    type_ = ConditionType.PROFILE_FITS
    if drifts:
        text = "; ".join(each.sentence for each in drifts)
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.PROFILE_DRIFTS,
            f"{text}. Sizes are chosen by what is measured. Renew the ModelKVProfile, or look at why the "
            "engines are slower than they were.",
        )
    if not measured:
        return Finding(
            type_, ConditionStatus.UNKNOWN, Reason.PROFILE_UNMEASURED, "Too little was measured yet."
        )
    return Finding(
        type_, ConditionStatus.TRUE, Reason.PROFILE_FITS, "Measurements are within a quarter of it."
    )


def _short(text: str) -> str:
    return text if len(text) <= SENTENCE_MAX_CHARACTERS else text[: SENTENCE_MAX_CHARACTERS - 1] + "…"


def _sentences(texts: Sequence[str]) -> tuple[str, ...] | None:
    return tuple(_short(each) for each in texts if each)[:SENTENCES_MAX] or None
