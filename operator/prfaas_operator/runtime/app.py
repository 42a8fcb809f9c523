"""The operator put together: who follows what, who leads, and in which order all starts and ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import kopf

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.connect import configuration_loader, own_namespace
from prfaas.kube.resources import CUSTOM_RESOURCES
from prfaas.kube.transport import Transport
from prfaas_operator.config import OperatorConfig
from prfaas_operator.planning.values import PoolKey, RouteKey
from prfaas_operator.runtime.audit import Audit
from prfaas_operator.runtime.autoscaler import Autoscaler
from prfaas_operator.runtime.certificates import AuthorityUnusable
from prfaas_operator.runtime.elector import Elector, LeaseLost, Timings
from prfaas_operator.runtime.engine_reports import HEALTH_PORT, EngineReports
from prfaas_operator.runtime.events import EventWriter
from prfaas_operator.runtime.executor import Executor
from prfaas_operator.runtime.facts import Fact
from prfaas_operator.runtime.federation.federation import Federation
from prfaas_operator.runtime.fence import Fence, WriteHook, WritingStopped
from prfaas_operator.runtime.fleet import FLEET, Fleet, FleetKey
from prfaas_operator.runtime.health import HealthServer, Trouble
from prfaas_operator.runtime.informers import Children, registry, settings
from prfaas_operator.runtime.metrics import Metrics
from prfaas_operator.runtime.observer import Observer
from prfaas_operator.runtime.planner import Planner
from prfaas_operator.runtime.queue import QueueCore, WorkQueue
from prfaas_operator.runtime.reconciler import Key, Reconciler
from prfaas_operator.runtime.references import References
from prfaas_operator.runtime.route_measurements import RouteBook
from prfaas_operator.runtime.store import Store

logger = logging.getLogger(__name__)

USER_AGENT = "prfaas-operator"
CRD_POLL_SECONDS = 2.0
KOPF_ENDING_SECONDS = 8.0
FLEET_PAUSE_SECONDS = 0.3
# A fleet pass looks at all pools: it may take a tenth of the time at most.
FLEET_SHARE = 10.0


class NoNamespace(Exception):  # noqa: N818 - says what is missing
    """It is not known which namespace the operator's own objects belong to."""


