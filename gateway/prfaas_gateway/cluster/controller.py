"""Follows a cluster: takes what watches and sidecars tell, and brings fleet, models and trust to it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from prfaas.api.snapshot import Snapshot
from prfaas.kube.api import KubeApi
from prfaas.kube.reflect import Change, Contact, Deleted, Synced
from prfaas_gateway.cluster import watch
from prfaas_gateway.cluster.living import apply
from prfaas_gateway.cluster.membership import desired_fleet
from prfaas_gateway.cluster.models import Models
from prfaas_gateway.cluster.picture import Picture, fingerprints, pod_entry, watch_entry
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.cluster.policy import BadSnapshotError, Pools, pools_of, profiled, read_snapshot
from prfaas_gateway.cluster.store import StateError, Store
from prfaas_gateway.cluster.tokenizers import TokenizerCache
from prfaas_gateway.config import Cluster
from prfaas_gateway.engine_report import EngineReport
from prfaas_gateway.errors import ClusterUnusableError
from prfaas_gateway.fleet import Decoder, Prefiller
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.peering.peers import Peers
from prfaas_gateway.services import Services

_log = logging.getLogger(__name__)
_ALLOW_AGAIN_SECONDS = 5.0
_UNWATCHED_SECONDS = 90.0
"""Bookmarks are due every minute."""
_LOSSES = 3
"""Probes in a row: one that is late says more about a busy machine than about a pod."""
_SAVE_PAUSE_SECONDS = 1.0
"""Between two writes of the pods: readiness may change many times a second in a large fleet."""


async def follow(services: Services, settings: Cluster) -> Coroutine[Any, Any, None]:
    """Go on with what was known before, and give back what follows the cluster from here on.

    Raises:
        ClusterUnusableError: the folder for the state cannot be used.
    """
    controller = Controller(services, settings)
    services.cluster = controller
    await controller.restore()
    return controller.run()


class Controller:
    """One cluster as the gateway knows it."""

    def __init__(self, services: Services, settings: Cluster) -> None:
        self._services = services
        self._settings = settings
        self._store = Store(settings.state_dir)
        self._snapshot: Snapshot | None = None
        self._snapshot_text = ""
        self._snapshot_at = 0.0
        self._snapshot_source = "none"
        self._pools: Pools = pools_of(None)
        self._scopes: tuple[str | None, ...] = settings.pod_namespaces or (None,)
        self._pods: dict[str | None, dict[str, Pod]] = {}
        self._from_disk: set[str | None] = set()
        self._reports: dict[str, EngineReport] = {}
        self._contacts: dict[str, Contact] = {}
        self._lost: set[str] = set()
        self._losses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._to_save = asyncio.Event()
        self._allowed: tuple[frozenset[str], str] = frozenset(), ""
        self._allowing_again: asyncio.TimerHandle | None = None
        self._models = Models(
            services,
            TokenizerCache(settings.state_dir / "tokenizers", settings.max_tokenizer_bytes),
            self._changed.set,
        )
        if services.peers is not None:
            services.peers.reports = self._reports
            services.peers.on_change = self._changed.set

    # --- life

    async def restore(self) -> None:
        """Take the last good snapshot and the pods last seen from the disk.

        Raises:
            ClusterUnusableError: the folder cannot be written.
        """
        try:
            await asyncio.to_thread(self._store.prepare)
        except StateError as error:
            raise ClusterUnusableError(f"cluster.state_dir: {error}") from error
        await self._restore_peers()
        await self._restore_snapshot()
        await self._restore_pods()
        await self._reconcile()

    async def run(self) -> None:
        """Follow the cluster until cancelled. Anything else that ends it is a bug.

        Raises:
            ClusterUnusableError: there is no cluster to follow.
        """
        try:
            async with watch.connected(self._settings) as api, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_snapshot(api), name="snapshot")
                for scope in self._scopes:
                    tasks.create_task(self._follow_pods(api, scope), name=f"pods {scope or ''}")
                tasks.create_task(self._reconcile_forever(), name="reconcile")
                tasks.create_task(self._models.load_forever(), name="tokenizers")
                tasks.create_task(self._save_forever(), name="save state")
                if self._services.peers is not None:
                    tasks.create_task(self._save_peers_forever(self._services.peers), name="save regions")
        finally:
            await self._save()
            if self._services.peers is not None:
                await self._save_peers(self._services.peers)

    # --- what others tell

    def heard(self, uid: str, report: EngineReport) -> None:
        """A pod's sidecar has told about its engine."""
        self._losses.pop(uid, None)
        before, self._reports[uid] = self._reports.get(uid), report
        if before != report or uid in self._lost:
            self._lost.discard(uid)
            self._changed.set()

    def lost(self, uid: str) -> None:
        """A pod's sidecar does not answer, or somebody else does. While the API server says nothing of the
        pod, nobody may go on believing that it still has its address."""
        if uid not in self._reports or not any(uid in self._pods.get(s, ()) for s in self._unwatched()):
            return
        self._losses[uid] = self._losses.get(uid, 0) + 1
        if self._losses[uid] >= _LOSSES:
            del self._reports[uid], self._losses[uid]
            self._lost.add(uid)
            self._changed.set()

    def take_snapshot(self, text: str | None) -> None:
        """The API server's snapshot; None when there is none. A bad one leaves the last good one in force."""
        if text is None:
            if self._snapshot_source != "missing":
                _log.warning(
                    "the cluster has no snapshot for this gateway: is the operator running?",
                    extra={"namespace": self._settings.namespace, "config_map": self._settings.snapshot},
                )
            self._snapshot_source = "missing"
            return
        if text == self._snapshot_text:
            self._snapshot_source = "cluster"
            return
        try:
            snapshot = read_snapshot(text)
        except BadSnapshotError as error:
            self._snapshot_source = "rejected"
            self._services.metrics.snapshot_errors.labels(error.code).inc()
            _log.error(
                "a snapshot cannot be used; the last good one stays in force",
                extra={"code": error.code, "reason": str(error)},
            )
            return
        self._use(snapshot, text, "cluster", self._services.wall_clock())
        self._to_save.set()

    def take_pods(self, scope: str | None, change: Change[Pod]) -> None:
        """A change of the pods in one namespace, or in all."""
        match change:
            case Synced(objects):
                self._pods[scope] = {pod.uid: pod for pod in objects}
                self._from_disk.discard(scope)
            case Deleted(pod):
                self._pods.setdefault(scope, {}).pop(pod.uid, None)
            case _:
                self._pods.setdefault(scope, {})[change.object.uid] = change.object
        self._changed.set()
        self._to_save.set()

    def _unwatched(self) -> set[str | None]:
        """Scopes of which the API server has said nothing yet, or nothing any more."""
        now, scopes = asyncio.get_running_loop().time(), set(self._from_disk)
        for scope in self._pods:
            contact = self._contacts.get(_watch_name(scope))
            last = contact.last_seconds if contact is not None else None
            if last is not None and now - last > _UNWATCHED_SECONDS:
                scopes.add(scope)
        return scopes

    # --- what pages about health show

    def why_not_ready(self) -> str | None:
        """Why this gateway cannot know where to send requests, or None."""
        if self._snapshot is None:
            return "no snapshot: neither from the operator nor on disk"
        if any(scope not in self._pods for scope in self._scopes):
            return "pods are not known: the API server has not listed them, and none are on disk"
        return None

    def sources(self) -> dict[str, Any]:
        """Where what is believed comes from, and how old it is."""
        now = self._services.wall_clock()
        return Picture(
            snapshot_revision=self._snapshot.revision if self._snapshot else None,
            snapshot_source=self._snapshot_source,
            snapshot_age_seconds=now - self._snapshot_at if self._snapshot else None,
            pods=sum(map(len, self._pods.values())),
            pods_from_disk=bool(self._from_disk),
            watches={name: watch_entry(contact) for name, contact in self._contacts.items()},
        ).to_document()

    def observe(self, metrics: Metrics) -> None:
        """Bring gauges up to date."""
        metrics.from_disk.labels("snapshot").set(self._snapshot_source == "disk")
        metrics.from_disk.labels("pods").set(bool(self._from_disk))
        for name, contact in self._contacts.items():
            silent = watch_entry(contact)["silent_seconds"]
            if silent is not None:
                metrics.watch_silent_seconds.labels(name).set(silent)
        metrics.tokenizer_ready.clear()
        for runtime in self._services.runtimes():
            metrics.tokenizer_ready.labels(runtime.name).set(runtime.maker is not None)

    def status(self) -> dict[str, Any]:
        """What is believed of the cluster, for people and for `prfaas status`."""
        fleet = self._services.fleet
        members = {decoder.uid for decoder in fleet.decoders} | {engine.uid for engine in fleet.prefillers}
        return {
            **self.sources(),
            "tokenizer_trouble": self._models.trouble(),
            "fingerprints": fingerprints(self._reports.values()),
            "pods": [
                pod_entry(pod, self._reports.get(pod.uid), pod.uid in members)
                for pod in sorted(self._all_pods(), key=lambda pod: pod.full_name)
            ],
        }

    # --- bringing the fleet to it

    async def _reconcile_forever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._reconcile()

    async def _reconcile(self) -> None:
        pods = list(self._all_pods())
        known = {pod.uid for pod in pods}
        for uid in [uid for uid in self._reports if uid not in known]:
            del self._reports[uid]
        if self._lost:
            self._lost &= {uid for scope in self._unwatched() for uid in self._pods.get(scope, ())}
        self._losses = {uid: losses for uid, losses in self._losses.items() if uid in self._reports}
        from_disk = {uid for scope in self._from_disk for uid in self._pods.get(scope, ())}
        peers = self._services.peers
        if peers is not None:
            peers.take_own(pods)
        desired = desired_fleet(
            self._pools,
            pods,
            self._reports,
            unconfirmed=from_disk | self._lost,
            files_in_use=self._models.files_in_use(),
            remote=peers.remote_pods() if peers is not None else (),
        )
        # First whom requests may use: who drains must be left at once, whatever else takes time.
        applied = apply(self._services, desired)
        compare = self._models.apply(desired)
        if applied.added or applied.removed:
            _log.info("fleet", extra={"added": list(applied.added), "removed": list(applied.removed)})
        await self._allow(self._pools.identities)
        self._ask((*applied.to_ask, *compare))

    async def _allow(self, identities: frozenset[str]) -> None:
        credentials = self._services.credentials
        more = (self._snapshot.own_trust if self._snapshot is not None else None) or ""
        if credentials is None or (identities, more) == self._allowed or self._allowing_again is not None:
            return
        try:
            await asyncio.to_thread(credentials.allow, identities, more)
        except (OSError, ssl.SSLError) as error:
            # Until then pools that are new stay without remote prefill.
            _log.error("certificates cannot be used for new pools", extra={"reason": type(error).__name__})
            loop = asyncio.get_running_loop()
            self._allowing_again = loop.call_later(_ALLOW_AGAIN_SECONDS, self._allow_again)
            return
        self._allowed = identities, more

    def _allow_again(self) -> None:
        self._allowing_again = None
        self._changed.set()

    def _ask(self, members: Iterable[Decoder | Prefiller]) -> None:
        """Have members probed of which nothing recent is known, without waiting for the next round."""
        for member in members:
            self._services.to_probe[member.uid] = member
            self._services.probe_now.set()

    # --- edges

    async def _follow_snapshot(self, api: KubeApi) -> None:
        contact = self._contacts["snapshot"] = Contact()
        async with aclosing(watch.snapshots(api, self._settings, contact)) as changes:  # type: ignore[type-var]
            async for change in changes:
                match change:
                    case Synced(objects):
                        self.take_snapshot(objects[0] if objects else None)
                    case Deleted():
                        self.take_snapshot(None)
                    case _:
                        self.take_snapshot(change.object)

    async def _follow_pods(self, api: KubeApi, scope: str | None) -> None:
        contact = self._contacts[_watch_name(scope)] = Contact()
        async with aclosing(watch.pods(api, scope, contact)) as changes:  # type: ignore[type-var]
            async for change in changes:
                self.take_pods(scope, change)

    async def _save_forever(self) -> None:
        while True:
            await self._to_save.wait()
            await self._save()
            await asyncio.sleep(_SAVE_PAUSE_SECONDS)

    async def _save(self) -> None:
        if not self._to_save.is_set():
            return
        self._to_save.clear()
        pods, text, now = list(self._all_pods()), self._snapshot_text, self._services.wall_clock()
        try:
            if text:
                await asyncio.to_thread(self._store.save_snapshot, text, now)
            await asyncio.to_thread(self._store.save_pods, pods, now)
        except StateError as error:
            self._services.metrics.state_errors.labels("Write").inc()
            _log.error("the state cannot be kept", extra={"reason": str(error)})

    async def _save_peers_forever(self, peers: Peers) -> None:
        while True:
            await peers.to_save.wait()
            await self._save_peers(peers)
            await asyncio.sleep(_SAVE_PAUSE_SECONDS)

    async def _save_peers(self, peers: Peers) -> None:
        peers.to_save.clear()
        document, now = peers.to_document(), self._services.wall_clock()
        if not document:
            return
        try:
            await asyncio.to_thread(self._store.save_peers, document, now)
        except StateError as error:
            self._services.metrics.state_errors.labels("Write").inc()
            _log.error("what other regions told cannot be kept", extra={"reason": str(error)})

    async def _restore_peers(self) -> None:
        """Before the snapshot, which says whom of these there still is."""
        if self._services.peers is None:
            return
        try:
            self._services.peers.restore(await asyncio.to_thread(self._store.load_peers))
        except StateError as error:
            self._services.metrics.state_errors.labels("Read").inc()
            _log.warning("what other regions told cannot be used", extra={"reason": str(error)})

    async def _restore_snapshot(self) -> None:
        try:
            found = await asyncio.to_thread(self._store.load_snapshot)
            if found is not None:
                text, saved_at = found
                self._use(read_snapshot(text), text, "disk", saved_at)
        except (StateError, BadSnapshotError) as error:
            self._services.metrics.state_errors.labels("Read").inc()
            _log.warning("the snapshot on disk cannot be used", extra={"reason": str(error)})

    async def _restore_pods(self) -> None:
        try:
            found = await asyncio.to_thread(self._store.load_pods)
        except StateError as error:
            self._services.metrics.state_errors.labels("Read").inc()
            _log.warning("the pods on disk cannot be used", extra={"reason": str(error)})
            return
        if found is None:
            return
        pods, _ = found
        for scope in self._scopes:
            self._pods[scope] = {pod.uid: pod for pod in pods if scope in (None, pod.namespace)}
            self._from_disk.add(scope)

    def _use(self, snapshot: Snapshot, text: str, source: str, at: float) -> None:
        self._snapshot, self._snapshot_text = snapshot, text
        self._snapshot_source, self._snapshot_at = source, at
        self._pools = pools_of(snapshot)
        scheduler = self._services.scheduler
        scheduler.paces.give(profiled(snapshot))
        capacities = ((each.source, each.capacity_bits_per_second) for each in snapshot.links)
        scheduler.links.declare(
            {source: float(bits) for source, bits in capacities if bits is not None},
            frozenset(each.source for each in snapshot.links if each.closed is not None),
        )
        routes = (policy for pool in self._pools.decode.values() for policy in pool.routes.values())
        scheduler.keep_routes({policy.name for policy in routes})
        if self._services.peers is not None:
            self._services.peers.configure(snapshot)
        self._changed.set()
        _log.info("snapshot", extra={"revision": snapshot.revision, "source": source})

    def _all_pods(self) -> Iterable[Pod]:
        return (pod for pods in self._pods.values() for pod in pods.values())


def _watch_name(scope: str | None) -> str:
    return f"pods {scope}" if scope else "pods"
