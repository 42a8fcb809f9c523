"""The certificates inside a cluster, made anew for each; they live as long as the cluster does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prfaas.certificate_builder import (
    BOTH_ENDS,
    CLIENT_ONLY,
    CLOCK_SKEW,
    KeyPair,
    certificate_pem,
    host,
    key_pem,
    self_signed_authority,
    signed_leaf,
)

_VALID = dt.timedelta(days=365)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `name.crt` and `name.key` (mode 0600); `folder` exists. Returns both paths."""
        certificate = folder / f"{name}.crt"
        certificate.write_bytes(self.certificate)
        return certificate, write_secret(folder / f"{name}.key", self.key)


class Authority:
    """A certificate authority. `restore` brings back one whose files were written before."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str) -> Authority:
        """A new self-signed one, which signs leaves and nothing else."""
        made = self_signed_authority(name, starts=_start(), valid=_VALID)
        return cls(made.certificate, made.key)

    @classmethod
    def restore(cls, pair: Pair) -> Authority:
        """The authority of a pair that `pair` returned.

        Raises:
            ValueError: the key isn't of the kind that `new` makes, or the PEM is broken.
        """
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an elliptic curve key")  # noqa: TRY004 -- as documented
        return cls(x509.load_pem_x509_certificate(pair.certificate), key)

    @property
    def pem(self) -> bytes:
        """Its own certificate, as a trust bundle."""
        return certificate_pem(self._certificate)

    @property
    def pair(self) -> Pair:
        return Pair(self.pem, key_pem(self._key))

    def server(self, common_name: str, hosts: Sequence[str], groups: Sequence[str] = ()) -> Pair:
        """A certificate for a server at these names and addresses, which may call other servers too."""
        return self._leaf(common_name, groups, hosts)

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A certificate by which the API server knows a user and the groups it is in."""
        return self._leaf(user, groups, ())

    def _leaf(self, common_name: str, groups: Sequence[str], hosts: Sequence[str]) -> Pair:
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        start = _start()
        leaf = signed_leaf(
            KeyPair(self._certificate, self._key),
            starts=start,
            ends=start + _VALID,
            subject=subject,
            names=[host(each) for each in hosts],
            usages=BOTH_ENDS if hosts else CLIENT_ONLY,
        )
        return Pair(leaf.certificate_pem, leaf.key_pem)


def signing_key() -> bytes:
    """A key by which an API server signs the tokens of ServiceAccounts, PEM.

    In the older form: from it the server reads the public key too.
    """
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        _PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def write_secret(path: Path, content: bytes) -> Path:
    """Write a file that only its owner may read, at no moment more open than that."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def _start() -> dt.datetime:
    return dt.datetime.now(dt.UTC) - CLOCK_SKEW
