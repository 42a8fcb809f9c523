"""The project's planning, as the runtime asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prfaas.api.snapshot import Snapshot
from prfaas.api.v1alpha1 import PoolPlacement, PoolSpec
from prfaas.identity import gateway_identity, pool_identity
from prfaas_operator.injection import Settings
from prfaas_operator.planning import failure, partner, references
from prfaas_operator.planning.actions import FailedAction, Plan
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.pods import is_alive
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.revision import Injection
from prfaas_operator.planning.route import plan_route
from prfaas_operator.planning.snapshot import SnapshotPool, SnapshotRoute, snapshot
from prfaas_operator.planning.values import (
    ObservedPool,
    ObservedRoute,
    PartnerPool,
    Reference,
    RoutedPool,
)


class Planning:
    """A `Planner`.

    Args:
        gateway_namespace: where the gateways run.
        gateway_name: the last part of their identity.
    """

    def __init__(self, settings: Settings, *, gateway_namespace: str, gateway_name: str) -> None:
        self._settings = settings
        self._injection = Injection(settings)
        self._gateway = gateway_identity(
            trust_domain=settings.trust_domain,
            region=settings.region,
            namespace=gateway_namespace,
            name=gateway_name,
        )

    def references(self, pool: ObservedPool) -> tuple[Reference, ...]:
        return references.wanted(pool.spec) if isinstance(pool.spec, PoolSpec) else ()

    def partner(self, pool: ObservedPool) -> PartnerPool:
        placement = _placement(pool)
        return partner.summarise(
            pool.key,
            identity=self._settings.identity_of(pool.key.kind, pool.key.namespace, pool.key.name),
            generation=pool.generation,
            status=pool.status,
            deleted=pool.deleted,
            regions=pool.geography.regions_of(placement),
            remote_identities=tuple(
                pool_identity(
                    trust_domain=self._settings.trust_domain,
                    region=region,
                    namespace=pool.key.namespace,
                    kind=pool.key.kind,
                    name=pool.key.name,
                )
                for region in pool.geography.others_of(placement)
            ),
            here=pool.geography.is_here(placement),
        )

    def routed(self, pool: ObservedPool) -> RoutedPool:
        usable = [pod for pod in pool.pods if pod.ready and is_alive(pod) and pod.drain_since is None]
        reports = pool.reports or {}
        told = [reports[pod.name] for pod in usable if pod.name in reports]
        placement = _placement(pool)
        return RoutedPool(
            key=pool.key,
            model=pool.spec.model.name if isinstance(pool.spec, PoolSpec) else None,
            ready_pods=len(usable),
            fingerprints=Counter(each.fingerprint for each in told if each.fingerprint is not None),
            fingerprint_fields={
                each.fingerprint: each.fingerprint_fields
                for each in told
                if each.fingerprint is not None and each.fingerprint_fields is not None
            },
            here=pool.geography.is_here(placement),
            others=pool.geography.others_of(placement),
            unknown=pool.geography.unknown_clusters(placement),
        )

    def pool(self, pool: ObservedPool, now: datetime) -> Plan[Any]:
        return plan_pool(pool, self._settings, now, self._injection)

    def route(self, route: ObservedRoute, now: datetime) -> Plan[Any]:
        return plan_route(route, now)

    def after_failure(
        self, plan: Plan[Any], pool: ObservedPool, failed: FailedAction, now: datetime
    ) -> Plan[Any]:
        return failure.fold(plan, pool, failed, now)

    def snapshot(
        self,
        pools: Iterable[SnapshotPool],
        routes: Iterable[SnapshotRoute],
        now: datetime,
        geography: Geography,
    ) -> Snapshot:
        return snapshot(pools, routes, self._settings, now, geography)

    def gateway_identity(self) -> str:
        return self._gateway


def _placement(pool: ObservedPool) -> PoolPlacement | None:
    return pool.spec.placement if pool.spec is not None else None
