"""When a pool's certificate is due."""

from __future__ import annotations

from datetime import datetime, timedelta

from prfaas_operator.planning.values import ObservedCertificate

# Two thirds of the life are used; the last third is for an authority, an operator or a kubelet that is late.
RENEW_NUMERATOR, RENEW_DENOMINATOR = 2, 3


def why_due(
    certificate: ObservedCertificate | None, *, identity: str, authority_id: str, now: datetime
) -> str | None:
    """Why a certificate is to be issued now, None when the one that is there stands."""
    if certificate is None:
        return "there was none"
    if certificate.not_before is None or certificate.not_after is None or not certificate.identity:
        return f"Secret {certificate.name} holds none that can be read"
    if certificate.identity != identity:
        return f"it names {certificate.identity} and has to name {identity}"
    if certificate.authority_id != authority_id:
        return "it is of another authority"
    due = due_at(certificate.not_before, certificate.not_after)
    if now >= due:
        return f"two thirds of its life are over; it ends at {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}"
    return None


def due_at(not_before: datetime, not_after: datetime) -> datetime:
    """When a certificate with this life is renewed."""
    life: timedelta = not_after - not_before
    return not_before + life * RENEW_NUMERATOR / RENEW_DENOMINATOR


def seconds_until_due(certificate: ObservedCertificate | None, now: datetime) -> float | None:
    """When to look again, None when nothing is known to wait for."""
    if certificate is None or certificate.not_before is None or certificate.not_after is None:
        return None
    return max(0.0, (due_at(certificate.not_before, certificate.not_after) - now).total_seconds())
