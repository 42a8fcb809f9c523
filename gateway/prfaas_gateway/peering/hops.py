"""The way to another region's gateways, hop by hop: which one fails, what was seen, and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from prfaas_gateway.peering.lines import LineTooLongError
from prfaas_gateway.peering.trust import WrongIdentityError
from prfaas_gateway.peering.wire import BadDocumentError

DNS, TCP, TLS = "DNS", "TCP", "TLS"
IDENTITY, AUTHORISATION, CLOCK = "Identity", "Authorisation", "Clock"
HOPS = (DNS, TCP, TLS, IDENTITY, AUTHORISATION, CLOCK)
CLOCK_ROOM_SECONDS = 10.0
"""Certificates have five minutes of room; a clock that is this far off will use that up one day."""


_WHO_LETS_IN = (
    "see that the clusters of region {region} have Region {own_region} with its present trust bundle, and "
    "that this gateway's certificate is valid (GET /v1/regions there names what was refused)"
)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The first hop that fails.

    Attributes:
        code: for a metric.
        remedy: what to change, and where.
    """

    hop: str
    code: str
    message: str
    remedy: str


def hop_entries(obstacle: Obstacle | None, clock_ahead_seconds: float | None) -> list[dict[str, Any]]:
    """All hops up to the first one that fails; those behind it are not known."""
    entries: list[dict[str, Any]] = []
    for hop in HOPS:
        if obstacle is not None and hop == obstacle.hop:
            entries.append({"name": hop, "ok": False, "message": obstacle.message, "remedy": obstacle.remedy})
            return entries
        if hop == CLOCK:
            if clock_ahead_seconds is not None:
                entries.append(_clock(clock_ahead_seconds))
        else:
            entries.append({"name": hop, "ok": True, "message": "", "remedy": ""})
    return entries


def _clock(ahead_seconds: float) -> dict[str, Any]:
    if abs(ahead_seconds) <= CLOCK_ROOM_SECONDS:
        return {"name": CLOCK, "ok": True, "message": "", "remedy": ""}
    direction = "ahead of" if ahead_seconds > 0 else "behind"
    return {
        "name": CLOCK,
        "ok": False,
        "message": f"its clock is {abs(ahead_seconds):.0f} s {direction} this one's",
        "remedy": "set the clocks of both clusters' nodes by NTP; certificates allow for 300 s",
    }


def obstacle_of(error: BaseException, region: str, address: str, own_region: str) -> Obstacle:
    """What an attempt to reach a region's gateways failed at."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Obstacle(
                DNS,
                "NameNotFound",
                f"{address}: the name cannot be resolved",
                f"check spec.peer.address of Region {region} and the cluster's DNS",
            )
        case aiohttp.ClientConnectorCertificateError():
            return _certificate_obstacle(error.certificate_error, region)
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError() | aiohttp.ClientSSLError():
            return Obstacle(
                TLS,
                "TlsFailed",
                f"{address} does not complete a TLS 1.3 handshake: {_reason(error)}",
                f"see that the address of Region {region} leads to the peer port (7410) of a gateway",
            )
        case aiohttp.ConnectionTimeoutError():
            return Obstacle(
                TCP,
                "ConnectTimeout",
                f"{address} does not answer",
                "let both clusters' firewalls and network policies pass TCP to that port",
            )
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionResetError():
            return _not_let_in(region, own_region)
        case aiohttp.ClientConnectorError():
            # A reset during the handshake comes as one too, with the reset as its cause.
            if isinstance(error.os_error, ConnectionResetError):
                return _not_let_in(region, own_region)
            return Obstacle(
                TCP,
                "ConnectFailed",
                f"{address}: {error.os_error.strerror or type(error.os_error).__name__}",
                f"see that gateways run in region {region} and that the address of its Region leads to them",
            )
        case aiohttp.ClientOSError():
            return _not_let_in(region, own_region)
        case TimeoutError():
            return Obstacle(
                AUTHORISATION,
                "PeerSilent",
                f"{address} accepted the connection and says nothing",
                f"look at the gateways of region {region}: do they run, and do they log errors?",
            )
    why = str(error) if isinstance(error, (BadDocumentError, LineTooLongError)) else type(error).__name__
    return _not_the_exchange(region, why)


def _not_the_exchange(region: str, why: str) -> Obstacle:
    return Obstacle(
        AUTHORISATION,
        "ProtocolError",
        f"what answers there does not speak the exchange: {why}",
        f"see that the address of Region {region} leads to the peer port (7410) of a gateway there, and "
        "that its version fits (docs/federation.md)",
    )


def broken(error: BaseException, region: str) -> Obstacle:
    """A stream that had begun has ended otherwise than in good order."""
    if isinstance(error, (BadDocumentError, LineTooLongError)):
        return _not_the_exchange(region, str(error))
    seen = "nothing came any more" if isinstance(error, TimeoutError) else "the connection broke"
    return Obstacle(
        TCP,
        "ConnectionLost",
        f"{seen} ({type(error).__name__})",
        f"it is tried again without end; if it stays so, look at the network between here and {region}",
    )


def refused(status: int, answer: Mapping[str, Any] | None, region: str, own_region: str) -> Obstacle:
    """What a gateway's refusal in HTTP means."""
    error = (answer or {}).get("error")
    code, message = f"Http{status}", ""
    if isinstance(error, dict):
        code = str(error.get("code") or code)[:64]
        message = str(error.get("message") or "")[:500]
    remedy = f"look at the gateways of region {region}; their message says what they miss"
    if code == "UnknownRegion":
        remedy = _WHO_LETS_IN.format(region=region, own_region=own_region)
    return Obstacle(
        AUTHORISATION,
        code if code in _REFUSALS else f"Http{status}",
        f"region {region} refuses the exchange: {code}: {message}",
        remedy,
    )


