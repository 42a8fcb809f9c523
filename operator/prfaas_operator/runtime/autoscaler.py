"""Once per interval: gather what pools in mode Managed have to do, decide for all of them, tell the passes.

The decision itself is `prfaas.autoscaling.decide`. What it says of a pool goes into the pool's next pass,
which writes `/scale`, status and Event as for everything else. While nothing is managed nothing is asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import aiohttp

from prfaas.api import keys
from prfaas.api.v1alpha1 import ScalingMode
from prfaas.autoscaling import (
    Decision,
    LinkObservation,
    Observation,
    Quota,
    Settings,
    State,
    decide,
)
from prfaas.capacity import InvalidInputError
from prfaas.kube.api import KubeApi
from prfaas_operator.config import Autoscaling
from prfaas_operator.planning.autoscale.observe import route_observations, settings_of
from prfaas_operator.planning.autoscale.paths import merged
from prfaas_operator.planning.autoscale.verdict import ScalingVerdict, renewed, verdict_of
from prfaas_operator.planning.values import ObservedPool, PoolKey
from prfaas_operator.runtime.gateway_demand import GatewayDemand
from prfaas_operator.runtime.link_measurements import LinkMeasurements
from prfaas_operator.runtime.metrics import Metrics
from prfaas_operator.runtime.observer import Observer
from prfaas_operator.runtime.path_uses import PathUses
from prfaas_operator.runtime.price_signals import PriceSignals
from prfaas_operator.runtime.scaling_sight import Seen, Sight
from prfaas_operator.runtime.sidecar_loads import ASK_SECONDS, SidecarLoads
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)
decisions = logging.getLogger("prfaas_operator.decisions")


class Autoscaler:
    """Decides while this replica leads.

    Args:
        enqueue: has a pool looked at.
        wall: seconds since the epoch.

    Attributes:
        verdicts: what passes over pools go by.
    """

    def __init__(
        self,
        config: Autoscaling,
        api: KubeApi,
        store: Store,
        observer: Observer,
        *,
        namespace: str,
        metrics: Metrics,
        enqueue: Callable[[PoolKey], None],
        clock: Callable[[], float],
        report_port: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._observer = observer
        self._metrics = metrics
        self._enqueue = enqueue
        self._clock = clock
        self._wall = wall
        self._links = LinkMeasurements(api, clock=clock)
        self._paths = PathUses()
        self._loads = SidecarLoads(
            clock=wall, count=lambda outcome: metrics.load_reports.labels(outcome).inc(), port=report_port
        )
        self._gateways = GatewayDemand(api, namespace=namespace, clock=clock)
        self._signals = PriceSignals(
            config.signals, clock=clock, count=lambda outcome: metrics.price_signals.labels(outcome).inc()
        )
        self._state = State()
        self._sight = Sight(store)
        self._modes: dict[str, tuple[int, bool]] = {}
        self.verdicts: dict[PoolKey, ScalingVerdict] = {}

    async def run(self) -> None:
        """Decide once per interval, until cancelled. A defect costs a round: sizes stay as they are."""
        limits = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=limits, trust_env=False) as session:
            while True:
                begun = self._clock()
                round_ = asyncio.create_task(self.round(session), name="autoscaler round")
                try:
                    done, _ = await asyncio.wait({round_}, timeout=self._config.round_seconds)
                finally:
                    round_.cancel()
                if not done:
                    await asyncio.wait({round_})
                    self._metrics.scaling_rounds.labels("timeout").inc()
                    logger.error("deciding on sizes took longer than %g s", self._config.round_seconds)
                elif (error := round_.exception()) is not None:
                    self._metrics.scaling_rounds.labels("error").inc()
                    logger.error("deciding on sizes failed by a defect; sizes stay", exc_info=error)
                else:
                    self._metrics.scaling_rounds.labels("ok").inc()
                await asyncio.sleep(max(0.1, self._config.interval_seconds - (self._clock() - begun)))

    async def round(self, session: aiohttp.ClientSession) -> Decision | None:
        """One decision; None when there was nothing to decide, or what was seen makes no sense."""
        managed = {key for key in self._store.pool_keys() if self._has_mode_managed(key)}
        self._forget(managed)
        if not managed:
            return None
        pools = self._related(managed)
        facts = [pod for key in pools for pod in self._store.pods.of_pool(key)]
        self._sight.forget_all_but(set(pools))
        told = await self._loads.ask(session, facts)
        demand = await self._gateways.ask(session)
        await self._signals.refresh(session)

        now = datetime.fromtimestamp(self._wall(), UTC)
        lengths = self._sight.lengths(demand)
        seen = {
            key: found
            for key, pool in pools.items()
            if (found := self._sight.see(key, pool, told, demand, lengths, now)) is not None
        }
        regions = {each.region for found in seen.values() for each in found.observed}
        links = await self._links.ask() if len(regions) > 1 else ()
        uses = self._paths.take(told.values(), self._clock())
        links = merged(links, uses, self._observer.geography.region)
        try:
            observation, settings = self._question(seen, links, now)
            begun = self._clock()
            # A plan of many pools takes seconds, in which leases and watches must not wait.
            decision = await asyncio.to_thread(
                partial(
                    decide,
                    observation,
                    settings,
                    self._state,
                    now.timestamp(),
                    elapsed_seconds=lambda: self._clock() - begun,
                )
            )
        except InvalidInputError as error:
            logger.warning("no sizes can be decided on, they stay: %s", error)
            return None
        self._state = decision.state
        self._tell(decision, seen, now)
        return decision

    # --- what is looked at

    def _has_mode_managed(self, key: PoolKey) -> bool:
        fact = self._store.custom(key.kind).get(key.namespace, key.name)
        if fact is None or fact.value.deleted:
            return False
        known = self._modes.get(fact.uid)
        if known is None or known[0] != fact.value.generation:
            mode = (json.loads(fact.value.spec).get("scaling") or {}).get("mode")
            known = self._modes[fact.uid] = (fact.value.generation, mode == ScalingMode.MANAGED)
        return known[1]

    def _related(self, managed: set[PoolKey]) -> dict[PoolKey, ObservedPool]:
        """The managed pools and all that routes connect with them."""
        found: dict[PoolKey, ObservedPool] = {}
        to_see = sorted(managed)
        while to_see:
            key = to_see.pop()
            if key in found:
                continue
            pool = self._observer.pool_alone(key)
            if pool is not None and not pool.deleted:
                found[key] = pool
                to_see.extend(self._observer.partners(key))
        return found

    def _forget(self, managed: set[PoolKey]) -> None:
        uids = {
            fact.uid for kind in (keys.PREFILL_POOL, keys.DECODE_POOL) for fact in self._store.custom(kind)
        }
        self._modes = {uid: mode for uid, mode in self._modes.items() if uid in uids}
        for key in self.verdicts.keys() - managed:
            self._withdraw(key)
        if not managed:
            self._sight.forget_all_but(set())
            self._state = State()

    # --- what is asked

    def _question(
        self, seen: Mapping[PoolKey, Seen], links: tuple[LinkObservation, ...], now: datetime
    ) -> tuple[Observation, Settings]:
        config = self._config
        names = {key: tuple(each.name for each in found.observed) for key, found in seen.items()}
        routes = route_observations(
            ((namespace, spec, annotations) for namespace, _, spec, annotations in self._sight.routes()),
            names,
            self._observer.geography,
            now,
        )
        pools = tuple(each for _, found in sorted(seen.items()) for each in found.observed)
        observation = Observation(
            pools,
            tuple(routes),
            links,
            tuple(Quota(each.name, frozenset(each.pools), each.accelerators) for each in config.quotas),
            self._signals.current,
        )
        settings = Settings(
            {
                str(key): settings_of(found.spec)
                for key, found in seen.items()
                if found.spec.scaling.mode is ScalingMode.MANAGED
            },
            budget_per_hour=config.budget_per_hour,
            carbon_price_per_kilogram=config.carbon_price_per_kilogram,
            start_seconds=config.start_seconds,
            load_max_age_seconds=max(90.0, 3 * config.interval_seconds),
        )
        return observation, settings

    # --- what is told

    def _tell(self, decision: Decision, seen: Mapping[PoolKey, Seen], now: datetime) -> None:
        by_name = {str(key): key for key in seen}
        notes = [self._signals.problem] if self._signals.problem else []
        for each in decision.pools:
            key = by_name[each.pool]
            found, memory = seen[key], self._sight.memory(key)
            pods_ready = found.observed[0].ready > 0
            if each.active or not pods_ready:
                memory.unknown_since = None
            elif memory.unknown_since is None:
                memory.unknown_since = now.timestamp()
            waited = 0.0 if memory.unknown_since is None else now.timestamp() - memory.unknown_since
            own = [found.note] if found.note else []
            verdict = renewed(
                self.verdicts.get(key),
                verdict_of(
                    decision,
                    each,
                    now=now,
                    active=waited < self._config.unknown_seconds,
                    drifts=found.drifts,
                    measured=found.measured,
                    notes=[*own, *notes],
                ),
            )
            if self.verdicts.get(key) is not verdict:
                before = self.verdicts.get(key)
                self.verdicts[key] = verdict
                self._enqueue(key)
                if before is None or before.says != verdict.says:
                    _log(key, verdict)
                    if verdict.desired != verdict.for_replicas:
                        way = "up" if verdict.desired > verdict.for_replicas else "down"
                        self._metrics.scaling_changes.labels(key.kind, way, verdict.explanation.reason).inc()
            self._count(key, each.desired, each.needed, str(each.limit or ""))
        for key in self.verdicts.keys() - {by_name[each.pool] for each in decision.pools}:
            # Held, or owned by somebody else by now.
            self._withdraw(key)

    def _withdraw(self, key: PoolKey) -> None:
        del self.verdicts[key]
        self._metrics.scaling_sizes.pop((key.kind, key.namespace, key.name), None)
        self._enqueue(key)

    def _count(self, key: PoolKey, desired: int, needed: int, limit: str) -> None:
        self._metrics.scaling_sizes[key.kind, key.namespace, key.name] = (desired, needed, limit)


def _log(key: PoolKey, verdict: ScalingVerdict) -> None:
    """What was decided, as one line of JSON."""
    told = verdict.explanation
    line = {
        "decision": "scaling",
        "kind": key.kind,
        "namespace": key.namespace,
        "name": key.name,
        "replicas": verdict.for_replicas,
        "desired": verdict.desired,
        "needed": told.needed,
        "reason": told.reason,
        "message": told.message,
        "limited_by": told.limited_by,
        "inputs": {each.name: each.value for each in told.inputs or ()},
        "offers": len(told.offers or ()),
    }
    decisions.info("%s", json.dumps(line, separators=(",", ":"), ensure_ascii=False))
