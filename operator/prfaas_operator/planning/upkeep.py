"""The small children of a pool: certificate, list of peers, disruption budget."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from prfaas_operator.injection.settings import Settings
from prfaas_operator.planning.actions import Action, ApplyChild, DeleteChild, IssueCertificate
from prfaas_operator.planning.certificates import why_due
from prfaas_operator.planning.children import (
    budget,
    budget_is_wanted,
    certificate_request,
    child_if_different,
    peers,
    tls_secret_shell,
)
from prfaas_operator.planning.issuing import certificate_ready, unusable
from prfaas_operator.planning.peers import peers_text
from prfaas_operator.planning.values import ChildKind, ObservedPool


def pool_identity_of(pool: ObservedPool, settings: Settings) -> str:
    """The identity in the pool's certificate."""
    return settings.identity_of(pool.key.kind, pool.key.namespace, pool.key.name)


def certificate_action(
    pool: ObservedPool, settings: Settings, now: datetime
) -> IssueCertificate | ApplyChild | None:
    """Issue one when it is due, or keep up what asks cert-manager for one. While the region has no authority
    yet, nothing is.
    """
    identity = pool_identity_of(pool, settings)
    if pool.issuer is not None:
        manifest = certificate_request(pool, pool.issuer, identity)
        request = pool.request.child if pool.request is not None else None
        return child_if_different(pool, ChildKind.CERTIFICATE, manifest, "spec", request)
    if not pool.authority_id:
        return None
    why = why_due(pool.certificate, identity=identity, authority_id=pool.authority_id, now=now)
    if why is None:
        return None
    version = pool.certificate.resource_version if pool.certificate is not None else None
    return IssueCertificate(tls_secret_shell(pool), identity, version, why)


def no_certificate(pool: ObservedPool, settings: Settings) -> str:
    """Why no pod can be made for want of a certificate, "" when one can."""
    if pool.issuer is not None:
        identity = pool_identity_of(pool, settings)
        if not unusable(pool.certificate, identity):
            return ""
        return certificate_ready(pool.issuer, pool.request, pool.certificate, identity).message
    if not pool.authority_id and pool.certificate is None:
        return "The region's certificate authority (Secret prfaas-ca) is not there yet."
    return ""


def peers_action(pool: ObservedPool, settings: Settings) -> ApplyChild | None:
    """Bring peers.yaml up to date."""
    manifest = peers(pool, peers_text(pool, settings))
    return child_if_different(pool, ChildKind.CONFIG_MAP, manifest, "data", pool.peers)


def budget_action(pool: ObservedPool, desired: int, template_labels: Mapping[str, str]) -> Action | None:
    """Make, correct or remove the disruption budget."""
    if budget_is_wanted(pool, desired, template_labels):
        return child_if_different(pool, ChildKind.BUDGET, budget(pool), "spec", pool.budget)
    if pool.budget is None:
        return None
    why = "one instance needs none" if desired <= 1 else "a budget of the user's selects these pods"
    return DeleteChild(ChildKind.BUDGET, pool.budget.name, pool.budget.uid, pool.budget.resource_version, why)
