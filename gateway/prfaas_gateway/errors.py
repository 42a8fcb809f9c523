"""Errors of the request path as data: what went wrong, whose fault, whether trying again can help."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class GatewayError(Exception):
    """An answer to the client instead of the engine's.

    Attributes:
        status: HTTP status.
        code: CamelCase code (docs/contracts.md, docs/gateway.md), stable.
        message: what to do, without prompt text.
        retryable: whether the same request can succeed later.
        param: the request field that is at fault, if one is.
        retry_after_seconds: sent as Retry-After.
        oversized: the request's body was not read to its end, so the connection cannot be used again.
    """

    status: int
    code: str
    message: str
    retryable: bool = False
    param: str | None = None
    retry_after_seconds: int | None = None
    oversized: bool = False

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def body(self) -> bytes:
        """The error in the shape that OpenAI's clients understand."""
        return json.dumps({"error": self.fields()}, separators=(",", ":")).encode()

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that cannot be continued."""
        return b"data: " + self.body() + b"\n\n"

    def fields(self) -> dict[str, Any]:
        """OpenAI's error object, with ``retryable`` added."""
        return {
            "message": self.message,
            "type": _error_type(self.status),
            "param": self.param,
            "code": self.code,
            "retryable": self.retryable,
        }


def _error_type(status: int) -> str:
    if status == 404:
        return "not_found_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def bad_request(code: str, message: str, param: str | None = None) -> GatewayError:
    """The client's fault: the same request can never succeed."""
    return GatewayError(400, code, message, param=param)


def unavailable(code: str, message: str, retry_after_seconds: int = 1) -> GatewayError:
    """Nobody can answer now; the client may try again."""
    return GatewayError(503, code, message, retryable=True, retry_after_seconds=retry_after_seconds)


class ClusterUnusableError(Exception):
    """The configured cluster cannot be followed at all; the text says what to change."""
