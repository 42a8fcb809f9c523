"""How the hub is seen from a cluster that mirrors it: whether it answers, and how long the token lasts."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus

# A beat is due every 10 s; one may be missed.
SILENT_SECONDS = 22.0
ENDS_SOON = timedelta(days=7)
AGAIN = "run prfaas federation join again"


@dataclass(frozen=True, slots=True)
class HubContact:
    """What came of talking to the hub. Times are monotonic seconds.

    Attributes:
        began_at: when this process began to talk to it.
        answered_at: of the last answer that was as it should be, None before the first.
        refused: what the hub said instead of doing it (401, 403, 404), "" when it did not.
        unauthorized: it did not take the token.
        silence: why no answer came, "" when one did.
    """

    began_at: float
    answered_at: float | None = None
    refused: str = ""
    unauthorized: bool = False
    silence: str = ""


def reachable(contact: HubContact, now: float) -> Finding | None:
    """HubReachable; None: it is not known yet, and a stored condition stays as it is."""
    type_ = ConditionType.HUB_REACHABLE
    if contact.refused:
        return Finding(
            type_, ConditionStatus.FALSE, Reason.HUB_REFUSES, f"The hub refuses: {contact.refused}"
        )
    if contact.answered_at is not None and now - contact.answered_at <= SILENT_SECONDS:
        return Finding(type_, ConditionStatus.TRUE, Reason.HUB_ANSWERS, "The hub answers.")
    since = contact.began_at if contact.answered_at is None else contact.answered_at
    if now - since <= SILENT_SECONDS:
        return None
    why = f": {contact.silence}" if contact.silence else ""
    return Finding(
        type_,
        ConditionStatus.FALSE,
        Reason.HUB_SILENT,
        f"The hub does not answer{why}. Everything goes on with what was last wanted.",
    )


def token_ends_at(token: str | None) -> datetime | None:
    """When a token says that it ends; None: it does not say, or is none that can be read.

    Nothing is verified: the hub does that.
    """
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (ValueError, KeyError, TypeError, OverflowError, binascii.Error):
        return None


def token_valid(ends_at: datetime | None, contact: HubContact, now: datetime) -> Finding | None:
    """TokenValid; None: it is not known yet.

    Args:
        now: of an API server's clock rather than this machine's.
    """
    type_ = ConditionType.TOKEN_VALID
    if contact.unauthorized or (ends_at is not None and ends_at <= now):
        when = f" It ended at {_text(ends_at)}." if ends_at is not None and ends_at <= now else ""
        return Finding(
            type_,
            ConditionStatus.FALSE,
            Reason.TOKEN_REFUSED,
            f"The hub refuses the token.{when} Now {AGAIN}.",
        )
    if ends_at is not None and ends_at - now < ENDS_SOON:
        text = f"The token for the hub ends at {_text(ends_at)}: {AGAIN}."
        return Finding(type_, ConditionStatus.FALSE, Reason.TOKEN_ENDS_SOON, text)
    if contact.answered_at is None:
        return None
    until = f" until {_text(ends_at)}" if ends_at is not None else ", without an end"
    return Finding(type_, ConditionStatus.TRUE, Reason.TOKEN_TAKEN, f"The hub takes the token{until}.")


def no_hub() -> tuple[Finding, Finding]:
    """Of a cluster whose desired state is its own."""
    return (
        Finding(ConditionType.HUB_REACHABLE, ConditionStatus.TRUE, Reason.NO_HUB, "No hub is needed."),
        Finding(ConditionType.TOKEN_VALID, ConditionStatus.TRUE, Reason.NO_HUB, "No token is needed."),
    )


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
