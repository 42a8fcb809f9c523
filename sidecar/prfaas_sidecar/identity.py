"""Who a peer is (the SPIFFE URI of its certificate) and whether a list lets it in."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SEGMENT = r"[A-Za-z0-9._-]{1,253}"
_URI = re.compile(
    rf"spiffe://(?P<trust_domain>[a-z0-9._-]{{1,255}})/region/(?P<region>{_SEGMENT})/ns/(?P<namespace>{_SEGMENT})"
    rf"/(?:pool/(?P<pool_kind>{_SEGMENT})/(?P<pool>{_SEGMENT})|gateway/(?P<gateway>{_SEGMENT}))"
)
_PATTERN_SEGMENT = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,253}")
MAX_URI_BYTES = 2048


class IdentityError(ValueError):
    """A certificate or a configuration names no usable identity."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One pool or one gateway of one region. ``pool_kind`` is empty for a gateway."""

    uri: str
    region: str
    namespace: str
    pool_kind: str
    name: str

    def __str__(self) -> str:
        return self.uri

    @property
    def trust_domain(self) -> str:
        """The part that all regions share."""
        return self.uri.removeprefix("spiffe://").partition("/")[0]


def parse(uri: str) -> Identity:
    """Read an identity URI (docs/contracts.md, "Words").

    Raises:
        IdentityError: it does not have the form of a pool's or a gateway's identity.
    """
    match = _URI.fullmatch(uri) if len(uri) <= MAX_URI_BYTES else None
    if match is None:
        raise IdentityError(
            f"{uri[:200]!r} is not spiffe://<trust-domain>/region/<r>/ns/<ns>/pool/<kind>/<name> "
            "or .../gateway/<name>"
        )
    return Identity(
        uri=uri,
        region=match["region"],
        namespace=match["namespace"],
        pool_kind=match["pool_kind"] or "",
        name=match["pool"] or match["gateway"],
    )


def of_certificate(certificate: Mapping[str, Any] | None) -> Identity:
    """Identity in a verified peer certificate, as `ssl.SSLSocket.getpeercert` returns it.

    Raises:
        IdentityError: no certificate, or not exactly one URI among its subject alternative names.
    """
    names = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1:
        raise IdentityError(
            f"a certificate needs exactly one URI subject alternative name, this one has {len(uris)}"
        )
    return parse(uris[0])


@dataclass(frozen=True, slots=True)
class Pattern:
    """An identity, or a glob over one: ``*`` and ``?`` never cross a ``/``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Check the form of a pattern.

        Raises:
            IdentityError: it could never match an identity.
        """
        scheme, separator, rest = text.partition("://")
        segments = rest.split("/")
        shape = [segments[1:2], segments[3:4], segments[5:6]]
        if (
            (scheme, separator) != ("spiffe", "://")
            or shape[:2] != [["region"], ["ns"]]
            or (shape[2], len(segments)) not in ((["pool"], 8), (["gateway"], 7))
            or not all(_PATTERN_SEGMENT.fullmatch(segment) for segment in segments)
        ):
            raise IdentityError(
                f"{text[:200]!r} is not an identity or a pattern such as spiffe://example/region/*/ns/*/pool/DecodePool/*"
            )
        return cls(text)

    def matches(self, identity: Identity) -> bool:
        """Whether every path segment of the identity matches the pattern's."""
        ours, theirs = self.text.split("/"), identity.uri.split("/")
        return len(ours) == len(theirs) and all(
            fnmatch.fnmatchcase(segment, glob) for glob, segment in zip(ours, theirs, strict=True)
        )


def authorised(identity: Identity, patterns: Iterable[Pattern]) -> bool:
    """Whether any pattern of a list matches."""
    return any(pattern.matches(identity) for pattern in patterns)
