"""The region's authority and the certificates that it signs. Keys exist in Secrets and in memory, and in no
log.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prfaas.certificate_builder import (
    CLOCK_SKEW,
    KeyPair,
    certificate_pem,
    key_pem,
    self_signed_authority,
    signed_leaf,
    uri,
)

AUTHORITY_VALID = timedelta(days=3650)
# Each pass over a pool reads its certificate again.
REMEMBERED = 2048
CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
# While an authority is replaced: the one that is to sign next, and the one that signed before.
NEXT_CERTIFICATE, NEXT_KEY, PREVIOUS_CERTIFICATE = "next.crt", "next.key", "previous.crt"
AUTHORITIES_MAX = 8


class AuthorityUnusable(Exception):  # noqa: N818 - says what is the matter
    """The Secret of the authority does not hold one; it is never replaced, so somebody has to look."""


@dataclass(frozen=True, slots=True)
class Described:
    """What can be read from a certificate without its key."""

    identity: str
    not_before: datetime | None
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class Authority:
    """The region's certificate authority.

    Attributes:
        others: what the region trusts for itself beside it: the other one of a rotation, or what somebody put
            into `ca.crt`.
        kept: the rest of the Secret's data, of a rotation (base64).
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    others: tuple[x509.Certificate, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return certificate_pem(self.certificate)

    @property
    def bundle(self) -> bytes:
        """All that the region trusts for itself, itself first."""
        return b"".join(map(certificate_pem, (self.certificate, *self.others)))

    @property
    def id(self) -> str:
        """Changes with what signs and with what is trusted: certificates of another are due."""
        return authority_id(self.bundle)

    @property
    def signing_id(self) -> str:
        """SHA-256 of its own certificate."""
        return authority_id(self.pem)

    @property
    def ends_at(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def data(self) -> dict[str, str]:
        """Itself, as the data of a Secret (base64)."""
        return {
            **dict(self.kept),
            CERTIFICATE: _base64(self.pem),
            KEY: _base64(key_pem(self.key)),
            AUTHORITY: _base64(self.bundle),
        }

    def issue(self, identity: str, *, valid: timedelta, now: datetime) -> dict[str, str]:
        """A new key and a certificate for both ends of TLS, as the data of a Secret (base64)."""
        leaf = signed_leaf(
            KeyPair(self.certificate, self.key),
            starts=now - CLOCK_SKEW,
            ends=min(now + valid, self.certificate.not_valid_after_utc),
            names=(uri(identity),),
        )
        return {
            CERTIFICATE: _base64(leaf.certificate_pem),
            KEY: _base64(leaf.key_pem),
            AUTHORITY: _base64(self.bundle),
        }


def new_authority(region: str, *, now: datetime) -> dict[str, str]:
    """A self-signed authority that can sign leaves and nothing else, as the data of a Secret (base64)."""
    made = self_signed_authority(
        f"prfaas region {region}", starts=now - CLOCK_SKEW, valid=AUTHORITY_VALID + CLOCK_SKEW
    )
    pem = _base64(made.certificate_pem)
    return {CERTIFICATE: pem, KEY: _base64(made.key_pem), AUTHORITY: pem}


def load_authority(data: Mapping[str, str], *, source: str) -> Authority:
    """The authority in a Secret's data.

    Raises:
        AuthorityUnusable: there is none in it, or certificate and key do not fit.
    """
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data[CERTIFICATE]))
        key = serialization.load_pem_private_key(base64.b64decode(data[KEY]), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityUnusable(f"{source}: {KEY} must be an elliptic-curve key")
        if certificate.public_key() != key.public_key():
            raise AuthorityUnusable(f"{source}: {CERTIFICATE} and {KEY} do not belong together")
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise AuthorityUnusable(f"{source}: {CERTIFICATE} is not that of an authority (CA:TRUE)")
    except (KeyError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise AuthorityUnusable(
            f"{source}: must hold {CERTIFICATE} and {KEY} of an authority: {type(error).__name__} {error}"
        ) from error
    kept = tuple(
        (name, data[name]) for name in (NEXT_CERTIFICATE, NEXT_KEY, PREVIOUS_CERTIFICATE) if name in data
    )
    return Authority(certificate, key, _others(data.get(AUTHORITY), certificate, source), kept)


def _others(encoded: str | None, own: x509.Certificate, source: str) -> tuple[x509.Certificate, ...]:
    if not encoded:
        return ()
    try:
        found = x509.load_pem_x509_certificates(base64.b64decode(encoded))
    except ValueError as error:
        raise AuthorityUnusable(f"{source}: {AUTHORITY} holds something that is no certificate") from error
    if len(found) > AUTHORITIES_MAX:
        raise AuthorityUnusable(f"{source}: {AUTHORITY} holds more than {AUTHORITIES_MAX} certificates")
    return tuple(dict.fromkeys(each for each in found if each != own))


@lru_cache(maxsize=REMEMBERED)
def describe(pem: bytes) -> Described:
    """What a certificate says; an empty identity when it is none, or has not just one URI."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return Described("", None, None)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Described(
        uris[0] if len(uris) == 1 else "", certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


@lru_cache(maxsize=16)
def authority_id(bundle: bytes) -> str:
    """SHA-256 (hexadecimal) over the certificates of a bundle in DER, "" when it holds none."""
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return ""
    digest = hashlib.sha256()
    for certificate in found:
        digest.update(certificate.public_bytes(serialization.Encoding.DER))
    return digest.hexdigest()


def now_utc() -> datetime:
    return datetime.now(UTC)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
