"""One pass over one key: observe, plan, carry out, write the status once, then tell of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import BY_KIND
from prfaas_operator.planning.actions import Action, FailedAction, MarkPods, Plan
from prfaas_operator.planning.progress import BUSY_KEYS, patience_seconds
from prfaas_operator.planning.values import (
    ObservedPool,
    ObservedRoute,
    PartnerPool,
    PoolKey,
    RoutedPool,
    RouteKey,
)
from prfaas_operator.runtime.events import EventWriter, Regarding
from prfaas_operator.runtime.executor import Executor
from prfaas_operator.runtime.fence import WritingStopped
from prfaas_operator.runtime.fleet import FLEET, Fleet, FleetKey
from prfaas_operator.runtime.observer import Observer
from prfaas_operator.runtime.planner import Planner
from prfaas_operator.runtime.queue import RetryLater
from prfaas_operator.runtime.references import MISSING_SECONDS
from prfaas_operator.runtime.status_writer import write_status
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)
# One JSON line for each pass that changed something.
decisions = logging.getLogger("prfaas_operator.decisions")

Key = PoolKey | RouteKey | FleetKey


@dataclass(frozen=True, slots=True)
class _Seen:
    """What others see of a pool; when it changes, they are looked at again."""

    partner: PartnerPool
    routed: RoutedPool
    uid: str
    spec_generation: int


class Reconciler:
    """Passes over pools, routes and the fleet as a whole.

    Args:
        enqueue: has another key looked at.
        backlog: how many keys wait for their pass.
    """

    def __init__(
        self,
        api: KubeApi,
        store: Store,
        *,
        planner: Planner,
        observer: Observer,
        executor: Executor,
        events: EventWriter,
        fleet: Fleet,
        enqueue: Callable[[Key], None],
        backlog: Callable[[], int],
        resync_seconds: float,
    ) -> None:
        self._api = api
        self._store = store
        self._planner = planner
        self._observer = observer
        self._executor = executor
        self._events = events
        self._fleet = fleet
        self._enqueue = enqueue
        self._backlog = backlog
        self._resync_seconds = resync_seconds
        self._seen: dict[PoolKey, _Seen] = {}
        # Until when a status waits to be written, by the loop's clock.
        self._untold: dict[PoolKey | RouteKey, float] = {}

    async def __call__(self, key: Key) -> float | None:
        """One pass; when to look again, or None when the object is gone.

        Raises:
            RetryLater: something failed that may succeed later.
        """
        try:
            match key:
                case PoolKey():
                    return await self._pool(key)
                case RouteKey():
                    return await self._route(key)
                case FleetKey():
                    return await self._fleet.pass_(self._resync_seconds)
        except errors.NotFound as error:
            # It went during the pass; what was made is cleaned up by its owner references.
            raise RetryLater(str(error)) from error
        except errors.KubeError as error:
            raise RetryLater(str(error), error.retry_after_seconds or 0.0) from error
        except WritingStopped as error:
            raise RetryLater(str(error), self._resync_seconds) from error

    async def _pool(self, key: PoolKey) -> float | None:
        observed = await self._observer.pool(key)
        if observed is None:
            self._forget(key)
            return None
        self._tell_others(observed)
        plan = self._planner.pool(observed, datetime.now(UTC))
        seconds = await self._carry_out(key.kind, observed, plan)
        missing = len(self._planner.references(observed)) - len(observed.found)
        # Nobody tells when what the pool names comes into being.
        return min(seconds, MISSING_SECONDS) if missing > 0 else seconds

    async def _route(self, key: RouteKey) -> float | None:
        observed = self._observer.route(key)
        if observed is None:
            self._untold.pop(key, None)
            self._enqueue(FLEET)
            return None
        plan = self._planner.route(observed, datetime.now(UTC))
        return await self._carry_out(keys.PREFILL_ROUTE, observed, plan)

    async def _carry_out(self, kind: str, observed: ObservedPool | ObservedRoute, plan: Plan[Any]) -> float:
        """Actions, then the status, then events.

        Raises:
            RetryLater: an action failed, and may succeed later.
        """
        namespace, name = observed.key.namespace, observed.key.name
        actions = plan.actions
        failure = await self._executor.run(namespace, actions)
        if failure is not None and isinstance(observed, ObservedPool):
            plan = self._planner.after_failure(plan, observed, failure, datetime.now(UTC))
        wait_seconds = 0.0 if failure is not None else self._may_wait_seconds(observed, plan)
        if wait_seconds > 0:
            if actions:
                _log_decision(kind, observed, actions, plan, None, wrote_status=False)
            return min(wait_seconds, plan.requeue_after_seconds or wait_seconds)
        wrote_status = await self._write_status(kind, observed, plan)
        if plan.events:
            regarding = Regarding(
                keys.API_VERSION, kind, namespace, name, observed.uid, observed.resource_version
            )
            await self._events.write(regarding, plan.events)
        if actions or wrote_status or failure is not None:
            _log_decision(kind, observed, actions, plan, failure, wrote_status=wrote_status)
        if failure is not None:
            if failure.retryable:
                raise RetryLater(f"{_short(failure.action)}: {failure.message}")
            return plan.requeue_after_seconds or self._resync_seconds
        return min(plan.requeue_after_seconds or self._resync_seconds, self._resync_seconds)

    def _may_wait_seconds(self, observed: ObservedPool | ObservedRoute, plan: Plan[Any]) -> float:
        """How long the status may still wait for more to tell; 0: it is to be written now.

        The patience of the first pass that waits counts: a backlog that has gone by then has left its pods to
        become ready, which is the news to wait for.
        """
        key = observed.key
        backlog = BUSY_KEYS if key in self._untold else self._backlog()
        patience = patience_seconds(observed.status, plan, backlog)
        now = asyncio.get_running_loop().time()
        left = 0.0 if patience <= 0 else self._untold.setdefault(key, now + patience) - now
        if left <= 0:
            self._untold.pop(key, None)
        return max(0.0, left)

    async def _write_status(self, kind: str, observed: ObservedPool | ObservedRoute, plan: Plan[Any]) -> bool:
        collection = self._store.custom(kind)
        fact = collection.get(observed.key.namespace, observed.key.name)
        if plan.status is None or fact is None or fact.uid != observed.uid:
            return False
        after = await write_status(self._api, BY_KIND[kind], fact, plan.status.to_api())
        if after is None:
            return False
        collection.put(after)
        return True

    def _tell_others(self, observed: ObservedPool) -> None:
        """Have those looked at who see something of this pool that has changed."""
        seen = _Seen(
            self._planner.partner(observed),
            self._planner.routed(observed),
            observed.uid,
            observed.generation,
        )
        before = self._seen.get(observed.key)
        if before == seen:
            return
        self._seen[observed.key] = seen
        self._enqueue_others(observed.key)
        if not self._fleet.has_told(observed.key, seen.uid, seen.spec_generation):
            self._enqueue(FLEET)

    def _forget(self, key: PoolKey) -> None:
        self._untold.pop(key, None)
        if self._seen.pop(key, None) is not None:
            self._enqueue_others(key)
            self._enqueue(FLEET)

    def _enqueue_others(self, key: PoolKey) -> None:
        for route in self._store.routes_of(key):
            self._enqueue(RouteKey(route.namespace, route.name))
        for partner in self._observer.partners(key):
            self._enqueue(partner)


def _log_decision(
    kind: str,
    observed: ObservedPool | ObservedRoute,
    actions: tuple[Action, ...],
    plan: Plan[Any],
    failure: FailedAction | None,
    *,
    wrote_status: bool,
) -> None:
    """What was decided and done, as one line of JSON, without the content of any object."""
    line = {
        "kind": kind,
        "namespace": observed.key.namespace,
        "name": observed.key.name,
        "generation": observed.generation,
        "resource_version": observed.resource_version,
        "actions": [_short(action) for action in actions],
        "why": [action.why for action in actions],
        "events": [event.reason for event in plan.events],
        "status_written": wrote_status,
        "failed": None
        if failure is None
        else {"action": _short(failure.action), "code": failure.code, "retryable": failure.retryable},
        "requeue_after_seconds": plan.requeue_after_seconds,
    }
    decisions.info("%s", json.dumps(line, separators=(",", ":")))


def _short(action: Action) -> str:
    if isinstance(action, MarkPods):
        return f"MarkPods {len(action.marks)}"
    name = getattr(action, "name", None) or str(getattr(action, "key", ""))
    kind = getattr(action, "kind", "")
    replicas = f" to {action.replicas}" if hasattr(action, "replicas") else ""
    return f"{type(action).__name__} {kind} {name}{replicas}".replace("  ", " ")
