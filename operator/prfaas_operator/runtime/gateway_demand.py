"""Asks the own gateways what comes: lengths of prompts by route, and requests that found no engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import PODS
from prfaas_operator.runtime.federation.gateways import GATEWAYS_MAX, SELECTOR, Address, address_of

logger = logging.getLogger(__name__)

LIST_EVERY_SECONDS = 30.0
ANSWER_BYTES = 4 * 1024 * 1024
TURNED_AWAY = 'code="NoDecodeEngine"'
REQUESTS = "prfaas_gateway_requests_total"


@dataclass(frozen=True, slots=True)
class Demand:
    """What the gateways told in a round.

    Attributes:
        answered: how many did; with none nothing is known.
        lengths: requests by bin of a LengthSketch, by route `namespace/name`.
        turned_away_per_second: requests without a decode engine, by model.
    """

    answered: int = 0
    lengths: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    turned_away_per_second: Mapping[str, float] = field(default_factory=dict)


class GatewayDemand:
    """Asks once a round. Gateways that do not answer count as not there.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, api: KubeApi, *, namespace: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._addresses: tuple[Address, ...] = ()
        self._listed_at = float("-inf")
        self._counts: dict[Address, tuple[float, dict[str, float]]] = {}

    async def ask(self, session: aiohttp.ClientSession) -> Demand:
        """Ask all, one after another: there are few, and each answers at once."""
        await self._find()
        lengths: dict[str, dict[int, float]] = {}
        rates: dict[str, float] = {}
        answered = 0
        for address in self._addresses:
            try:
                told = await _get(session, address, "/observations")
                page = await _get(session, address, "/metrics")
                add_lengths(lengths, json.loads(told))
                counts = turned_away(page.decode(errors="replace"))
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                logger.debug("gateway %s does not tell what comes: %r", address.host, error)
                continue
            answered += 1
            now = self._clock()
            before = self._counts.get(address)
            self._counts[address] = (now, counts)
            if before is None or now <= before[0]:
                continue
            for model, count in counts.items():
                grown = max(0.0, count - before[1].get(model, 0.0)) / (now - before[0])
                rates[model] = rates.get(model, 0.0) + grown
        self._counts = {each: self._counts[each] for each in self._addresses if each in self._counts}
        return Demand(answered, lengths, rates)

    async def _find(self) -> None:
        if self._clock() - self._listed_at < LIST_EVERY_SECONDS:
            return
        try:
            pods = await self._api.list(PODS, self._namespace, label_selector=SELECTOR)
        except errors.KubeError as error:
            logger.info("gateways cannot be listed: %s", error)
            return
        found = (address_of(pod) for pod in pods)
        self._addresses = tuple(each for each in found if each is not None)[:GATEWAYS_MAX]
        self._listed_at = self._clock()


async def _get(session: aiohttp.ClientSession, address: Address, path: str) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    async with session.get(f"http://{host}:{address.port}{path}") as answer:
        answer.raise_for_status()
        body = bytearray()
        async for part in answer.content.iter_any():
            body += part
            if len(body) > ANSWER_BYTES:
                raise ValueError(f"the answer is longer than {ANSWER_BYTES} bytes")
    return bytes(body)


def add_lengths(known: dict[str, dict[int, float]], document: Any) -> None:
    """Add what a gateway's `/observations` say.

    Raises:
        ValueError: it is no answer of version 1.
    """
    if not isinstance(document, dict) or document.get("version") != 1:
        raise ValueError("the answer is no observations of version 1")
    for route, told in (document.get("routes") or {}).items():
        row = known.setdefault(str(route), {})
        for index, count in ((told.get("tally") or {}).get("lengths") or {}).items():
            row[int(index)] = row.get(int(index), 0.0) + float(count)


def turned_away(exposition: str) -> dict[str, float]:
    """Requests without a decode engine so far, by model."""
    lines = [line for line in exposition.splitlines() if line.startswith(REQUESTS) and TURNED_AWAY in line]
    found: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            model = sample.labels.get("model", "")
            found[model] = found.get(model, 0.0) + sample.value
    return found
