"""Certificates that cert-manager issues: what it is asked for, and whether what came will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import ConditionStatus
from prfaas_operator.planning.values import Issuer, ObservedCertificate, ObservedRequest

API_VERSION = "cert-manager.io/v1"
NAME_ANNOTATION = "cert-manager.io/certificate-name"
"""On a Secret of cert-manager's: the Certificate that it belongs to."""


def certificate_spec(
    issuer: Issuer, *, secret_name: str, identity: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """`spec` of a Certificate like those that the operator issues itself.

    Args:
        labels: that the Secret is to bear.
    """
    return {
        "secretName": secret_name,
        "secretTemplate": {"labels": dict(labels)},
        "uris": [identity],
        "duration": _go_duration(issuer.valid_seconds),
        # The last third is for an issuer or a kubelet that is late.
        "renewBefore": _go_duration(issuer.valid_seconds // 3),
        "privateKey": {"algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always"},
        "usages": ["digital signature", "server auth", "client auth"],
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
    }


def unusable(certificate: ObservedCertificate | None, identity: str) -> str:
    """Why pods cannot live on what is in the Secret, "" when they can."""
    if certificate is None:
        return "there is no Secret yet"
    if not certificate.identity:
        return f"Secret {certificate.name} holds no certificate with just one URI"
    if certificate.identity != identity:
        return f"Secret {certificate.name} names {certificate.identity} and has to name {identity}"
    if not certificate.authority_id:
        return f"Secret {certificate.name} holds no ca.crt, by which others could be verified"
    return ""


def certificate_ready(
    issuer: Issuer,
    request: ObservedRequest | None,
    certificate: ObservedCertificate | None,
    identity: str,
) -> Finding:
    """CertificateReady of a pool."""
    type_ = ConditionType.CERTIFICATE_READY
    who = f"{issuer.kind} {issuer.name}"
    why = unusable(certificate, identity)
    if why and certificate is not None and request is not None and request.ready:
        text = f"{who} has signed, but {why}: use an issuer that keeps URIs and gives its authority."
        return Finding(type_, ConditionStatus.FALSE, Reason.CERTIFICATE_WRONG, text)
    if request is None or not request.ready:
        words = request.message if request is not None and request.message else "nothing was said of it yet"
        name = request.child.name if request is not None else "to be made"
        text = f"{who} has not issued Certificate {name}: {words} (kubectl describe certificate)."
        return Finding(type_, ConditionStatus.FALSE, Reason.CERTIFICATE_PENDING, text)
    if why:
        text = f"{who} has issued Certificate {request.child.name}, but {why}."
        return Finding(type_, ConditionStatus.FALSE, Reason.CERTIFICATE_PENDING, text)
    ends = certificate.not_after if certificate is not None else None
    until = f", valid until {ends:%Y-%m-%dT%H:%M:%SZ}" if ends is not None else ""
    return Finding(type_, ConditionStatus.TRUE, Reason.CERTIFICATE_ISSUED, f"It is issued by {who}{until}.")


def _go_duration(seconds: int) -> str:
    """As cert-manager writes durations back, so that what is stored equals what is wanted."""
    hours, rest = divmod(seconds, 3600)
    return f"{hours}h{rest // 60}m{rest % 60}s"
