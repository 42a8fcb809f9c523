"""The other regions as this gateway knows them: whom it trusts, what they tell, and whether they can be
used."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from prfaas import __version__
from prfaas.api.snapshot import RegionTarget, Snapshot
from prfaas.server_names import gateway_name
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.config import Config, Tls
from prfaas_gateway.control import ControlClient
from prfaas_gateway.engine_report import EngineReport
from prfaas_gateway.fleet import Decoder, Member, Prefiller
from prfaas_gateway.metrics import Metrics
from prfaas_gateway.peering.hops import Obstacle, refusal_of
from prfaas_gateway.peering.legs import Legs, offered_engine
from prfaas_gateway.peering.links import LinkPace, links_into, pace_of
from prfaas_gateway.peering.listener import PeerListener
from prfaas_gateway.peering.offers import Offers, offers
from prfaas_gateway.peering.picture import Standing, region_entry
from prfaas_gateway.peering.region import RegionView
from prfaas_gateway.peering.remote import RemotePod
from prfaas_gateway.peering.report import report_of
from prfaas_gateway.peering.stream import PeerStream
from prfaas_gateway.peering.trust import PeerTrust
from prfaas_gateway.peering.wire import Document, LinkState, PeerPod
from prfaas_gateway.sockets import socket_to_peer
from prfaas_gateway.streams import Budget

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.25
_LINKS_SECONDS = 5.0
_REPORT_SECONDS = 10.0
_TRUST_AGAIN_SECONDS = 5.0
_SAVE_SECONDS = 30.0
_NO_PODS: tuple[Pod, ...] = ()


class Fleet(Protocol):
    """The engines of the gateway."""

    @property
    def prefillers(self) -> Sequence[Prefiller]:
        """Of all regions."""

    def engines(self) -> Sequence[Decoder | Prefiller]:
        """Of both kinds."""


@dataclass(slots=True, eq=False)
class _Region:
    target: RegionTarget
    view: RegionView
    way: Member
    since: float
    standing: Standing = field(default_factory=Standing)
    scopes: set[asyncio.Timeout] = field(default_factory=set)
    stream: asyncio.Task[None] | None = None


class Peers:
    """Owner of the peer port and of the streams to other regions. State lives in the event loop's thread."""

    def __init__(
        self,
        config: Config,
        tls: Tls,
        fleet: Fleet,
        control: ControlClient,
        metrics: Metrics,
        budget: Budget,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._own_region = config.region
        self._fleet = fleet
        self._control = control
        self._metrics = metrics
        self._budget = budget
        self._clock = clock
        self._wall_clock = wall_clock
        self._snapshot: Snapshot | None = None
        self._regions: dict[str, _Region] = {}
        self._restored: Mapping[str, Any] = {}
        self._offers = Offers()
        self._offers_at = float("-inf")
        self._for_region: dict[str, dict[str, PeerPod]] = {}
        self._pods: tuple[Pod, ...] = _NO_PODS
        self._links: tuple[LinkState, ...] = ()
        self._links_at = self._report_at = float("-inf")
        self._report: dict[str, Any] | None = None
        self._configured = asyncio.Event()
        self._saved_at = clock()
        self._looked_at = float("-inf")
        self.trust = PeerTrust(tls, config.region, self._refused)
        self.reports: Mapping[str, EngineReport] = {}
        """What sidecars of the own cluster tell, by uid of the pod."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when pods of other regions have come, gone or changed."""
        self.on_link: Callable[[LinkState, LinkPace], None] = lambda *_: None
        """Called every few seconds for each link that ends here and was measured."""
        self._paces: dict[str, LinkPace] = {}
        self.to_save = asyncio.Event()
        self.leaving = False
        self.listener = PeerListener(
            self.trust, config.region, self, metrics, config.peering.bytes_per_second, (clock, wall_clock)
        )
        control.ways = self

    # --- life

    async def listen(self) -> None:
        """Open the peer port, if the configuration has one.

        Raises:
            OSError: it cannot be listened on.
        """
        if self._config.peer_listen is None:
            return
        timeouts = self._config.timeouts
        legs = Legs(
            lambda uid, region: offered_engine(self._offers, self._fleet.prefillers, uid, region),
            self._control,
            self._metrics,
            self._budget,
            self.listener.caller,
            self._clock,
            max_body_bytes=self._config.limits.max_body_bytes,
            call_seconds=timeouts.control_seconds,
            leg_seconds=timeouts.request_seconds,
        )
        await self.listener.start(self._config.peer_listen, legs)

    async def run(self) -> None:
        """Keep trust, streams and what is believed up to date, until cancelled."""
        connector = aiohttp.TCPConnector(limit=0, socket_factory=socket_to_peer)
        async with (
            aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._follow_snapshot(tasks, session), name="regions")
            tasks.create_task(self._follow_certificate(), name="peer certificate")
            tasks.create_task(self._notice_silence(), name="silence of regions")

    async def close(self) -> None:
        """Close the peer port."""
        self.leaving = True
        await self.listener.stop()

    # --- what others tell

    def configure(self, snapshot: Snapshot) -> None:
        """Regions and pools as the operator says."""
        self._snapshot = snapshot
        wanted = {target.name: target for target in snapshot.regions if target.name != self._own_region}
        for name in self._regions.keys() - wanted.keys():
            gone = self._regions.pop(name)
            if gone.stream is not None:
                gone.stream.cancel()
            self._lose(gone)
            self._metrics.forget_region(name)
            _log.info("a region has gone", extra={"region": name})
        for name, target in wanted.items():
            known = self._regions.get(name)
            if known is None:
                self._regions[name] = _Region(
                    target, self._first_view(name), Member(self._config.health), self._wall_clock()
                )
            else:
                same = (known.target.peer_address, known.target.trust) == (target.peer_address, target.trust)
                if not same and known.stream is not None:
                    # Who answers has to be verified by what holds now.
                    known.stream.cancel()
                    known.stream = None
                    known.standing.connected = False
                known.target = target
        self._offer()
        self._configured.set()

    def take_own(self, pods: Iterable[Pod]) -> None:
        """The pods of the own cluster have changed, or what their sidecars tell."""
        self._pods = tuple(pods)
        self._offer()

    def heard(self, region: str, document: Document | None, size_bytes: int) -> None:
        """A line from a region's gateways."""
        known = self._regions.get(region)
        if known is None:
            return
        self._metrics.exchange_bytes.labels(region, "received").inc(size_bytes)
        change = known.view.hear(document, self._clock(), self._wall_clock())
        known.way.reachable = True
        if change.loads:
            self._take_loads(known, change.loads)
        if change.fleet:
            self.to_save.set()
            self.on_change()

    def connected(self, region: str) -> None:
        """A region's gateways have greeted."""
        if (known := self._regions.get(region)) is not None:
            standing = known.standing
            standing.connected, standing.obstacle, standing.checked_at = True, None, self._wall_clock()
            _log.info(
                "a region tells of itself", extra={"region": region, "address": known.target.peer_address}
            )

    def stopped(self, region: str, obstacle: Obstacle | None) -> None:
        """A stream has ended, or did not begin."""
        known = self._regions.get(region)
        if known is None:
            return
        standing = known.standing
        was, standing.connected, standing.checked_at = standing.connected, False, self._wall_clock()
        standing.stops += 1
        self._metrics.exchange_stops.labels(region, obstacle.code if obstacle else "Ended").inc()
        if obstacle is None:
            return
        if was or standing.obstacle is None or standing.obstacle.code != obstacle.code:
            _log.warning(
                "a region cannot be heard",
                extra={
                    "region": region,
                    "hop": obstacle.hop,
                    "code": obstacle.code,
                    "reason": obstacle.message,
                    "remedy": obstacle.remedy,
                },
            )
        standing.obstacle = obstacle
        if not was:
            # A stream that broke may be one gateway's end; that the next one does not begin is the region's.
            known.way.reachable = False

    # --- what requests need

    @property
    def server_name(self) -> str:
        """The TLS server name that says which region this gateway is of."""
        return gateway_name(self._own_region, self.trust.trust_domain)

    def context(self, region: str) -> ssl.SSLContext | None:
        """For dialling a region's gateways; None when it is not trusted."""
        return self.trust.client(region)

    @asynccontextmanager
    async def until_lost(self, region: str) -> AsyncIterator[None]:
        """Ends what runs within by TimeoutError as soon as the region falls silent."""
        known = self._regions.get(region)
        async with asyncio.timeout(None) as scope:
            if known is None:
                yield
                return
            known.scopes.add(scope)
            try:
                yield
            finally:
                known.scopes.discard(scope)

    def way(self, region: str) -> Member | None:
        """What is believed of the way to a region's gateways."""
        known = self._regions.get(region)
        return None if known is None else known.way

    def remote_pods(self) -> list[RemotePod]:
        """All pods that other regions have told of."""
        return [
            RemotePod(name, region.target.peer_address, pod)
            for name, region in self._regions.items()
            if region.target.peer_address is not None
            for pod in region.view.pods.values()
        ]

    def links(self) -> tuple[LinkState, ...]:
        """All links that are known: those that end here as measured here, the others as told."""
        there = (link for region in self._regions.values() for link in region.view.links)
        return (*self.own_links(), *there)

    # --- what others are told

    @property
    def cluster(self) -> str | None:
        """Name of the own cluster."""
        return self._snapshot.cluster if self._snapshot is not None else None

    def offered_to(self, region: str) -> Mapping[str, PeerPod]:
        """Pods that a region may use, by uid."""
        now = self._clock()
        if now - self._offers_at >= _TICK_SECONDS / 2:
            self._offers_at = now
            self._set_offers(self._offers.with_loads(self._fleet.prefillers))
        found = self._for_region.get(region)
        if found is None:
            found = self._for_region[region] = self._offers.for_region(region)
        return found

    def own_links(self) -> Sequence[LinkState]:
        """Links that end in the own region."""
        now = self._clock()
        if now - self._links_at >= _LINKS_SECONDS:
            self._links_at = now
            self._links = links_into(self._own_region, (report.links for report in self.reports.values()))
        return self._links

    def own_report(self) -> Mapping[str, Any] | None:
        """What gateways can say of their cluster; None before there is a snapshot."""
        now = self._clock()
        if self._snapshot is not None and now - self._report_at >= _REPORT_SECONDS:
            self._report_at = now
            engines = {engine.uid: engine for engine in self._fleet.engines()}
            self._report = report_of(self.cluster or self._own_region, __version__, self._pods, engines)
        return self._report

    # --- what pages about health show, and the disk

    def picture(self) -> dict[str, Any]:
        """All regions, as `GET /v1/regions` gives them."""
        now, wall = self._clock(), self._wall_clock()
        links = self.own_links()
        return {
            "version": 1,
            "region": self._own_region,
            "cluster": self.cluster,
            "now": round(wall, 3),
            "listening": self.listener.port is not None,
            "bundle_troubles": dict(self.trust.troubles),
            "offered_pods": len(self._offers.pods),
            "regions": [
                region_entry(
                    region.target,
                    region.view,
                    region.standing,
                    usable=self._usable(region, now),
                    own_links=links,
                    wall=wall,
                )
                for _, region in sorted(self._regions.items())
            ],
        }

    def observe(self, metrics: Metrics) -> None:
        """Bring gauges up to date."""
        now, wall = self._clock(), self._wall_clock()
        for name, region in self._regions.items():
            if region.target.peer_address is None:
                continue
            age = region.view.age_seconds(wall)
            # One that never spoke has been silent since it is known.
            metrics.exchange_age_seconds.labels(name).set(age if age is not None else wall - region.since)
            metrics.region_usable.labels(name).set(self._usable(region, now))
            metrics.peer_pods.labels(name).set(len(region.view.pods))

    def to_document(self) -> dict[str, Any]:
        """For the disk."""
        return {name: region.view.to_document() for name, region in self._regions.items()}

    def restore(self, document: Mapping[str, Any]) -> None:
        """From the disk: what regions told the process before this one."""
        self._restored = document

    # --- inside

    def _usable(self, region: _Region, now: float) -> bool:
        return region.target.peer_address is not None and bool(region.view.pods) and region.way.healthy(now)

    def _first_view(self, name: str) -> RegionView:
        document = self._restored.get(name)
        if document is not None:
            try:
                return RegionView.from_document(name, document, self._clock())
            except ValueError:
                _log.warning("what the disk has of a region cannot be used", extra={"region": name})
        return RegionView(name)

    def _offer(self) -> None:
        if self._snapshot is not None:
            trust_domain, pools = self._snapshot.trust_domain, self._snapshot.own_pools
            self._set_offers(offers(pools, self._pods, self.reports, trust_domain, self._offers))

    def _set_offers(self, made: Offers) -> None:
        if made is not self._offers:
            self._offers, self._for_region = made, {}

    def _take_loads(self, region: _Region, uids: frozenset[str]) -> None:
        for engine in self._fleet.prefillers:
            if engine.region == region.target.name and engine.pod_uid in uids:
                engine.take_load(region.view.pods[engine.pod_uid])

    def _refused(self, region: str, error: ssl.SSLError) -> None:
        known = self._regions.get(region)
        obstacle = refusal_of(error, region)
        self._metrics.peers_refused.labels(region if known is not None else "unknown", obstacle.code).inc()
        if known is not None:
            standing = known.standing
            standing.refused, standing.refused_at = obstacle, self._wall_clock()
            standing.refusals += 1

    async def _follow_snapshot(self, tasks: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        while True:
            await self._configured.wait()
            self._configured.clear()
            if not await self._trust_as_configured():
                await asyncio.sleep(_TRUST_AGAIN_SECONDS)
                self._configured.set()
                continue
            for name, region in self._regions.items():
                address = region.target.peer_address
                if address is not None and (region.stream is None or region.stream.done()):
                    stream = PeerStream(
                        name,
                        address,
                        self._own_region,
                        self.server_name,
                        self.trust,
                        session,
                        self,
                        self._clock,
                    )
                    region.stream = tasks.create_task(stream.run(), name=f"exchange with {name}")

    async def _trust_as_configured(self) -> bool:
        snapshot = self._snapshot
        if snapshot is None:
            return True
        bundles = {region.name: region.trust for region in snapshot.regions if region.trust is not None}
        if snapshot.own_trust is not None:
            bundles[self._own_region] = snapshot.own_trust
        try:
            await asyncio.to_thread(self.trust.use, bundles, snapshot.trust_domain)
        except (OSError, ssl.SSLError) as error:
            _log.error(
                "certificates cannot be used for other regions", extra={"reason": type(error).__name__}
            )
            return False
        return True

    async def _follow_certificate(self) -> None:
        while True:
            await asyncio.sleep(self._config.health.probe_seconds)
            try:
                if await asyncio.to_thread(self.trust.refresh):
                    _log.info("certificates for other regions were read again")
            except (OSError, ssl.SSLError) as error:
                _log.warning("new certificates cannot be used", extra={"reason": type(error).__name__})

    async def _notice_silence(self) -> None:
        while True:
            now = self._clock()
            for name, region in self._regions.items():
                if region.view.silent(now, self._config.peering.silent_seconds):
                    if region.way.reachable is not False and region.view.pods:
                        _log.warning("a region is silent: nothing is sent there", extra={"region": name})
                    region.way.reachable = False
                    self._lose(region)
            if now - self._looked_at >= _LINKS_SECONDS:
                self._looked_at = now
                self._look_at_links(now)
            if now - self._saved_at >= _SAVE_SECONDS:
                self._saved_at = now
                self.to_save.set()
            await asyncio.sleep(_TICK_SECONDS)

    def _look_at_links(self, now: float) -> None:
        for link in self.own_links():
            pace = pace_of(link, self._paces.get(link.source), now)
            if pace is not None:
                self._paces[link.source] = pace
                self.on_link(link, pace)

    def _lose(self, region: _Region) -> None:
        """End what waits for an answer from there: nobody can say when one would come."""
        now = asyncio.get_running_loop().time()
        for scope in tuple(region.scopes):
            if not scope.expired():
                scope.reschedule(now)
        region.scopes.clear()
