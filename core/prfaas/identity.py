"""SPIFFE identities of pools and gateways: the only URI SAN of a certificate (docs/contracts.md)."""

from __future__ import annotations

import re

from prfaas.api.keys import PoolKind

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]{1,253}")


def pool_identity(*, trust_domain: str, region: str, namespace: str, kind: PoolKind, name: str) -> str:
    """`spiffe://<trust-domain>/region/<region>/ns/<ns>/pool/<Kind>/<name>`.

    Raises:
        ValueError: a part holds a character that a SPIFFE identity cannot carry.
    """
    parts = {"region": region, "namespace": namespace, "kind": kind, "name": name}
    _check(trust_domain, parts)
    return f"spiffe://{trust_domain}/region/{region}/ns/{namespace}/pool/{kind}/{name}"


def gateway_identity(*, trust_domain: str, region: str, namespace: str, name: str) -> str:
    """`spiffe://<trust-domain>/region/<region>/ns/<ns>/gateway/<name>`.

    Raises:
        ValueError: a part holds a character that a SPIFFE identity cannot carry.
    """
    _check(trust_domain, {"region": region, "namespace": namespace, "name": name})
    return f"spiffe://{trust_domain}/region/{region}/ns/{namespace}/gateway/{name}"


def _check(trust_domain: str, parts: dict[str, str]) -> None:
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise ValueError(
            f"trust domain {trust_domain!r}: use lowercase letters, digits, dots, dashes and underscores only"
        )
    for what, value in parts.items():
        if not _SEGMENT.fullmatch(value) or set(value) == {"."}:
            raise ValueError(f"{what} {value!r}: use letters, digits, dots, dashes and underscores only")
