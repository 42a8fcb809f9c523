"""Events: what changed since the status that was last written, and what is done now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prfaas.api.conditions import ConditionType, Reason, find
from prfaas.api.v1alpha1 import Condition, ConditionStatus
from prfaas_operator.planning.actions import (
    Action,
    ApplyChild,
    DeleteChild,
    Event,
    EventType,
    IssueCertificate,
    ScaleChild,
    ScalePool,
)
from prfaas_operator.planning.values import ChildKind

MESSAGE_MAX_CHARACTERS = 1000

# Reconciling repeats what the details say, and so does Stalled for the most part.
_TOLD: dict[str, ConditionStatus] = {
    ConditionType.ACCEPTED: ConditionStatus.TRUE,
    ConditionType.RESOLVED_REFS: ConditionStatus.TRUE,
    ConditionType.WORKLOADS_AVAILABLE: ConditionStatus.TRUE,
    ConditionType.KV_COMPATIBLE: ConditionStatus.TRUE,
    ConditionType.SCALING_ACTIVE: ConditionStatus.TRUE,
    ConditionType.SCALING_LIMITED: ConditionStatus.FALSE,
}
# On the way up everything is not ready for a while, which is no news.
_QUIET = frozenset({Reason.STARTING, Reason.NOT_ENOUGH_READY, Reason.FINGERPRINT_UNKNOWN})


def of_conditions(before: Iterable[Condition], after: Iterable[Condition]) -> list[Event]:
    """One event per condition whose status or reason changed.

    A first bad state is one. A first good state is none, and neither is the end of a wait that was none.
    """
    events = []
    stored, found = tuple(before), tuple(after)
    for condition in found:
        good = _TOLD.get(condition.type)
        old = find(stored, condition.type)
        if good is None or condition.reason in _QUIET:
            continue
        if condition.status is good and (old is None or old.reason in _QUIET):
            continue
        if old is not None and (old.status, old.reason) == (condition.status, condition.reason):
            continue
        type_ = EventType.NORMAL if condition.status is good else EventType.WARNING
        message = f"{condition.type}={condition.status}: {condition.message}"
        events.append(Event(type_, condition.reason, message[:MESSAGE_MAX_CHARACTERS]))
    stalled, was = find(found, ConditionType.STALLED), find(stored, ConditionType.STALLED)
    if stalled is None or stalled.status is not ConditionStatus.TRUE:
        return events
    if any(event.reason == stalled.reason for event in events):
        return events
    # What was told when it was new may have turned out to last, and one instance of many may fail while the
    # pool has enough of them.
    if was is None or (was.status, was.reason) != (stalled.status, stalled.reason):
        message = f"{stalled.type}={stalled.status}: {stalled.message}"
        events.append(Event(EventType.WARNING, stalled.reason, message[:MESSAGE_MAX_CHARACTERS]))
    return events


def of_actions(actions: Sequence[Action], *, starts: bool = False) -> list[Event]:
    """What users like to see of what is done. Marks and lists of peers are too small for that.

    Args:
        starts: the pool has no Deployment yet. What is made for the first time, its conditions say.
    """
    events = []
    for action in actions:
        match action:
            case ApplyChild(resource_version=None) | IssueCertificate() if starts:
                pass
            case ApplyChild(kind=ChildKind.DEPLOYMENT, resource_version=None):
                events.append(
                    Event(EventType.NORMAL, "RevisionCreated", f"Created Deployment {action.name}.")
                )
            case ApplyChild(resource_version=str()) if action.drift:
                text = f"Put {action.kind} {action.name} back: {action.why}."
                events.append(Event(EventType.WARNING, "DriftRepaired", text))
            case ScaleChild():
                text = (
                    f"{action.name}: {action.replicas_before} to {action.replicas} instances; {action.why}."
                )
                events.append(Event(EventType.NORMAL, "Scaled", text))
            case ScalePool():
                text = f"spec.replicas {action.replicas_before} to {action.replicas}: {action.why}"
                events.append(Event(EventType.NORMAL, "Resized", text))
            case IssueCertificate():
                text = f"Issued the certificate in Secret {action.name}: {action.why}."
                events.append(Event(EventType.NORMAL, "CertificateIssued", text))
            case DeleteChild(kind=ChildKind.DEPLOYMENT):
                events.append(
                    Event(
                        EventType.NORMAL,
                        "RevisionRemoved",
                        f"Deleted Deployment {action.name}: {action.why}.",
                    )
                )
            case _:
                pass
    return events
