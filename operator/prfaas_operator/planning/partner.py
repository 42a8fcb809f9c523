"""The pools at the other ends of a pool's routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from prfaas.api.conditions import ConditionType, find
from prfaas.api.keys import DECODE_POOL, PREFILL_POOL
from prfaas.api.v1alpha1 import ConditionStatus, PoolStatus, PrefillRouteSpec
from prfaas_operator.planning.values import PartnerPool, PoolKey


def keys_of_route(namespace: str, spec: PrefillRouteSpec) -> tuple[PoolKey, tuple[PoolKey, ...]]:
    """The decode pool and the prefill pools that a route names."""
    prefill = tuple(PoolKey(PREFILL_POOL, namespace, each.name) for each in spec.prefill_pool_refs)
    return PoolKey(DECODE_POOL, namespace, spec.decode_pool_ref.name), prefill


def partner_keys(routes: Iterable[tuple[str, PrefillRouteSpec]]) -> Mapping[PoolKey, frozenset[PoolKey]]:
    """For each pool that a route names, the pools at the other ends. `routes` are (namespace, spec)."""
    ends: dict[PoolKey, set[PoolKey]] = {}
    for namespace, spec in routes:
        decode, prefill = keys_of_route(namespace, spec)
        for key in prefill:
            ends.setdefault(decode, set()).add(key)
            ends.setdefault(key, set()).add(decode)
    return {key: frozenset(others) for key, others in ends.items()}


def summarise(
    key: PoolKey,
    *,
    identity: str,
    generation: int,
    status: PoolStatus,
    deleted: bool = False,
    regions: tuple[str, ...] = (),
    remote_identities: tuple[str, ...] = (),
    here: bool = True,
) -> PartnerPool:
    """A partner by its status.

    One that is being deleted rolls no more, whatever it says: nobody writes its status any longer, and its
    end may take hours. One that lags behind its spec counts as rolling with nothing done yet: it may be about
    to, and waiting a moment for it costs less than leaving one generation of KV without its other side.
    Nobody waits for one that other clusters run.
    """
    still = PartnerPool(
        key,
        identity,
        rolling=False,
        stalled=False,
        desired=0,
        new_ready=0,
        regions=regions,
        remote_identities=remote_identities,
        here=here,
    )
    if deleted or not here:
        return still
    if status.observed_generation != generation:
        return replace(still, rolling=True, desired=status.desired_replicas)
    stalled = find(status.conditions, ConditionType.STALLED)
    newest = next((each for each in status.revisions if each.name == status.update_revision), None)
    return replace(
        still,
        rolling=any(each.replicas for each in status.revisions if each.name != status.update_revision),
        stalled=stalled is not None and stalled.status is ConditionStatus.TRUE,
        desired=status.desired_replicas,
        new_ready=newest.ready if newest is not None else 0,
    )
