"""Asks the own gateways what they have counted of each route, and has thresholds planned from it.

Gateways know nothing of this: they answer `/observations` to whoever asks. Runs on the leader only. A plan is
made in a thread, with a limit of time; without one the previous plan stays, and says why.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from prfaas.capacity import KVSize
from prfaas.capacity.errors import InvalidInputError
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import PODS
from prfaas.route_plan import RouteMeasurements, ThresholdPlan, plan_threshold
from prfaas_operator.planning.measured import (
    NOTHING_MEASURED,
    OBSERVATIONS_VERSION,
    RouteCount,
    RouteMeasured,
    Standing,
    counts_of,
    measurements,
    moved,
)
from prfaas_operator.planning.values import RouteKey
from prfaas_operator.runtime.federation.gateways import GATEWAYS_MAX, SELECTOR, Address, address_of

logger = logging.getLogger(__name__)

ASK_EVERY_SECONDS = 30.0
ASK_SECONDS = 3.0
ANSWER_BYTES = 4 * 1024 * 1024
PLAN_EVERY_SECONDS = 300.0
# A link whose rate has moved by so much is another one to a plan. Half a minute between two plans, so that a
# link that flaps does not drag the threshold along.
CHANGED_FACTOR = 1.5
PLAN_PAUSE_SECONDS = 30.0
PLAN_SECONDS = 2.0


class RouteBook:
    """What is known of each route.

    Args:
        kv_of: a route's size of KV, by its decode pool's profile; None while nobody has measured.
        changed: told of a route whose numbers are new, and whether its threshold moved.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        clock: Callable[[], float],
        kv_of: Callable[[RouteKey], KVSize | None],
        changed: Callable[[RouteKey, bool], None],
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._kv_of = kv_of
        self._changed = changed
        self._measured: dict[RouteKey, RouteMeasured] = {}
        self._planned: dict[RouteKey, tuple[float, RouteMeasurements]] = {}

    def of(self, key: RouteKey) -> RouteMeasured:
        """What is known of a route."""
        return self._measured.get(key, NOTHING_MEASURED)

    async def run(self) -> None:
        """Ask and plan until cancelled."""
        limits = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=limits, trust_env=False) as session:
            while True:
                try:
                    await self.round(session, await self._addresses())
                except Exception:
                    logger.exception("what gateways have counted cannot be used: a defect, report it")
                await asyncio.sleep(ASK_EVERY_SECONDS)

    async def round(self, session: aiohttp.ClientSession, addresses: tuple[Address, ...]) -> None:
        """Ask these gateways once, and plan what is due."""
        answers = await asyncio.gather(*(_ask(session, each) for each in addresses))
        counts = counts_of(answer for answer in answers if answer is not None)
        for name, count in counts.items():
            namespace, _, route = name.partition("/")
            if route:
                await self._take(RouteKey(namespace, route), count)

    async def _take(self, key: RouteKey, count: RouteCount) -> None:
        before = self.of(key)
        standing = before.standing
        asked = measurements(count, self._kv_of(key))
        if asked is not None and self._is_due(key, asked):
            self._planned[key] = (self._clock(), asked)
            standing = await _planned(key, asked, standing)
        after = RouteMeasured(count, standing)
        if before.threshold_tokens is not None and after.threshold_tokens is not None:
            told = moved(before.threshold_tokens, after.threshold_tokens)
            if not told and standing is not None and before.standing is not None:
                # What gateways are told moves only with something that matters.
                plan = before.standing.plan if standing.stale_because is None else standing.plan
                after = RouteMeasured(count, Standing(plan, standing.made_at, standing.stale_because))
        else:
            told = before.threshold_tokens != after.threshold_tokens
        self._measured[key] = after
        self._changed(key, told)

    def _is_due(self, key: RouteKey, asked: RouteMeasurements) -> bool:
        if key not in self._planned:
            return True
        at, before = self._planned[key]
        age = self._clock() - at
        return age >= PLAN_EVERY_SECONDS or (age >= PLAN_PAUSE_SECONDS and has_changed(before, asked))

    async def _addresses(self) -> tuple[Address, ...]:
        try:
            pods = await self._api.list(PODS, self._namespace, label_selector=SELECTOR)
        except errors.KubeError as error:
            logger.info("gateways cannot be listed: %s", error)
            return ()
        return tuple(found for pod in pods if (found := address_of(pod)) is not None)[:GATEWAYS_MAX]


def has_changed(before: RouteMeasurements, after: RouteMeasurements) -> bool:
    """Whether what a plan was made for is no more: engines, links, or that the size of the KV is known."""
    one, other = ({each.name: each for each in asked.remote} for asked in (before, after))
    if one.keys() != other.keys() or (before.kv is None) != (after.kv is None):
        return True
    pairs = [(before.local_instances, after.local_instances)]
    pairs += [(one[name].instances, other[name].instances) for name in one]
    if any(old != new for old, new in pairs):
        return True
    rates = ((one[name].bits_per_second, other[name].bits_per_second) for name in one)
    return any(_rate_changed(old, new) for old, new in rates)


def _rate_changed(before: float | None, after: float | None) -> bool:
    if not before or not after:
        return bool(before) != bool(after)
    return max(before, after) > CHANGED_FACTOR * min(before, after)


async def _planned(key: RouteKey, asked: RouteMeasurements, standing: Standing | None) -> Standing | None:
    try:
        plan: ThresholdPlan = await asyncio.to_thread(_plan, asked)
    except (InvalidInputError, TimeoutError, ImportError) as error:
        logger.warning("no threshold was planned for route %s/%s: %s", key.namespace, key.name, error)
        return None if standing is None else Standing(standing.plan, standing.made_at, str(error))
    logger.info(
        "route %s/%s: threshold %d tokens; %s", key.namespace, key.name, plan.threshold_tokens, plan.sentence
    )
    return Standing(plan, datetime.now(UTC))


def _plan(asked: RouteMeasurements) -> ThresholdPlan:
    """In a thread.

    Raises:
        TimeoutError: no plan in time.
    """
    from prfaas.planner import PlanTimeoutError

    started = time.monotonic()
    try:
        return plan_threshold(
            asked, time_limit_seconds=PLAN_SECONDS, elapsed_seconds=lambda: time.monotonic() - started
        )
    except PlanTimeoutError as error:
        raise TimeoutError(str(error)) from error


async def _ask(session: aiohttp.ClientSession, address: Address) -> Mapping[str, Any] | None:
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        async with session.get(f"http://{host}:{address.port}/observations") as answer:
            answer.raise_for_status()
            document: Any = json.loads(await answer.content.read(ANSWER_BYTES))
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        logger.debug("gateway %s does not tell what it observes: %r", address.host, error)
        return None
    if not isinstance(document, dict) or document.get("version") != OBSERVATIONS_VERSION:
        logger.debug("gateway %s tells in another version", address.host)
        return None
    return document
