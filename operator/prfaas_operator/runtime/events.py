"""Kubernetes Events (events.k8s.io/v1): one per thing that happened, repeated ones as a series."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import EVENTS, Object
from prfaas_operator.planning.actions import Event

logger = logging.getLogger(__name__)

REMEMBERED = 4096
# Events live for an hour at the server; a series ends before that.
SERIES_SECONDS = 1800.0
# A series is told of at most so often.
REPEAT_SECONDS = 60.0
NOTE_CHARACTERS = 1024
EVENT_SECONDS = 5.0
CONTROLLER = "prfaas.io/operator"


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class _Told:
    name: str
    since: float
    last: float
    count: int


def event_name(about: str, identity: str, at: datetime) -> str:
    """A name under which events of one object stand in the order in which they happened.

    kubectl orders events by a field that events.k8s.io/v1 does not have, which leaves those of an object in
    the order of their names.
    """
    microseconds = int(at.timestamp() * 1_000_000)
    digest = hashlib.sha256(f"{identity}\0{microseconds}".encode()).hexdigest()[:6]
    return f"{about[:230]}.{microseconds:014x}{digest}"


class EventWriter:
    """Writes events, best effort: one that cannot be written is counted and logged, and fails nothing.

    Args:
        instance: this operator's identity.
        clock: monotonic seconds.
        dropped: told of the reason of each that was not written.
    """

    def __init__(
        self, api: KubeApi, *, instance: str, clock: Callable[[], float], dropped: Callable[[str], None]
    ) -> None:
        self._api = api
        self._instance = instance
        self._clock = clock
        self._dropped = dropped
        self._told: OrderedDict[str, _Told] = OrderedDict()

    async def write(self, regarding: Regarding, events: Iterable[Event]) -> None:
        """Call it after the status was written, so that who reads an event finds the status that goes with
        it.
        """
        for event in events:
            try:
                await self._write_one(regarding, event)
            except errors.KubeError as error:
                self._dropped(error.reason)
                logger.warning(
                    "event %s of %s/%s: %s", event.reason, regarding.namespace, regarding.name, error
                )

    async def _write_one(self, regarding: Regarding, event: Event) -> None:
        now, at = self._clock(), datetime.now(UTC)
        wall = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        identity = f"{regarding.uid}\0{event.type}\0{event.reason}\0{event.message}"
        told = self._told.get(identity)
        if told is not None and now - told.since < SERIES_SECONDS:
            told = replace(told, count=told.count + 1)
            self._told[identity] = told
            if now - told.last < REPEAT_SECONDS:
                return
            self._told[identity] = replace(told, last=now)
            series = {"series": {"count": told.count, "lastObservedTime": wall}}
            try:
                await self._api.patch(
                    EVENTS,
                    regarding.namespace,
                    told.name,
                    series,
                    field_manager=keys.MANAGER_CHILDREN,
                    deadline_seconds=EVENT_SECONDS,
                )
            except errors.NotFound:
                del self._told[identity]
            else:
                return
        name = event_name(regarding.name, identity, at)
        await self._api.create(
            EVENTS, self._body(regarding, event, name, wall), deadline_seconds=EVENT_SECONDS
        )
        self._told[identity] = _Told(name, now, now, 1)
        self._told.move_to_end(identity)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def _body(self, regarding: Regarding, event: Event, name: str, wall: str) -> Object:
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": regarding.namespace, "name": name},
            "eventTime": wall,
            "type": str(event.type),
            "reason": event.reason,
            "note": event.message[:NOTE_CHARACTERS],
            "action": "Reconcile",
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
                "resourceVersion": regarding.resource_version,
            },
        }
