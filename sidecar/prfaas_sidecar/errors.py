"""Codes of docs/contracts.md, as data: whose fault, whether another try can help."""

from __future__ import annotations

from dataclasses import dataclass

COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Code:
    """What is known of a code."""

    fault: str  # "capacity", "caller", "config", "remote" or "local"
    retryable: bool


CODES: dict[str, Code] = {
    "ArenaFull": Code("capacity", True),
    "TransferExists": Code("caller", False),
    "UnknownTransfer": Code("caller", False),
    "PromptMismatch": Code("caller", False),
    "NotSupported": Code("caller", False),
    "FingerprintMismatch": Code("config", False),
    "LayoutMismatch": Code("config", False),
    "NotAuthorised": Code("config", False),
    "PeerNotAllowed": Code("config", False),
    "UnknownRegion": Code("config", False),
    "WrongRegion": Code("config", False),
    "CertificateExpired": Code("config", False),
    "PeerUnreachable": Code("remote", True),
    "PeerSilent": Code("remote", True),
    "ProtocolError": Code("remote", False),
    "ChecksumMismatch": Code("remote", True),
    "LinkLost": Code("remote", True),
    "DeadlineExceeded": Code("remote", True),
    "PrefillFailed": Code("remote", True),
    "Cancelled": Code("caller", False),
    "EngineGone": Code("local", True),
    "SidecarGone": Code("local", True),
    "Draining": Code("local", True),
}


class TransferError(Exception):
    """A transfer, or a request for one, ends with a code. The message may be logged and shown to peers."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def retryable(code: str) -> bool:
    """Whether the same thing may work on another try."""
    known = CODES.get(code)
    return known is not None and known.retryable
