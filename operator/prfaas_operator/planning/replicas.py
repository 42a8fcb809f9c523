"""How many instances a pool is to have, and who says so.

Static and External: whoever writes `spec.replicas` says so, and the operator never writes it. Managed: the
operator writes it through `/scale`, as an HPA would, unless a manifest or an HPA claims it too. A hold comes
before all of them until it ends. Switching the mode changes no number: each mode begins with the
`spec.replicas` that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.keys import MANAGER_SCALE
from prfaas.api.v1alpha1 import ConditionStatus, HoldStatus, PoolSpec, Scaling, ScalingMode
from prfaas_operator.planning.actions import ScalePool
from prfaas_operator.planning.autoscale.verdict import ScalingVerdict
from prfaas_operator.planning.overrides import BadOverride, hold_of
from prfaas_operator.planning.values import ObservedPool


@dataclass(frozen=True, slots=True)
class Sizing:
    """What was decided about a pool's size.

    Attributes:
        desired: instances that there are to be, a hold included.
        scale: the write of `spec.replicas`, in mode Managed when it has to change.
        scale_reason: of that write, as one word.
        limited: a bound of the spec that keeps the pool from what was asked for.
        bad_hold: what is wrong with the hold's annotation.
        look_again_seconds: when the hold ends.
        verdict: what the autoscaler says of it.
    """

    desired: int
    active: Finding
    hold: HoldStatus | None = None
    scale: ScalePool | None = None
    scale_reason: str = ""
    limited: Finding | None = None
    bad_hold: str = ""
    look_again_seconds: float | None = None
    verdict: ScalingVerdict | None = None


def plan_size(pool: ObservedPool, spec: PoolSpec, now: datetime) -> Sizing:
    """The pool's size by mode, bounds and hold."""
    active = scaling_active(pool, spec)
    target, limited, scale, verdict = spec.replicas, None, None, None
    reason = ""
    if spec.scaling.mode is ScalingMode.MANAGED and active.status is ConditionStatus.TRUE:
        verdict = pool.scaling
        # Decided for another size: the next decision comes within an interval.
        decided = verdict is not None and verdict.for_replicas == spec.replicas
        wanted = verdict.desired if verdict is not None and decided else spec.replicas
        target, limited = managed_target(wanted, spec.scaling)
        if target != spec.replicas:
            why = limited.message if limited is not None else _why(verdict)
            scale = ScalePool(pool.key, pool.resource_version, spec.replicas, target, why)
            reason = _reason(limited, verdict if decided else None)
        if verdict is not None:
            limited = limited or verdict.limited
            active = _active_by(verdict)
    hold = hold_of(pool.annotations, now)
    if isinstance(hold, BadOverride):
        return Sizing(
            target,
            active,
            scale=scale,
            scale_reason=reason,
            limited=limited,
            bad_hold=hold.message,
            verdict=verdict,
        )
    if hold is None:
        return Sizing(target, active, scale=scale, scale_reason=reason, limited=limited, verdict=verdict)
    held = HoldStatus(replicas=hold.replicas, until=hold.until)
    message = f"Held at {hold.replicas} until {held.until:%Y-%m-%dT%H:%M:%SZ}"
    message += f": {hold.reason[:200]}." if hold.reason else "."
    return Sizing(
        hold.replicas,
        Finding(
            ConditionType.SCALING_ACTIVE, active.status, Reason.HELD, f"{message} Then: {active.message}"
        ),
        hold=held,
        scale=scale,
        scale_reason=reason,
        limited=limited,
        look_again_seconds=(hold.until - now).total_seconds(),
    )


def managed_target(wanted: int, scaling: Scaling) -> tuple[int, Finding | None]:
    """The wanted number within the bounds of the spec, and what keeps it there."""
    fewest = 1 if scaling.min_replicas is None else scaling.min_replicas
    most = scaling.max_replicas if scaling.max_replicas is not None else max(wanted, fewest)
    if wanted < fewest:
        text = f"scaling.minReplicas is {fewest}; {wanted} was asked for."
        return fewest, _limited(Reason.TOO_FEW_REPLICAS, text)
    if wanted > most:
        text = f"scaling.maxReplicas is {most}; {wanted} was asked for."
        return most, _limited(Reason.TOO_MANY_REPLICAS, text)
    return wanted, None


def _limited(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.SCALING_LIMITED, ConditionStatus.TRUE, reason, message)


def _reason(bound: Finding | None, verdict: ScalingVerdict | None) -> str:
    """A bound of the spec comes before the autoscaler, whose verdict may be about another size."""
    if bound is not None:
        return str(bound.reason)
    return verdict.explanation.reason if verdict is not None else "Decided"


def _why(verdict: ScalingVerdict | None) -> str:
    if verdict is None:
        return "decided by prfaas"
    return f"{verdict.explanation.reason}: {verdict.explanation.message or 'decided by prfaas'}"


def _active_by(verdict: ScalingVerdict) -> Finding:
    told = verdict.explanation
    if not verdict.active:
        return _inactive(
            Reason.LOAD_UNKNOWN,
            f"The size stays at {verdict.for_replicas}: {told.message}. `prfaas status` shows the pods.",
        )
    return _active(
        Reason.MANAGED, f"prfaas decides: {told.desired} instances, {told.reason}: {told.message}."
    )


def scaling_active(pool: ObservedPool, spec: PoolSpec) -> Finding:
    """ScalingActive by the objects alone: mode, autoscalers, and who owns the field."""
    mode = spec.scaling.mode
    if mode is ScalingMode.STATIC:
        return _active(Reason.STATIC, "spec.replicas of the manifest decides.")
    if mode is ScalingMode.EXTERNAL:
        names = ", ".join(sorted(pool.autoscalers))
        if not names:
            text = "Left to whoever writes /scale; no HorizontalPodAutoscaler names this pool now."
            return _active(Reason.EXTERNAL, text)
        return _active(Reason.EXTERNAL, f"Left to HorizontalPodAutoscaler {names} through /scale.")
    if pool.autoscalers:
        names = ", ".join(sorted(pool.autoscalers))
        return _inactive(
            Reason.AUTOSCALER_ON_MANAGED_POOL,
            f"HorizontalPodAutoscaler {names} writes the replicas of this pool, and so "
            "does scaling.mode Managed: delete the autoscaler, or set scaling.mode to External.",
        )
    owner = _manifest_owner(pool)
    if owner:
        return _inactive(
            Reason.REPLICAS_OWNED_BY_MANIFEST,
            f"{owner} owns spec.replicas, which scaling.mode Managed has to write: remove replicas from the "
            "manifest, or set scaling.mode to Static.",
        )
    return _active(Reason.MANAGED, "prfaas decides, and writes spec.replicas through /scale.")


def _manifest_owner(pool: ObservedPool) -> str:
    """Who will write `spec.replicas` again at the next apply, or "".

    An update by hand, or a creation that took the default, owns the field too but does not come back.
    """
    if pool.replicas_in_last_applied:
        return "The manifest of kubectl apply"
    for entry in pool.replicas_managers:
        if entry.operation == "Apply" and entry.manager != MANAGER_SCALE:
            return f"Field manager {entry.manager}"
    return ""


def _active(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.SCALING_ACTIVE, ConditionStatus.TRUE, reason, message)


def _inactive(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.SCALING_ACTIVE, ConditionStatus.FALSE, reason, message)
