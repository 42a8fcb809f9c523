"""What the runtime asks of planning, in one place: the seam at which tests put another."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

from prfaas.api.snapshot import Snapshot
from prfaas_operator.planning.actions import FailedAction, Plan
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.snapshot import SnapshotPool, SnapshotRoute
from prfaas_operator.planning.values import (
    ObservedPool,
    ObservedRoute,
    PartnerPool,
    Reference,
    RoutedPool,
)


class Planner(Protocol):
    """Decisions on values."""

    def references(self, pool: ObservedPool) -> tuple[Reference, ...]:
        """What a pool's spec names and the runtime is to look up."""

    def partner(self, pool: ObservedPool) -> PartnerPool:
        """The pool as those at the other ends of its routes see it."""

    def routed(self, pool: ObservedPool) -> RoutedPool:
        """The pool as its routes see it."""

    def pool(self, pool: ObservedPool, now: datetime) -> Plan[Any]: ...

    def route(self, route: ObservedRoute, now: datetime) -> Plan[Any]: ...

    def after_failure(
        self, plan: Plan[Any], pool: ObservedPool, failed: FailedAction, now: datetime
    ) -> Plan[Any]:
        """The plan whose status and events are to be written when an action failed."""

    def snapshot(
        self,
        pools: Iterable[SnapshotPool],
        routes: Iterable[SnapshotRoute],
        now: datetime,
        geography: Geography,
    ) -> Snapshot: ...

    def gateway_identity(self) -> str: ...
