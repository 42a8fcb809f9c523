"""Who a pool's sidecars may talk to: peers.yaml, made from the routes."""

from __future__ import annotations

from typing import Any

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas_operator.injection.settings import Settings
from prfaas_operator.injection.yaml_text import yaml_text
from prfaas_operator.planning.values import ObservedPool

ANYWHERE = ("0.0.0.0/0:*", "[::/0]:*")
"""Where pools of other regions may be dialled: nodes and proxies have addresses that nobody here knows. Who
answers has to prove its identity by TLS."""


def peers_text(pool: ObservedPool, settings: Settings) -> str:
    """The file's text.

    Consumers pull: a prefill pool accepts its decode pools, and a decode pool dials its prefill pools.
    """
    others = [each for each in pool.partners if each.key.kind != pool.key.kind]
    here = {each.identity for each in others if each.here}
    partners = sorted(here | {identity for each in others for identity in each.remote_identities})
    accept = partners if pool.key.kind == PREFILL_POOL else []
    dial = (
        [{"identity": identity, "addresses": _addresses(identity, here, settings)} for identity in partners]
        if pool.key.kind == DECODE_POOL
        else []
    )
    document: dict[str, Any] = {
        "accept": accept,
        "dial": dial,
        "gateways": sorted(settings.gateway_patterns()),
    }
    regions = {region for each in others for region in each.regions} - {pool.geography.region}
    own = pool.geography.regions.get(pool.geography.region) if pool.issuer is not None else None
    if regions or (own is not None and own.trust):
        # A region without a bundle is left out, and so unknown to the sidecar, which says that.
        trust = pool.geography.trust_of(regions)
        if own is not None and own.trust:
            # cert-manager's Secrets name one authority, and while that is replaced two are in use.
            trust = {**trust, own.name: own.trust}
        document["regions"] = {name: {"trust": trust[name]} for name in sorted(trust)}
    return yaml_text(document)


def _addresses(identity: str, here: set[str], settings: Settings) -> list[str]:
    return list(settings.prefill_addresses if identity in here else ANYWHERE)
