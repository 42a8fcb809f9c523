"""Mutual TLS to sidecars: who we are, whom we trust, and that the other end is exactly whom we meant.

A certificate of the right authority is not enough: the prompt crosses this connection, so the identity in the
certificate is compared before the first byte of a request is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Any

import aiohttp

from prfaas_gateway.config import Tls


def client_context(tls: Tls) -> ssl.SSLContext:
    """A TLS 1.3 client context that trusts the bundle only.

    Host names are not compared: sidecars are dialled by changing pod addresses, and `Identity` checks more.

    Raises:
        OSError, ssl.SSLError: a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.trust_bundle)
    return context


class Identity(aiohttp.Fingerprint):
    """Makes aiohttp close a new connection before it sends anything, unless the peer has this identity.

    aiohttp offers the moment between handshake and request only to certificate fingerprints, so this is one:
    of the identity instead of the certificate, which is renewed every few hours.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(_digest([uri]))
        self.uri = uri

    def check(self, transport: asyncio.Transport) -> None:
        """Compare the peer's only URI name with the expected one.

        Raises:
            aiohttp.ServerFingerprintMismatch: another identity, several, none, or no TLS at all.
        """
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert() if tls is not None else None
        if uris(certificate) != [self.uri]:
            host, port, *_ = transport.get_extra_info("peername") or ("", 0)
            raise aiohttp.ServerFingerprintMismatch(
                _digest([self.uri]), _digest(uris(certificate)), host, port
            )


def uris(certificate: dict[str, Any] | None) -> list[str]:
    """URI subject alternative names of a certificate as `ssl` presents it."""
    names = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]


def _digest(names: list[str]) -> bytes:
    return hashlib.sha256("\n".join(names).encode()).digest()
