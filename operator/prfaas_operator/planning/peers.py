"""Who a pool's sidecars may talk to: peers.yaml, made from the routes."""

from __future__ import annotations

import yaml

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas_operator.injection.settings import Settings
from prfaas_operator.planning.values import ObservedPool


def peers_text(pool: ObservedPool, settings: Settings) -> str:
    """The file's text.

    Consumers pull: a prefill pool accepts its decode pools, and a decode pool dials its prefill pools.
    """
    partners = sorted({each.identity for each in pool.partners if each.key.kind != pool.key.kind})
    accept = partners if pool.key.kind == PREFILL_POOL else []
    dial = (
        [{"identity": identity, "addresses": list(settings.prefill_addresses)} for identity in partners]
        if pool.key.kind == DECODE_POOL
        else []
    )
    document = {"accept": accept, "dial": dial, "gateways": sorted(settings.gateway_patterns())}
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text
