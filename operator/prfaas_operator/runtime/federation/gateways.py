"""Asks the own gateways how they see other regions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import ValidationError

from prfaas.api.v1alpha1 import Hop
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import PODS, Object
from prfaas_operator.federation.regions import GatewayView

logger = logging.getLogger(__name__)

SELECTOR = "app.kubernetes.io/part-of=prfaas,app.kubernetes.io/component=gateway"
HEALTH_PORT_NAME = "health"
ASK_EVERY_SECONDS = 5.0
LIST_EVERY_SECONDS = 30.0
ASK_SECONDS = 3.0
ANSWER_BYTES = 4 * 1024 * 1024
# More see no more.
GATEWAYS_MAX = 8


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int


class GatewayViews:
    """What gateways told, region by region.

    Args:
        changed: told after every round.

    Attributes:
        views: by region, one per gateway that answered in the last round.
    """

    def __init__(
        self, api: KubeApi, *, namespace: str, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._changed = changed
        self._addresses: tuple[Address, ...] = ()
        self._listed_at = float("-inf")
        self.views: Mapping[str, tuple[GatewayView, ...]] = {}
        self.asked_at = float("-inf")

    async def run(self) -> None:
        """Ask until cancelled."""
        limits = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=limits, trust_env=False) as session:
            while True:
                await self._find()
                answers = await asyncio.gather(*(self._ask(session, each) for each in self._addresses))
                self.views = by_region([each for each in answers if each is not None])
                self.asked_at = self._clock()
                if self._addresses and not any(answers):
                    # They may all be new pods.
                    self._listed_at = float("-inf")
                self._changed()
                await asyncio.sleep(ASK_EVERY_SECONDS)

    def heard_seconds(self, cluster: str) -> float | None:
        """How long ago a cluster of another region was heard by a gateway here; None: never."""
        waited = self._clock() - self.asked_at
        ages = [
            view.age_seconds + waited
            for views in self.views.values()
            for view in views
            if view.cluster == cluster and view.age_seconds is not None
        ]
        return min(ages, default=None)

    def reports(self, region: str) -> dict[str, Mapping[str, object]]:
        """Reports of a region's clusters, by name."""
        return {
            view.cluster: view.report
            for view in self.views.get(region, ())
            if view.cluster and view.report is not None
        }

    async def _find(self) -> None:
        if self._clock() - self._listed_at < LIST_EVERY_SECONDS:
            return
        try:
            pods = await self._api.list(PODS, self._namespace, label_selector=SELECTOR)
        except errors.KubeError as error:
            logger.info("gateways cannot be listed: %s", error)
            return
        self._addresses = tuple(found for pod in pods if (found := address_of(pod)) is not None)[
            :GATEWAYS_MAX
        ]
        self._listed_at = self._clock()

    async def _ask(
        self, session: aiohttp.ClientSession, address: Address
    ) -> Mapping[str, GatewayView] | None:
        host = f"[{address.host}]" if ":" in address.host else address.host
        try:
            async with session.get(f"http://{host}:{address.port}/v1/regions") as answer:
                answer.raise_for_status()
                body = await answer.content.read(ANSWER_BYTES)
                return read_views(body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            logger.debug("gateway %s does not tell of regions: %r", address.host, error)
            return None


def address_of(pod: Object) -> Address | None:
    """Where a gateway's health listener is; None: it does not run."""
    status = pod.get("status") or {}
    if status.get("phase") != "Running" or not status.get("podIP"):
        return None
    ports = [
        port
        for container in (pod.get("spec") or {}).get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name") == HEALTH_PORT_NAME
    ]
    return Address(str(status["podIP"]), int(ports[0]["containerPort"])) if ports else None


def read_views(body: bytes) -> dict[str, GatewayView]:
    """An answer of `GET /v1/regions`, by region. Keys that are not known are ignored.

    Raises:
        ValueError: it is none of version 1.
    """
    answer: Any = json.loads(body)
    if not isinstance(answer, dict) or answer.get("version") != 1:
        raise ValueError("the answer is no list of regions of version 1")
    entries = answer.get("regions")
    return {
        str(entry["name"]): _view(entry)
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and entry.get("name")
    }


def _view(entry: Mapping[str, Any]) -> GatewayView:
    age = entry.get("age_seconds")
    report, code = entry.get("report"), entry.get("code")
    return GatewayView(
        cluster=str(entry.get("cluster") or ""),
        age_seconds=float(age) if isinstance(age, int | float) and not isinstance(age, bool) else None,
        hops=tuple(_hops(entry.get("hops"))),
        code=code if isinstance(code, str) else None,
        report=report if isinstance(report, dict) else None,
    )


def _hops(entries: Any) -> list[Hop]:
    found: dict[str, Hop] = {}
    for each in entries if isinstance(entries, list) else ():
        if not isinstance(each, dict):
            continue
        words = [str(each[name]) for name in ("message", "remedy") if each.get(name)]
        try:
            hop = Hop.model_validate(
                {"name": each.get("name"), "ok": each.get("ok"), "message": ": ".join(words)[:1024] or None}
            )
        except ValidationError:
            # A step that a newer gateway looks at.
            continue
        found[str(hop.name)] = hop
    return list(found.values())


def by_region(answers: list[Mapping[str, GatewayView]]) -> dict[str, tuple[GatewayView, ...]]:
    names = sorted({name for answer in answers for name in answer})
    return {name: tuple(answer[name] for answer in answers if name in answer) for name in names}
