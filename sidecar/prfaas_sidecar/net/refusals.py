"""Handshakes that fail: which hop, whose fault, and what to do about it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID

REMEDIES = {
    "unknown_region": "apply the peer's Region with its trust bundle in this cluster",
    "wrong_region": "a certificate of one region was shown as another's: find who holds its key, and rotate "
    "the authority of the region that signed it (prfaas federation rotate-ca) if it was stolen",
    "certificate_expired": "the operator of the peer's region has to renew it: look at the pool's conditions "
    "there, and at both clocks",
    "certificate_not_yet_valid": "compare the clocks of both nodes",
    "certificate_untrusted": "compare the peer's authority (Secret prfaas-ca of its region) with the trust "
    "bundle of its Region in this cluster",
    "certificate_missing": "the peer has to show a certificate of its pool",
    "not_tls": "the peer speaks no TLS: something else was dialled to this port",
}
"""What to do about each kind of failure of a connection that was accepted."""


class UnknownRegionError(Exception):
    """No authority of the region is known here."""

    def __init__(self, region: str, why: str | None = None) -> None:
        reason = f"its trust bundle cannot be used ({why})" if why else "peers.yaml does not name it"
        super().__init__(f"region {region} is unknown here: {reason}; {REMEDIES['unknown_region']}")


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a stream ended; codes of docs/contracts.md, or "Closed" for an orderly end."""

    code: str
    message: str


def kind_of_failure(error: Exception) -> str:
    """Kind of a failed handshake of a connection that was accepted, for metrics: a few fixed words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return {_EXPIRED: "certificate_expired", _NOT_YET_VALID: "certificate_not_yet_valid"}.get(
            error.verify_code, "certificate_untrusted"
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "CALLBACK_FAILED" in reason:
            return "unknown_region"
        if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
            return "certificate_missing"
        plain = (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "UNEXPECTED_MESSAGE",
            "RECORD_LAYER_FAILURE",
            "BAD_RECORD",
        )
        if any(word in reason for word in plain) or "PACKET_LENGTH" in reason:
            return "not_tls"
        return "tls"
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "timeout"
    return "closed"


def of_dialled(error: ssl.SSLError, *, peer: str, own_region: str, peer_region: str) -> Lost:
    """What the failed handshake with a dialled peer means for a transfer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verified(error, peer, peer_region)
    reason = error.reason or str(error)
    for word, (code, text) in _ALERTS.items():
        if word in reason:
            return Lost(code, f"TLS with {peer}: " + text.format(own=own_region, theirs=peer_region))
    return Lost("NotAuthorised", f"TLS with {peer}: {reason}")


def _verified(error: ssl.SSLCertVerificationError, peer: str, region: str) -> Lost:
    if error.verify_code == _EXPIRED:
        return Lost(
            "CertificateExpired",
            f"TLS with {peer}: its certificate has expired; the operator of region {region} has to renew it "
            "(conditions of the pool there), or a clock is wrong",
        )
    if error.verify_code == _NOT_YET_VALID:
        return Lost(
            "NotAuthorised",
            f"TLS with {peer}: its certificate is not valid yet; compare the clocks of both regions",
        )
    return Lost(
        "NotAuthorised",
        f"TLS with {peer}: its certificate is of no authority of region {region} that is known here "
        f"({error.verify_message}); compare Secret prfaas-ca there with the trust bundle of Region {region} "
        "here",
    )


_ALERTS = {
    "UNRECOGNIZED_NAME": (
        "UnknownRegion",
        "region {own} is unknown there; apply Region {own} with its trust bundle in the cluster of region "
        "{theirs}",
    ),
    "UNKNOWN_CA": (
        "NotAuthorised",
        "this side's certificate is of no authority that region {theirs} trusts for region {own}; bring the "
        "trust bundle of Region {own} there up to date",
    ),
    "CERTIFICATE_EXPIRED": (
        "CertificateExpired",
        "this side's certificate has expired as region {theirs} sees it; look at the own pool's "
        "conditions, and at both clocks",
    ),
    "BAD_CERTIFICATE": (
        "NotAuthorised",
        "this side's certificate is not valid there; compare the clocks of both regions",
    ),
    "CERTIFICATE_REQUIRED": ("NotAuthorised", "it wants a certificate, and this side showed none"),
}
