"""Reads trust bundles."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from prfaas_operator.federation.regions import BundleFact
from prfaas_operator.runtime.certificates import authority_id

AUTHORITIES_MAX = 8


@lru_cache(maxsize=512)
def read_bundle(pem: str) -> BundleFact:
    """The authorities in a bundle, or why they cannot be used."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return BundleFact(error="holds something that is no certificate in PEM")
    if len(found) > AUTHORITIES_MAX:
        return BundleFact(error=f"holds {len(found)} certificates, and at most {AUTHORITIES_MAX} are read")
    for number, each in enumerate(found, start=1):
        if not _is_authority(each):
            return BundleFact(error=f"certificate {number} is not that of an authority (CA:TRUE)")
    return BundleFact(
        ids=tuple(authority_id(each.public_bytes(Encoding.PEM)) for each in found),
        ends_at=tuple(each.not_valid_after_utc for each in found),
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False
