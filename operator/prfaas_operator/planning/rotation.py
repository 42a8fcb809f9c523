"""When the region's authority is replaced: trust both, sign with the new one, forget the old one.

Asked for by the annotation `prfaas.io/rotate-ca` on the Secret `prfaas-ca`; its value is the time of the last
step. How far it is follows from what the Secret holds, so a step that is done twice, or by another operator,
is the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# A kubelet brings a changed Secret within about two minutes, and a mirror or Git a Region within more.
SETTLE = timedelta(minutes=15)
SHOW = "prfaas federation rotate-ca --bundle"


class Step(StrEnum):
    """What is to be done now."""

    NOTHING = "Nothing"
    BEGIN = "Begin"
    """Make the next authority and trust it too."""
    WAIT = "Wait"
    SIGN = "Sign"
    """Sign with the next one; the one before is still trusted."""
    FINISH = "Finish"
    """Trust the new one alone."""


@dataclass(frozen=True, slots=True)
class RotationState:
    """What is known of a rotation.

    Attributes:
        asked: the annotation is there.
        since: time of the last step, None when the annotation's value is none.
        next_id: SHA-256 of the authority that is to sign next, "" without one.
        previous_id: of the one that signed before, "" without one.
        region_trusts: authorities of the own Region's trustBundle; None: there is no such Region.
        old_leaves: certificates in use that the present authority has not signed, or that trust others.
    """

    asked: bool
    since: datetime | None = None
    next_id: str = ""
    previous_id: str = ""
    region_trusts: frozenset[str] | None = None
    old_leaves: int = 0


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """The step, what to tell people, and when to look again."""

    step: Step
    message: str = ""
    look_again_seconds: float | None = None


def plan_rotation(state: RotationState, now: datetime, settle: timedelta = SETTLE) -> RotationPlan:
    """The next step of a rotation."""
    if not state.asked:
        return RotationPlan(Step.NOTHING)
    if not state.next_id and not state.previous_id:
        return RotationPlan(Step.BEGIN, "A new authority is made and trusted beside the one that signs.")
    if state.old_leaves:
        text = f"{state.old_leaves} certificates are still to be renewed, to trust both authorities."
        return RotationPlan(Step.WAIT, text, 5.0)
    since = state.since if state.since is not None else now
    settled, left = since + settle, (since + settle - now).total_seconds()
    if state.next_id:
        return _before_signing(state, settled, left)
    if left > 0:
        text = "The new authority signs; sidecars and gateways have time to take their certificates until "
        return RotationPlan(Step.WAIT, f"{text}{settled:%H:%M:%S} UTC.", left)
    return RotationPlan(
        Step.FINISH,
        "Every certificate is of the new authority: the old one is trusted here no more. Take it out of the "
        f"own Region's trustBundle too ({SHOW}).",
    )


def _before_signing(state: RotationState, settled: datetime, left: float) -> RotationPlan:
    if state.region_trusts is not None and state.next_id not in state.region_trusts:
        return RotationPlan(
            Step.WAIT,
            "Both authorities are trusted here. Other regions have to trust the new one before it signs: put "
            f"both into the own Region's trustBundle, wherever that is kept ({SHOW}).",
            60.0,
        )
    if left > 0:
        text = "Both authorities are trusted; everybody has time to learn of the new one until "
        return RotationPlan(Step.WAIT, f"{text}{settled:%H:%M:%S} UTC.", left)
    return RotationPlan(Step.SIGN, "The new authority signs; the old one is still trusted.")
