"""Short-lived certificate authorities and leaf certificates for demonstrations and tests; not for production.

>>> authority = ca("demo CA")
>>> leaf = authority.leaf("spiffe://demo/region/a/ns/default/pool/PrefillPool/long", ["127.0.0.1"])
>>> files = leaf.write(folder, "a")
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CLOCK_SKEW = dt.timedelta(minutes=5)
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a leaf certificate, its key and the authority that signed it were written (PEM)."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate with its key and its authority, all PEM."""

    certificate_pem: bytes
    key_pem: bytes
    ca_pem: bytes

    def write(self, folder: Path, name: str) -> Files:
        """Write ``name.crt``, ``name.key`` (mode 0600) and ``name-ca.crt``; ``folder`` is made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        files = Files(folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}-ca.crt")
        files.certificate.write_bytes(self.certificate_pem)
        files.key.touch(mode=0o600)
        files.key.write_bytes(self.key_pem)
        files.ca.write_bytes(self.ca_pem)
        return files


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The authority's own certificate, as a trust bundle."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def leaf(
        self,
        uris: str | Iterable[str],
        hosts: Iterable[str] = ("127.0.0.1", "::1", "localhost"),
        *,
        valid_from: dt.datetime | None = None,
        valid_for: dt.timedelta = _DAY,
    ) -> Leaf:
        """Sign a certificate for both TLS client and server use.

        Args:
            uris: URI subject alternative names: one SPIFFE identity, or several to make a bad certificate.
            hosts: names and IP addresses that the certificate is also good for.
            valid_from: start of validity; five minutes ago by default.
            valid_for: length of validity; with an early ``valid_from`` it makes an expired certificate.
        """
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in ([uris] if isinstance(uris, str) else uris)
        ]
        names += [_host(host) for host in hosts]
        key = ec.generate_private_key(ec.SECP256R1())
        start = valid_from or dt.datetime.now(dt.UTC) - _CLOCK_SKEW
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return Leaf(
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            ca_pem=self.pem,
        )


def ca(name: str = "prfaas test CA", *, valid_for: dt.timedelta = 7 * _DAY) -> Authority:
    """A new self-signed authority (P-256) that can sign leaves and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) - _CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + valid_for)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
