"""What the mirror does next. Deletes are few, late, and never in a body; everything else is only applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prfaas.api import keys
from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.federation.values import (
    Apply,
    Attempt,
    HubPicture,
    LocalObject,
    MirrorMemory,
    MirrorSettings,
    ObjectKey,
    Refused,
    Remove,
    covers,
    digest_of,
)
from prfaas_operator.federation.wanted import Wanted, wanted

ACCEPT_FOR = timedelta(minutes=10)
# Clocks of whoever accepts and of the API server may differ by that.
ACCEPT_EARLY = timedelta(minutes=5)
GONE_SHARE = 0.2
GONE_AT_LEAST = 2
AT_ONCE_SECONDS = 60.0
NAMED_MAX = 5
READY = ConditionType.MIRROR_READY


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """What to do, in order, and what to say.

    Attributes:
        pin: the UID to pin before anything else is done; None: it stays as it is.
        refused: what the hub wants here and does not get.
        memory: for the next pass, without what the actions bring.
        look_again_seconds: when to look again though nothing changes; None: no need.
    """

    actions: tuple[Apply | Remove, ...]
    finding: Finding
    refused: tuple[Refused, ...]
    memory: MirrorMemory
    pin: str | None = None
    look_again_seconds: float | None = None


def accepted_uid(annotation: str | None, now: datetime) -> str:
    """UID of the hub whose deletes are accepted by `<uid>@<RFC 3339 time>`, "" when by none (any more)."""
    uid, separator, text = (annotation or "").partition("@")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return ""
    if not separator or at.tzinfo is None or not at - ACCEPT_EARLY <= now <= at + ACCEPT_FOR:
        return ""
    return uid


def plan_mirror(
    hub: HubPicture,
    local: Iterable[LocalObject],
    memory: MirrorMemory,
    settings: MirrorSettings,
    now: float,
) -> MirrorPlan:
    """One pass.

    Args:
        hub: complete.
        local: all objects of this cluster with the mirror's label.
        now: monotonic seconds.
    """
    mirrored = {each.key: each for each in local}
    pinned = memory.pinned_uid or _uid_of(mirrored.values())
    accepted = memory.accepted_uid == hub.uid
    if pinned and pinned != hub.uid and not accepted:
        return _frozen(
            memory, f"The hub is another one: its kube-system has UID {hub.uid}, and {pinned} is known."
        )
    pin = hub.uid if memory.pinned_uid != hub.uid else None
    want = wanted(hub, settings)
    gone = _gone(mirrored, want)
    gone_since = {key: memory.gone_since.get(key, now) for key in gone}
    # While it is frozen, time does not pass for what was deleted before.
    removed = {
        key: at
        for key, at in memory.removed.items()
        if key not in want.bodies and (memory.frozen or now - at < AT_ONCE_SECONDS)
    }
    memory = replace(memory, pinned_uid=hub.uid, gone_since=gone_since, removed=removed)
    # What is there still and not for this cluster any more, somebody has decided so by name.
    there = {each.key for each in hub.objects}
    vanished = gone - there
    if not accepted and _too_many(len(vanished), len(set(removed) - there), len(mirrored)):
        first = ", ".join(str(key) for key in sorted(vanished)[:NAMED_MAX])
        text = f"{len(vanished)} of {len(mirrored)} mirrored objects are gone in the hub at once ({first}"
        return replace(_frozen(memory, f"{text}{', …' if len(vanished) > NAMED_MAX else ''})."), pin=pin)
    attempts = {key: each for key, each in memory.attempts.items() if key in want.bodies}
    applied, refused = _applies(want, mirrored, attempts, settings, now)
    ripe = {key for key in gone if accepted or now - gone_since[key] >= settings.kept_seconds}
    deletes = [
        Remove(key, mirrored[key].uid, "it is gone in the hub, or not for this cluster any more")
        for key in sorted(ripe, key=_delete_order)
    ]
    waits = [settings.kept_seconds - (now - gone_since[key]) for key in gone if key not in ripe]
    waits += [
        max(0.0, settings.retry_seconds - (now - each.at))
        for each in attempts.values()
        if each.generation is None
    ]
    all_refused = (*want.refused, *refused)
    return MirrorPlan(
        (*applied, *deletes),
        _finding(all_refused, len(want.bodies) - len(refused)),
        all_refused,
        replace(memory, attempts=attempts, frozen=False),
        pin,
        min(waits, default=None),
    )


def not_listed_yet() -> Finding:
    """Before the first complete list."""
    return Finding(READY, ConditionStatus.UNKNOWN, Reason.MIRRORING, "The hub has not been listed yet.")


def no_hub() -> Finding:
    """Of a cluster that mirrors nothing."""
    return Finding(READY, ConditionStatus.TRUE, Reason.NO_HUB, "Nothing is mirrored here.")


def _uid_of(mirrored: Iterable[LocalObject]) -> str:
    """The hub that objects came from, when nothing else says; "" when there are none."""
    found = sorted({each.hub_uid for each in mirrored if each.hub_uid})
    return found[0] if found else ""


def _gone(mirrored: Mapping[ObjectKey, LocalObject], want: Wanted) -> set[ObjectKey]:
    # What is wanted and refused stays as it was last carried out.
    return set(mirrored) - set(want.bodies) - {each.key for each in want.refused}


def _too_many(gone: int, removed: int, mirrored: int) -> bool:
    if gone == 0:
        return False
    lost = gone + removed
    return lost > GONE_AT_LEAST and lost > GONE_SHARE * (mirrored + removed)


def _frozen(memory: MirrorMemory, why: str) -> MirrorPlan:
    message = f"{why} Nothing is changed here until it is back, or until: prfaas federation accept-deletes"
    return MirrorPlan(
        (),
        Finding(READY, ConditionStatus.FALSE, Reason.FROZEN, message),
        (),
        replace(memory, frozen=True),
    )


def _applies(
    want: Wanted,
    mirrored: Mapping[ObjectKey, LocalObject],
    attempts: Mapping[ObjectKey, Attempt],
    settings: MirrorSettings,
    now: float,
) -> tuple[list[Apply], tuple[Refused, ...]]:
    applies: list[Apply] = []
    refused: list[Refused] = []
    for key in sorted(want.bodies, key=_apply_order):
        body = want.bodies[key]
        digest = digest_of(body)
        there, tried = mirrored.get(key), attempts.get(key)
        again = tried is not None and tried.digest == digest
        if (
            tried is not None
            and again
            and tried.generation is None
            and now - tried.at < settings.retry_seconds
        ):
            if tried.refused is not None:
                refused.append(tried.refused)
            continue
        if there is None:
            applies.append(Apply(key, body, digest, None, "it is new"))
        elif there.mirrored_from != body["metadata"]["annotations"][keys.ANNOTATION_MIRRORED_FROM]:
            applies.append(Apply(key, body, digest, there.uid, "the hub has another generation"))
        elif not covers(there.spec, body["spec"]) and not (
            tried is not None and again and tried.generation == there.generation
        ):
            applies.append(Apply(key, body, digest, there.uid, "it was changed here"))
    return applies, tuple(refused)


def _apply_order(key: ObjectKey) -> tuple[int, ObjectKey]:
    """What others refer to comes first."""
    return _ORDER.index(key.kind), key


def _delete_order(key: ObjectKey) -> tuple[int, ObjectKey]:
    return -_ORDER.index(key.kind), key


_ORDER = (
    keys.REGION,
    keys.KV_LINK,
    keys.MODEL_KV_PROFILE,
    keys.PREFILL_POOL,
    keys.DECODE_POOL,
    keys.PREFILL_ROUTE,
)


def _finding(refused: tuple[Refused, ...], count: int) -> Finding:
    if not refused:
        return Finding(READY, ConditionStatus.TRUE, Reason.MIRRORED, f"{count} objects of the hub are here.")
    clashes = [each for each in refused if each.reason is Reason.NAME_CLASH]
    listed = clashes or list(refused)
    text = "; ".join(f"{each.key}: {each.message}" for each in listed[:NAMED_MAX])
    more = f"; and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return Finding(READY, ConditionStatus.FALSE, listed[0].reason, f"{text}{more}.")
