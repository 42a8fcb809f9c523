"""What can go wrong at an API server: one class per cause, whose fault it is, whether to try again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

MESSAGE_CHARACTERS = 1000


class Fault(StrEnum):
    """Who has to act."""

    CALLER = "caller"  # what was asked is wrong, or was overtaken
    CONFIG = "config"  # credentials, RBAC or CRDs of this installation
    SERVER = "server"  # the API server or a webhook of it
    NETWORK = "network"
    CAPACITY = "capacity"


class KubeError(Exception):
    """A call of the API that failed.

    Attributes:
        status: HTTP status, 0 when there was no answer.
        reason: the server's CamelCase reason, or this class's name.
        retry_after_seconds: how long the server asks to wait, when it says so.
        causes: what the server says per field: (field, message).
        retryable: whether the same call may succeed later without anyone changing it.
    """

    fault: ClassVar[Fault] = Fault.SERVER
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after_seconds: float | None = None,
        causes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason or type(self).__name__
        self.retry_after_seconds = retry_after_seconds
        self.causes = causes


class BadRequest(KubeError):
    """The request has no meaning to the server."""

    fault = Fault.CALLER


class Unauthorized(KubeError):
    """The server does not know these credentials, even when freshly loaded."""

    fault = Fault.CONFIG


class Forbidden(KubeError):
    """Known, but RBAC, a quota or an admission rule says no; the message tells which."""

    fault = Fault.CONFIG


class NotFound(KubeError):
    """No such object.

    Attributes:
        kind_is_served: False when the server does not even know the kind: the CRD is missing.
    """

    fault = Fault.CALLER
    kind_is_served: bool = True


class Conflict(KubeError):
    """The object changed since it was read, another manager owns a field, or a precondition does not hold.

    Attributes:
        owned_by_others: another manager owns a field; `causes` names fields and managers.
    """

    fault = Fault.CALLER
    owned_by_others: bool = False


class AlreadyExists(Conflict):
    """The object to create is there."""


class Gone(KubeError):
    """The resource version, or the continuation of a list, is too old: list again."""

    fault = Fault.CALLER


class TooLarge(KubeError):
    """The object is larger than the server takes."""

    fault = Fault.CALLER


class Invalid(KubeError):
    """The server's schema or a rule refuses the object; `causes` names the fields."""

    fault = Fault.CALLER


class TooManyRequests(KubeError):
    """The server sheds load, or a disruption budget forbids an eviction."""

    fault = Fault.CAPACITY
    retryable = True


class ServerFailed(KubeError):
    """The server, or a webhook that it asks, failed (5xx)."""

    retryable = True


class Unreachable(KubeError):
    """No connection, or it broke before the answer was complete: a write may have taken effect."""

    fault = Fault.NETWORK
    retryable = True


class DeadlineExceeded(KubeError):
    """No answer within the call's deadline: a write may have taken effect."""

    fault = Fault.NETWORK
    retryable = True


class MalformedAnswer(KubeError):
    """What came is no JSON of the Kubernetes API: most likely a proxy or another server answered."""

    fault = Fault.CONFIG


BY_STATUS: Mapping[int, type[KubeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: BadRequest,
    406: BadRequest,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    415: BadRequest,
    422: Invalid,
    429: TooManyRequests,
}


def from_answer(status: int, body: bytes, retry_after: str | None = None, *, doing: str) -> KubeError:
    """The error that an answer (or an ERROR event of a watch) of this status stands for.

    Args:
        body: a `Status` object as JSON, or whatever a proxy wrote.
        retry_after: the header, in seconds; a date is not used by API servers.
        doing: what was tried, for the message.
    """
    answer = _status_object(body)
    details = answer.get("details") or {}
    reason = str(answer.get("reason") or "")
    kind = BY_STATUS.get(status, ServerFailed if status >= 500 else BadRequest)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    elif reason == "Expired":
        kind = Gone
    text = str(answer.get("message") or body.decode(errors="replace").strip() or f"HTTP status {status}")
    wait_seconds = _seconds(retry_after)
    if wait_seconds is None:
        wait_seconds = _seconds(details.get("retryAfterSeconds"))
    error = kind(
        f"{doing}: {text[:MESSAGE_CHARACTERS]}",
        status=status,
        reason=reason,
        retry_after_seconds=wait_seconds,
        causes=tuple(
            (str(cause.get("field") or ""), str(cause.get("message") or ""))
            for cause in details.get("causes") or ()
        ),
    )
    if isinstance(error, Conflict):
        reasons = {cause.get("reason") for cause in details.get("causes") or ()}
        error.owned_by_others = "FieldManagerConflict" in reasons
    if isinstance(error, NotFound):
        # An object that is missing is named in the details; an unknown path is answered in plain text.
        error.kind_is_served = bool(details.get("name") or details.get("kind"))
    return error


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}


def _seconds(value: object) -> float | None:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