_REFUSALS = frozenset({"Draining", "NotAuthorised", "TooManyStreams", "UnknownRegion", "UnsupportedVersion"})


def no_bundle(region: str, why: str) -> Obstacle:
    """There is nothing to verify the region by."""
    return Obstacle(
        IDENTITY,
        "NoTrustBundle",
        f"Region {region} has no trust bundle that can be used here{': ' + why if why else ''}",
        f"put the authorities of region {region} into spec.trustBundle (prfaas federation join)",
    )


def refusal_of(error: BaseException, region: str) -> Obstacle:
    """Why somebody who said to be a gateway of a region was not let in here."""
    if isinstance(error, WrongIdentityError):
        return Obstacle(
            IDENTITY,
            "WrongIdentity",
            str(error),
            f"somebody in region {region} dials with a certificate that is not a gateway's: find out who",
        )
    text = _reason(error)
    if "expired" in text or "not yet valid" in text:
        return Obstacle(
            IDENTITY,
            "CertificateExpired",
            f"a gateway of region {region} dials with a certificate that is not valid now: {text}",
            f"see that the operator of region {region} runs and renews certificates, and compare the clocks",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Obstacle(
            IDENTITY,
            "UnknownAuthority",
            f"who dials as region {region} is not vouched for by that Region's trust bundle: {text}",
            f"put the present authorities of region {region} into its spec.trustBundle here; if it has them, "
            "somebody else claims to be that region",
        )
    return Obstacle(
        TLS,
        "TlsFailed",
        f"who dials as region {region} does not complete the handshake: {text}",
        f"see that Region {region} is here with its trust bundle, and that {region} trusts this region",
    )


def _certificate_obstacle(error: Exception, region: str) -> Obstacle:
    if isinstance(error, WrongIdentityError):
        return Obstacle(
            IDENTITY,
            "WrongIdentity",
            str(error),
            f"see that the address of Region {region} leads to gateways of that region",
        )
    text = _reason(error)
    if "expired" in text or "not yet valid" in text:
        return Obstacle(
            TLS,
            "CertificateExpired",
            f"the certificate of the gateway there is not valid now: {text}",
            f"see that the operator of region {region} runs and renews certificates, and compare the clocks",
        )
    return Obstacle(
        TLS,
        "UnknownAuthority",
        f"the gateway there is not vouched for by the bundle of Region {region}: {text}",
        f"put the present authorities of region {region} into spec.trustBundle (prfaas federation join)",
    )


def _not_let_in(region: str, own_region: str) -> Obstacle:
    return Obstacle(
        AUTHORISATION,
        "NotAuthorised",
        f"region {region} closed the connection: it does not accept this gateway's certificate",
        _WHO_LETS_IN.format(region=region, own_region=own_region),
    )


def _reason(error: BaseException) -> str:
    """What OpenSSL says, without addresses of its source."""
    found = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    verify = getattr(found, "verify_message", None)
    if verify:
        return str(verify)
    return str(getattr(found, "reason", None) or type(found).__name__).replace("_", " ").lower()