class Operator:
    """One operator process.

    Args:
        hook: called around every write; for tests.
        report_port: of the sidecars' health listener.
    """

    def __init__(
        self,
        config: OperatorConfig,
        planner: Planner,
        *,
        hook: WriteHook | None = None,
        report_port: int = HEALTH_PORT,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._config = config
        self._clock = loop.time
        self.metrics = Metrics()
        self.namespace = own_namespace_of(config)
        self.namespaces: tuple[str | None, ...] = config.watch_namespaces or (None,)
        load = configuration_loader(config.kubeconfig, config.context)
        identity = config.leader_election.identity or os.environ.get("POD_NAME") or f"pid-{os.getpid()}"
        # The Lease has a client of its own: a fence must not keep the holder from renewing.
        self._lease_client = KubeClient(Transport(load, user_agent=USER_AGENT))
        self.elector = Elector(
            self._lease_client,
            namespace=self.namespace,
            name=keys.OPERATOR_LEASE,
            identity=identity,
            timings=Timings(
                config.leader_election.lease_seconds,
                config.leader_election.renew_deadline_seconds,
                config.leader_election.retry_seconds,
            ),
        )
        fence = Fence(self.elector.seconds_left, self.metrics.count_write, hook)
        self.client = KubeClient(Transport(load, guard=fence, user_agent=USER_AGENT))
        self.store = Store(self._changed)
        self._children = Children(
            self.client, self.store, self.namespaces, issued=config.issuer() is not None
        )
        self._reports = EngineReports(
            self.enqueue, lambda outcome: self.metrics.engine_reports.labels(outcome).inc(), port=report_port
        )
        references = References(self.client, self.store, clock=self._clock)
        observer = Observer(
            self.store,
            planner,
            references,
            self._reports,
            region=config.region,
            cluster=config.cluster,
            issuer=config.issuer(),
        )
        executor = Executor(
            self.client, self.store, certificate_valid=timedelta(seconds=config.certificate_seconds)
        )
        events = EventWriter(
            self.client,
            instance=identity,
            clock=self._clock,
            dropped=lambda reason: self.metrics.events_dropped.labels(reason).inc(),
        )
        self._fleet = Fleet(
            self.client,
            self.store,
            planner=planner,
            observer=observer,
            executor=executor,
            namespace=self.namespace,
            region=config.region,
            authority_known=self._enqueue_all,
            rotation_settle=timedelta(seconds=config.rotation_seconds),
            links=lambda: self.federation.links.targets,
        )
        reconcile = Reconciler(
            self.client,
            self.store,
            planner=planner,
            observer=observer,
            executor=executor,
            events=events,
            fleet=self._fleet,
            enqueue=self.enqueue,
            backlog=lambda: self.queue.core.depth,
            resync_seconds=config.queue.resync_seconds,
        )
        self.queue: WorkQueue[Key] = WorkQueue(
            QueueCore(
                first_retry_seconds=config.queue.first_retry_seconds,
                longest_retry_seconds=config.queue.longest_retry_seconds,
                # Its share of the time is bounded, and gateways wait for it.
                urgent=FLEET,
            ),
            reconcile,
            workers=config.queue.workers,
            pass_seconds=config.queue.pass_seconds,
            on_pass=self._passed,
        )
        self._fleet_pause_seconds = FLEET_PAUSE_SECONDS
        self.autoscaler = Autoscaler(
            config.autoscaler,
            self.client,
            self.store,
            observer,
            namespace=self.namespace,
            metrics=self.metrics,
            enqueue=self.enqueue,
            clock=self._clock,
            report_port=report_port,
        )
        observer.verdicts = self.autoscaler.verdicts
        self.federation = Federation(
            config,
            self.client,
            self._lease_client,
            fence=fence,
            store=self.store,
            metrics=self.metrics,
            namespace=self.namespace,
            namespaces=self.namespaces,
            identity=identity,
            authority_id=self._fleet.signing_id,
            rotation=lambda: self._fleet.rotation.plan.message,
            user_agent=USER_AGENT,
            clock=self._clock,
            links_changed=self._links_changed,
        )
        observer.closed_links = self.federation.links.closed
        # What each route asks for.
        self._routes: dict[RouteKey, tuple[object, ...]] = {}
        self.routes = RouteBook(
            self.client,
            namespace=self.namespace,
            clock=self._clock,
            kv_of=observer.kv_size,
            changed=self._measured,
        )
        observer.measured_of = self.routes.of
        self.audits = {
            resource.kind: Audit(
                self.client,
                resource,
                self.store.custom(resource.kind),
                namespaces=self.namespaces,
                seconds=config.health.audit_seconds,
                clock=self._clock,
                count=self._audited(resource.kind),
            )
            for resource in CUSTOM_RESOURCES
        }
        self.health = HealthServer(
            (self._check_start, self._check_watches, self._check_queue), self.metrics.registry
        )
        self._started = False
        self._register_gauges()

    async def run(self, stop: asyncio.Event, catch_signals: Callable[[], None] = lambda: None) -> None:
        """Run until `stop` is set; ends in order, and gives the lease back.

        Args:
            catch_signals: called once kopf has put its own handlers of signals in place, which would end kopf
                before writing has ended.

        Raises:
            LeaseLost: another leads; the process has to end.
            NoCluster: no API server is configured.
        """
        await self.health.start(self._config.health_listen)
        try:
            async with self._lease_client, self.client:
                await self._wait_for_definitions(stop)
                if not stop.is_set():
                    await self._follow_and_lead(stop, catch_signals)
        finally:
            await self.health.stop()

    async def _follow_and_lead(self, stop: asyncio.Event, catch_signals: Callable[[], None]) -> None:
        """Everything follows the cluster; one replica leads as well."""
        kopf_stop = asyncio.Event()
        informer = asyncio.create_task(self._kopf(kopf_stop, catch_signals), name="kopf")
        parts = {
            asyncio.create_task(self._children.run(), name="reflectors"),
            *(
                asyncio.create_task(audit.run(), name=f"audit of {kind}")
                for kind, audit in self.audits.items()
            ),
        }
        leading = asyncio.create_task(self._lead_when_ready(), name="leading")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait(
                {informer, *parts, leading, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                # None of them ends by itself in good order.
                task.result()
                raise RuntimeError(f"{task.get_name()} has ended, which it must not")
        finally:
            # Writing ends first, then the lease is free for another, then all else ends.
            await _end({leading})
            if stop.is_set():
                await self.elector.release()
            await _end({*parts, stopping})
            await self._reports.close()
            # Last, as kopf cancels what it takes for its own tasks.
            kopf_stop.set()
            await asyncio.wait({informer}, timeout=KOPF_ENDING_SECONDS)
            await _end({informer})

    async def _lead_when_ready(self) -> None:
        for audit in self.audits.values():
            await audit.agreement.synced.wait()
        await self._children.synced()
        self._started = True
        logger.info("synced: %s", {kind: len(self.store.custom(kind)) for kind in self.audits})
        await self.elector.hold(self._lead)

    async def _lead(self) -> None:
        # Without the authority the first pass over each pool could not make its pods, and would say so.
        try:
            await self._fleet.prepare()
        except (errors.KubeError, AuthorityUnusable, WritingStopped) as error:
            logger.warning("the region's authority is not known yet: %s", error)
        # In the order of the watches until here. Pools first: what a route has to tell is how its pools are.
        self.queue.core.forget_ready()
        self._enqueue_all()
        self.enqueue(FLEET)
        federation = asyncio.create_task(self.federation.run(), name="federation")
        autoscaler = asyncio.create_task(self.autoscaler.run(), name="autoscaler")
        routes = asyncio.create_task(self.routes.run(), name="route measurements")
        try:
            await self.queue.run()
        finally:
            await _end({federation, autoscaler, routes})

    async def _kopf(self, stop: asyncio.Event, catch_signals: Callable[[], None]) -> None:
        scope: dict[str, Any] = (
            {"clusterwide": True}
            if self.namespaces == (None,)
            else {"namespaces": [*self._config.watch_namespaces]}
        )
        # kopf ends by cancelling what it did not know when it started.
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry(self.client, self.store),
            settings=settings(),
            standalone=True,
            stop_flag=stop,
            **scope,
        )
        catch_signals()
        await kopf.run_tasks(tasks, ignored=others)

    async def _wait_for_definitions(self, stop: asyncio.Event) -> None:
        """kopf looks for kinds when it starts and, without rights on definitions, never again."""
        told = False
        while not stop.is_set():
            try:
                for resource in CUSTOM_RESOURCES:
                    async for _ in self.client.pages(
                        resource, self.namespaces[0], metadata_only=True, page_objects=1
                    ):
                        break
            except errors.KubeError as error:
                if not told:
                    logger.warning("waiting for the API server and the kinds of %s: %s", keys.GROUP, error)
                    told = True
            else:
                return
            try:
                async with asyncio.timeout(CRD_POLL_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue

    # --- what has to be looked at

    def enqueue(self, key: Key) -> None:
        """Have it looked at. The fleet, which is costly, a little later."""
        if isinstance(key, FleetKey):
            self.queue.add_later(key, self._fleet_pause_seconds)
        else:
            self.queue.add(key)

    def _measured(self, route: RouteKey, threshold_moved: bool) -> None:
        """Gateways have told something of a route."""
        if self.store.routes.get(route.namespace, route.name) is not None:
            self.enqueue(route)
        if threshold_moved:
            self.enqueue(FLEET)

    def _links_changed(self) -> None:
        """A link was opened or closed, or is declared in another way."""
        for route in self.store.routes:
            self.enqueue(RouteKey(route.namespace, route.name))
        self.enqueue(FLEET)

    def _enqueue_all(self) -> None:
        for pool in self.store.pool_keys():
            self.enqueue(pool)
        for route in self.store.routes:
            self.enqueue(RouteKey(route.namespace, route.name))

    def _changed(self, kind: str, fact: Fact[Any]) -> None:
        """Something in the store is new, differs, or is gone."""
        match kind:
            case "PrefillPool" | "DecodePool":
                self.enqueue(PoolKey(kind, fact.namespace, fact.name))
                self.federation.pools_changed()
            case "PrefillRoute":
                self._route_changed(fact)
            case "HorizontalPodAutoscaler":
                if fact.value.target_kind in {keys.PREFILL_POOL, keys.DECODE_POOL}:
                    self.enqueue(PoolKey(fact.value.target_kind, fact.namespace, fact.value.target_name))
            case "Region":
                self._enqueue_all()
                self.enqueue(FLEET)
            case "ModelKVProfile":
                self._enqueue_namespace(fact.namespace)
            case "PodDisruptionBudget" if fact.pool is None:
                self._enqueue_namespace(fact.namespace)
            case "Pod" if self.store.pods.get(fact.namespace, fact.name) is None:
                self._reports.forget(fact.namespace, fact.name)
                self._enqueue_pool(fact)
            case _:
                self._enqueue_pool(fact)

    def _route_changed(self, fact: Fact[Any]) -> None:
        key = RouteKey(fact.namespace, fact.name)
        self.enqueue(key)
        stored = self.store.routes.get(fact.namespace, fact.name)
        if stored is None:
            self._routes.pop(key, None)
        else:
            value = stored.value
            asks = (stored.uid, value.generation, value.deleted, tuple(sorted(value.annotations.items())))
            if self._routes.get(key) == asks:
                # Its status alone has changed, which concerns nobody else.
                return
            self._routes[key] = asks
        for pool in fact.value.names:
            self.enqueue(pool)
            # Which of several routes of a pool counts may have changed.
            for route in self.store.routes_of(pool):
                self.enqueue(RouteKey(route.namespace, route.name))
        self.enqueue(FLEET)

    def _enqueue_pool(self, fact: Fact[Any]) -> None:
        if fact.pool is not None:
            self.enqueue(fact.pool)

    def _enqueue_namespace(self, namespace: str) -> None:
        for pool in self.store.pool_keys():
            if pool.namespace == namespace:
                self.enqueue(pool)

    # --- health and metrics

    def _check_start(self) -> Iterator[Trouble]:
        if not self._started:
            yield Trouble("not all objects were listed yet")

    def _check_watches(self) -> Iterator[Trouble]:
        now, limit = self._clock(), self._config.health.silent_seconds
        for kind, audit in self.audits.items():
            agreed = audit.agreement.agreed_at
            if audit.agreement.behind:
                yield Trouble(f"the watch of {kind} is silent: {audit.agreement.behind} objects are behind")
            elif self._started and (agreed is None or now - agreed > limit):
                yield Trouble(f"{kind}: the API server could not be asked for {limit:.0f} s")
        for following in self._children.followings:
            last = following.contact.last_seconds
            if following.needed and self._started and (last is None or now - last > limit):
                error = following.contact.error
                yield Trouble(f"{following.resource}: nothing was heard for {limit:.0f} s ({error})")

    def _check_queue(self) -> Iterator[Trouble]:
        oldest = self.queue.core.oldest_seconds(self._clock())
        if self.elector.leading.is_set() and oldest > self._config.health.oldest_seconds:
            yield Trouble(f"the queue's head has waited for {oldest:.0f} s")

    def _audited(self, kind: str) -> Any:
        return lambda outcome: self.metrics.audits.labels(kind, outcome).inc()

    def _passed(self, key: Key, seconds: float, result: str) -> None:
        match key:
            case PoolKey():
                kind: str = key.kind
            case RouteKey():
                kind = keys.PREFILL_ROUTE
            case FleetKey():
                kind = "Fleet"
        self.metrics.passes.labels(kind, result).inc()
        self.metrics.pass_seconds.labels(kind).observe(seconds)
        if isinstance(key, FleetKey):
            self._fleet_pause_seconds = max(FLEET_PAUSE_SECONDS, FLEET_SHARE * seconds)

    def _register_gauges(self) -> None:
        metrics = self.metrics
        metrics.gauge(
            "prfaas_operator_leading",
            "1 while this replica leads.",
            lambda: float(self.elector.leading.is_set()),
        )
        metrics.gauge(
            "prfaas_operator_queue_depth", "Objects that wait for a pass.", lambda: self.queue.core.depth
        )
        metrics.gauge(
            "prfaas_operator_queue_oldest_seconds",
            "How long the object has waited that waits longest.",
            lambda: self.queue.core.oldest_seconds(self._clock()),
        )
        metrics.gauges(
            "prfaas_operator_watch_age_seconds",
            "How long ago a watch was last known to be good.",
            ("kind",),
            self._watch_ages,
        )
        metrics.gauges(
            "prfaas_operator_pools",
            "Pools by kind, condition and its status.",
            ("kind", "condition", "status"),
            self._pools_by_condition,
        )

    def _watch_ages(self) -> Iterable[tuple[tuple[str, ...], float]]:
        now = self._clock()
        for kind, audit in self.audits.items():
            if audit.agreement.agreed_at is not None:
                yield (kind,), now - audit.agreement.agreed_at
        ages: dict[str, float] = {}
        for following in self._children.followings:
            if following.contact.last_seconds is not None:
                kind = following.resource.kind
                ages[kind] = max(ages.get(kind, 0.0), now - following.contact.last_seconds)
        for kind, age in ages.items():
            yield (kind,), age

    def _pools_by_condition(self) -> Iterable[tuple[tuple[str, ...], float]]:
        counts: dict[tuple[str, ...], float] = {}
        for kind in (keys.PREFILL_POOL, keys.DECODE_POOL):
            for fact in self.store.custom(kind):
                # As it is stored: a status of another version must not keep all metrics from being read.
                for condition in json.loads(fact.value.status).get("conditions") or ():
                    place = (kind, str(condition.get("type")), str(condition.get("status")))
                    counts[place] = counts.get(place, 0.0) + 1.0
        yield from counts.items()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel and wait; what they raised was seen, or comes of the cancellation."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def own_namespace_of(config: OperatorConfig) -> str:
    """The namespace of the operator's own objects.

    Raises:
        NoNamespace: neither the configuration nor the surroundings say.
    """
    found = config.own_namespace or os.environ.get("POD_NAMESPACE") or own_namespace()
    if not found:
        raise NoNamespace("set own_namespace, or POD_NAMESPACE: where the lease and the authority are kept")
    return found


__all__ = ["LeaseLost", "NoNamespace", "Operator", "own_namespace_of"]
