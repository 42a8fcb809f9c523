"""Certificates of the project's authorities and of those they vouch for: the one place where they are shaped.

P-256 keys, SHA-256. Needs `cryptography`, which the extras of the parts bring that make certificates.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clocks of nodes may be that far behind.
CLOCK_SKEW = timedelta(minutes=5)
NOBODY = x509.Name([])
BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
CLIENT_ONLY = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return certificate_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


def self_signed_authority(name: str, *, starts: datetime, valid: timedelta) -> KeyPair:
    """An authority that can sign leaves and nothing else. `name` is cut to the 64 characters of a CN."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = common_name(name)
    certificate = (
        _builder(subject, subject, key, starts, starts + valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate, key)


def signed_leaf(
    authority: KeyPair,
    *,
    starts: datetime,
    ends: datetime,
    subject: x509.Name = NOBODY,
    names: Sequence[x509.GeneralName] = (),
    usages: Sequence[x509.ObjectIdentifier] = BOTH_ENDS,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> KeyPair:
    """A new key with a certificate by `authority`.

    Args:
        names: subject alternative names; critical where nothing else names the subject, as RFC 5280 asks.
        key: an existing key, instead of a new one.
    """
    own = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    builder = (
        _builder(subject, authority.certificate.subject, own, starts, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    if names:
        alternative = x509.SubjectAlternativeName(list(names))
        builder = builder.add_extension(alternative, critical=not list(subject))
    return KeyPair(builder.sign(authority.key, hashes.SHA256()), own)


def common_name(name: str) -> x509.Name:
    """A subject of one CN."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def host(text: str) -> x509.GeneralName:
    """A host name or an IP address."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, not encrypted: it is a Secret's or a file's with mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    starts: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        # Leaves sign handshakes; some verifiers want it of authorities too, and it harms none.
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
