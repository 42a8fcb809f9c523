"""Short-lived certificate authorities and leaf certificates for demonstrations and tests; not for production.

>>> authority = ca("demo CA")
>>> leaf = authority.leaf("spiffe://demo/region/a/ns/default/pool/PrefillPool/long", ["127.0.0.1"])
>>> files = leaf.write(folder, "a")
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from prfaas.certificate_builder import (
    CLOCK_SKEW,
    KeyPair,
    certificate_pem,
    host,
    self_signed_authority,
    signed_leaf,
    uri,
)

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
        return certificate_pem(self.certificate)

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
        start = valid_from or dt.datetime.now(dt.UTC) - CLOCK_SKEW
        leaf = signed_leaf(
            KeyPair(self.certificate, self.key),
            starts=start,
            ends=start + valid_for,
            names=[*map(uri, [uris] if isinstance(uris, str) else uris), *map(host, hosts)],
        )
        return Leaf(leaf.certificate_pem, leaf.key_pem, self.pem)


def ca(name: str = "prfaas test CA", *, valid_for: dt.timedelta = 7 * _DAY) -> Authority:
    """A new self-signed authority (P-256) that can sign leaves and nothing else."""
    made = self_signed_authority(name, starts=dt.datetime.now(dt.UTC) - CLOCK_SKEW, valid=valid_for)
    return Authority(made.certificate, made.key)
