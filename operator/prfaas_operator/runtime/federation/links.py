"""The edge of `federation.links` and `federation.egress`: asks sidecars, writes KVLinks and the ledger."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
from pydantic import ValidationError

from prfaas.api import keys
from prfaas.api.conditions import Reason
from prfaas.api.snapshot import LinkTarget
from prfaas.api.v1alpha1 import KVLink, KVLinkStatus
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import CONFIG_MAPS, KV_LINKS, Object
from prfaas_operator.federation.egress import (
    BudgetFact,
    LinkLedger,
    LinkReading,
    advance,
    budget,
    from_json,
    share_of,
    to_json,
)
from prfaas_operator.federation.links import (
    WINDOW_SECONDS,
    LinkMeasured,
    is_to_be_written,
    status,
    without_ledger,
)

logger = logging.getLogger(__name__)

ROUND_SECONDS = 10.0
ASK_SECONDS = 3.0
ANSWER_BYTES = 256 * 1024
HEALTH_PORT = 7402
AT_ONCE = 16
LEDGER_WRITE_SECONDS = 60.0
LEDGER_KEY = "ledger.json"


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """What one sidecar has received from one region since it began."""

    received_bytes: int
    busy_seconds: float
    complete: int
    failed: int
    rtt_seconds: float | None
    retransmits_percent: float | None


@dataclass(frozen=True, slots=True)
class SidecarLinks:
    """What one sidecar told: its run, and its counters by source region."""

    epoch: str
    sources: Mapping[str, SourceCounters]


@dataclass(slots=True)
class _Round:
    """What came over a link between two rounds."""

    at: float
    seconds: float
    received_bytes: int = 0
    busy_seconds: float = 0.0
    complete: int = 0
    failed: int = 0
    rtts: list[float] = field(default_factory=list)
    lost_bytes: float = 0.0
    lost_of_bytes: float = 0.0


class LinkWindow:
    """The last minute of one link, from the counters of all sidecars."""

    def __init__(self) -> None:
        self._rounds: deque[_Round] = deque()
        self._before: dict[str, SourceCounters] = {}
        self._read_at: float | None = None
        self._alive_at: float | None = None

    def add(self, counters: Mapping[str, SourceCounters], now: float) -> None:
        """A round. `counters` by run of a sidecar; those that did not answer are missing."""
        seconds = 0.0 if self._read_at is None else now - self._read_at
        this = _Round(now, seconds)
        for run, told in counters.items():
            before = self._before.get(run)
            if before is None and self._read_at is None:
                # What came before the operator looked is of no minute that it knows.
                before = told
            base = before or SourceCounters(0, 0.0, 0, 0, None, None)
            grown = max(0, told.received_bytes - base.received_bytes)
            this.received_bytes += grown
            this.busy_seconds += max(0.0, told.busy_seconds - base.busy_seconds)
            this.complete += max(0, told.complete - base.complete)
            this.failed += max(0, told.failed - base.failed)
            if told.rtt_seconds is not None:
                this.rtts.append(told.rtt_seconds)
            if told.retransmits_percent is not None and grown:
                this.lost_bytes += told.retransmits_percent * grown
                this.lost_of_bytes += grown
        self._before = {**self._before, **counters} if len(self._before) < 4096 else dict(counters)
        self._read_at = now
        if this.received_bytes or this.complete or this.failed:
            self._alive_at = now
        self._rounds.append(this)
        while now - self._rounds[0].at >= WINDOW_SECONDS:
            self._rounds.popleft()

    def measured(self, now: float) -> LinkMeasured:
        """What the status is made of."""
        rounds = self._rounds
        size = sum(each.received_bytes for each in rounds)
        # Sidecars that receive at the same time share the link: then its time is that of the clock.
        busy = sum(min(each.busy_seconds, each.seconds) for each in rounds)
        weighed = sum(each.lost_of_bytes for each in rounds)
        rtts = sorted(rtt for each in rounds for rtt in each.rtts)
        return LinkMeasured(
            received_bytes=size,
            goodput_bits_per_second=size * 8 / busy if busy > 0 else None,
            rtt_seconds=rtts[len(rtts) // 2] if rtts else None,
            retransmits_percent=sum(each.lost_bytes for each in rounds) / weighed if weighed else None,
            complete=sum(each.complete for each in rounds),
            failed=sum(each.failed for each in rounds),
            idle_seconds=None if self._alive_at is None else now - self._alive_at,
        )


class Links:
    """Rounds over the links that end in the own region.

    Args:
        pods: of decode pools that may have a sidecar: uid and address.
        clock: seconds, monotonic.
        port: of the sidecars' health listeners.
        clusters: of the own region, which share budgets.
        changed: called when links or what closes them are others than before.

    Attributes:
        targets: what gateways are told of them; None before the first round: what was told before holds.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        region: str,
        pods: Callable[[], Iterable[tuple[str, str]]],
        clock: Callable[[], float],
        port: int = HEALTH_PORT,
        clusters: Callable[[], int] = lambda: 1,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._api, self._namespace, self._region = api, namespace, region
        self._pods, self._clock, self._port = pods, clock, port
        self._windows: dict[str, LinkWindow] = {}
        self._ledgers: dict[str, LinkLedger] | None = None
        self._ledger_text = ""
        self._ledger_written_at = float("-inf")
        self._written_at: dict[str, float] = {}
        self._clusters, self._changed = clusters, changed
        self.budgets: tuple[BudgetFact, ...] = ()
        self.targets: tuple[LinkTarget, ...] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                try:
                    await self.round(session)
                except (errors.KubeError, ValueError) as error:
                    logger.warning("links are not looked at: %s", error)
                await asyncio.sleep(ROUND_SECONDS)

    async def round(self, session: aiohttp.ClientSession) -> None:
        """Ask, count, write.

        Raises:
            KubeError: the API server could not be asked.
            ValueError: the stored ledger cannot be read; nothing is written over it.
        """
        links = [
            link
            for link in map(_link, await self._api.list(KV_LINKS))
            if link is not None and link.spec.destination.region == self._region
        ]
        if not links:
            self._tell(())
            return
        if self._ledgers is None:
            try:
                self._ledgers = await self._stored_ledgers()
            except ValueError as error:
                await self._close_unknown(links, str(error))
                raise
        told, silent = await self._ask_all(session)
        now, at = self._api.server_now(), self._clock()
        for link in links:
            self._count(link.spec.source.region, told, silent, now, at)
        self.budgets = tuple(self._budget(link) for link in links)
        spent = {each.source for each in self.budgets if each.is_spent}
        self._tell(
            _target(link, str(Reason.BUDGET_SPENT) if link.spec.source.region in spent else None)
            for link in links
        )
        await self._write_ledger(at)
        for link in links:
            await self._write_status(link, now, at)

    def _budget(self, link: KVLink) -> BudgetFact:
        spec, source = link.spec, link.spec.source.region
        assert self._ledgers is not None  # noqa: S101 - a round reads them first
        share = share_of(spec.budget_bytes_per_month, self._clusters())
        return budget(source, self._region, self._ledgers[source], share)

    def closed(self) -> Mapping[str, str]:
        """Why no new KV may come from a region, by region."""
        return {each.source: each.closed for each in self.targets or () if each.closed is not None}

    def _tell(self, targets: Iterable[LinkTarget]) -> None:
        found = tuple(sorted(targets, key=lambda each: each.source))
        if found != self.targets:
            self.targets = found
            self._changed()

    async def _close_unknown(self, links: list[KVLink], why: str) -> None:
        """Nobody knows what is spent: that counts as all of it."""
        has_budget = [link for link in links if link.spec.budget_bytes_per_month is not None]
        names = {link.metadata.name for link in has_budget}
        self._tell(
            _target(link, str(Reason.BUDGET_UNKNOWN) if link.metadata.name in names else None)
            for link in links
        )
        for link in has_budget:
            now = self._api.server_now()
            generation = link.metadata.generation or 0
            await self._write(link, without_ledger(link.status, why, generation=generation, now=now))

    def _count(
        self, source: str, told: Mapping[str, SidecarLinks], silent: frozenset[str], now: datetime, at: float
    ) -> None:
        # A run is named after its pod too: one that does not answer now is known to be there all the same.
        counters = {
            f"{uid}/{each.epoch}": each.sources[source]
            for uid, each in told.items()
            if each.epoch and source in each.sources
        }
        window = self._windows.setdefault(source, LinkWindow())
        window.add(counters, at)
        assert self._ledgers is not None  # noqa: S101 - a round reads them first
        before = self._ledgers.get(source)
        known = before.counters if before is not None else {}
        unread = frozenset(run for run in known if run.partition("/")[0] in silent)
        reading = LinkReading(
            {run: each.received_bytes for run, each in counters.items()},
            unread,
            window.measured(at).goodput_bits_per_second,
        )
        self._ledgers[source] = advance(before, reading, now)

    async def _ask_all(
        self, session: aiohttp.ClientSession
    ) -> tuple[dict[str, SidecarLinks], frozenset[str]]:
        """What the sidecars told, by pod, and the pods that did not answer."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def ask(uid: str, address: str) -> tuple[str, SidecarLinks | None]:
            try:
                async with slots:
                    return uid, await self._ask(session, address)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                logger.debug("the sidecar of pod %s does not tell of its links: %r", uid, error)
                return uid, None

        answers = await asyncio.gather(*(ask(uid, address) for uid, address in self._pods()))
        told = {uid: links for uid, links in answers if links is not None}
        return told, frozenset(uid for uid, links in answers if links is None)

    async def _ask(self, session: aiohttp.ClientSession, address: str) -> SidecarLinks:
        host = f"[{address}]" if ":" in address else address
        async with session.get(f"http://{host}:{self._port}/status") as answer:
            answer.raise_for_status()
            body = await answer.content.read(ANSWER_BYTES)
            if not answer.content.at_eof():
                raise ValueError(f"the answer is longer than {ANSWER_BYTES} bytes")
        return read_links(body)

    async def _stored_ledgers(self) -> dict[str, LinkLedger]:
        try:
            body = await self._api.get(CONFIG_MAPS, self._namespace, keys.EGRESS_CONFIG_MAP)
        except errors.NotFound:
            return {}
        text = (body.get("data") or {}).get(LEDGER_KEY)
        if text is None:
            return {}
        try:
            return from_json(text)
        except ValueError as error:
            raise ValueError(
                f"ConfigMap {self._namespace}/{keys.EGRESS_CONFIG_MAP}: {error}; restore it, or delete it to "
                "count anew"
            ) from error

    async def _write_ledger(self, at: float) -> None:
        if at - self._ledger_written_at < LEDGER_WRITE_SECONDS or not self._ledgers:
            return
        text = to_json(self._ledgers)
        if text == self._ledger_text:
            return
        body: Object = {
            "metadata": {
                "namespace": self._namespace,
                "name": keys.EGRESS_CONFIG_MAP,
                "labels": {keys.LABEL_MANAGED_BY: keys.MANAGED_BY},
            },
            "data": {LEDGER_KEY: text},
        }
        await self._api.apply(CONFIG_MAPS, body, field_manager=keys.MANAGER_LINKS, force=True)
        self._ledger_text, self._ledger_written_at = text, at

    async def _write_status(self, link: KVLink, now: datetime, at: float) -> None:
        source = link.spec.source.region
        assert self._ledgers is not None  # noqa: S101 - a round reads them first
        wanted = status(
            link.spec,
            link.status,
            self._windows[source].measured(at),
            self._ledgers[source],
            generation=link.metadata.generation or 0,
            now=now,
            clusters=self._clusters(),
        )
        await self._write(link, wanted)

    async def _write(self, link: KVLink, wanted: KVLinkStatus) -> None:
        name, at = link.metadata.name, self._clock()
        written = self._written_at.get(name)
        ago = None if written is None else at - written
        if not is_to_be_written(link.status, wanted, written_seconds_ago=ago):
            return
        body: Object = {"metadata": {"name": name}, "status": wanted.to_api()}
        try:
            await self._api.apply_status(KV_LINKS, body, field_manager=keys.MANAGER_LINKS)
        except errors.NotFound:
            return
        self._written_at[name] = at


def read_links(body: bytes) -> SidecarLinks:
    """The links in an answer of `/status`. Sidecars of before the federation tell of none.

    Raises:
        ValueError: it is no status.
    """
    answer: Any = json.loads(body)
    if not isinstance(answer, dict) or answer.get("version") != 1:
        raise ValueError("the answer is no status of version 1")
    sources: dict[str, SourceCounters] = {}
    for each in answer.get("links") or ():
        try:
            sources[str(each["region"])] = SourceCounters(
                int(each["received_bytes"]),
                float(each["busy_seconds"]),
                int(each.get("complete_transfers") or 0),
                int(each.get("failed_transfers") or 0),
                _number(each.get("rtt_seconds")),
                _number(each.get("retransmits_percent")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a link cannot be read: {error!r}") from error
    return SidecarLinks(str(answer.get("links_epoch") or ""), sources)


def _target(link: KVLink, closed: str | None) -> LinkTarget:
    return LinkTarget(
        source=link.spec.source.region,
        capacity_bits_per_second=link.spec.capacity_bits_per_second,
        closed=closed,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _link(body: Object) -> KVLink | None:
    try:
        return KVLink.model_validate(body)
    except ValidationError as error:
        logger.warning("KVLink %s cannot be read: %s", body["metadata"]["name"], error)
        return None
