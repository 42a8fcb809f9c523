"""Who may write: a Lease, kept by the monotonic clock.

`decide` is a function of values. A candidate judges a holder only by how long it has seen the Lease unchanged
on its own clock, so wall clocks may differ or jump.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import LEASES, Object

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds; retry < renew deadline < lease."""

    lease_seconds: int = 15
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease as it is stored. `holder` is empty when it was released."""

    holder: str
    lease_seconds: int
    acquired_at: str
    renewed_at: str
    transitions: int
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record, and when by the monotonic clock it was first seen in this form."""

    record: Record
    since: float


@dataclass(frozen=True, slots=True)
class Take:
    """Write this record, over `resource_version`, or create it when that is empty."""

    record: Record


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else holds it; it can be free after so many seconds at the earliest."""

    holder: str
    seconds: float


def decide(seen: Seen | None, me: str, now: float, wall: str, timings: Timings) -> Take | Wait:
    """What to do about the Lease.

    Args:
        seen: what is stored, None when there is no Lease.
        now: monotonic seconds.
        wall: the time to write down, for people.
    """
    if seen is None:
        return Take(Record(me, timings.lease_seconds, wall, wall, 0))
    record = seen.record
    if record.holder == me:
        # Also after a restart of the container under the same name: the process before is gone.
        return Take(replace(record, lease_seconds=timings.lease_seconds, renewed_at=wall))
    free_at = seen.since + record.lease_seconds
    if record.holder and now < free_at:
        return Wait(record.holder, free_at - now)
    return Take(
        Record(me, timings.lease_seconds, wall, wall, record.transitions + 1, record.resource_version)
    )


def read_record(body: Object) -> Record:
    """The record in a Lease; what is missing reads as released."""
    spec = body.get("spec") or {}
    return Record(
        holder=str(spec.get("holderIdentity") or ""),
        lease_seconds=int(spec.get("leaseDurationSeconds") or 1),
        acquired_at=str(spec.get("acquireTime") or ""),
        renewed_at=str(spec.get("renewTime") or ""),
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=str(body["metadata"].get("resourceVersion") or ""),
    )


def lease_body(record: Record, namespace: str, name: str) -> Object:
    """The Lease that says so."""
    metadata = {"namespace": namespace, "name": name}
    if record.resource_version:
        metadata["resourceVersion"] = record.resource_version
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.lease_seconds,
            "acquireTime": record.acquired_at or None,
            "renewTime": record.renewed_at or None,
            "leaseTransitions": record.transitions,
        },
    }


class Elector:
    """Keeps trying to hold the Lease.

    Args:
        clock: monotonic seconds; the loop's by default.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        timings: Timings,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._timings = timings
        self._clock = clock or asyncio.get_running_loop().time
        self._seen: Seen | None = None
        self._renewed_at = float("-inf")
        self.holder = ""
        self.transitions = 0
        self.leading = asyncio.Event()

    def seconds_left(self) -> float:
        """How long this process may still write, 0 or less when it may not."""
        if not self.leading.is_set():
            return 0.0
        return self._renewed_at + self._timings.renew_deadline_seconds - self._clock()

    async def hold(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then lead while renewing. Returns when leading ended by itself.

        Raises:
            LeaseLost: the Lease could not be renewed in time, or another has it. Writing has ended by then.
        """
        await self._acquire()
        logger.info("leading: %s holds the lease %s/%s", self.identity, self._namespace, self._name)
        work = asyncio.ensure_future(lead())
        renewing = asyncio.create_task(self._renew(), name="lease renewal")
        try:
            await asyncio.wait({work, renewing}, return_when=asyncio.FIRST_COMPLETED)
            # First writing stops, then all else.
            if renewing.done():
                self.leading.clear()
                await renewing
            await work
        finally:
            for task in (work, renewing):
                task.cancel()
            await asyncio.gather(work, renewing, return_exceptions=True)

    async def release(self) -> None:
        """Give the Lease back, so that another need not wait. Writing must have stopped before."""
        self.leading.clear()
        if self._seen is None or self._seen.record.holder != self.identity:
            return
        record = replace(self._seen.record, holder="", lease_seconds=1, renewed_at=_wall())
        try:
            await self._write(record, self._timings.retry_seconds)
        except errors.KubeError as error:
            logger.warning("the lease was not released, another has to wait for its end: %s", error)

    async def _acquire(self) -> None:
        failures = 0
        while True:
            try:
                await self._look()
                failures = 0
                began = self._clock()
                decision = decide(self._seen, self.identity, began, _wall(), self._timings)
                if isinstance(decision, Take):
                    await self._write(decision.record, self._timings.renew_deadline_seconds)
                    self._renewed_at = began
                    self.leading.set()
                    return
                if decision.holder != self.holder:
                    logger.info("standby: %s holds the lease", decision.holder)
                    self.holder = decision.holder
            except errors.Conflict:
                # Another was faster; the next look shows who.
                pass
            except errors.KubeError as error:
                failures += 1
                logger.log(
                    logging.WARNING if failures in {1, 10, 100} else logging.DEBUG, "standby: %s", error
                )
            await asyncio.sleep(self._timings.retry_seconds)

    async def _renew(self) -> None:
        """Renew until that fails for too long.

        Raises:
            LeaseLost: always, in the end.
        """
        failures = 0
        while True:
            await asyncio.sleep(min(self._timings.retry_seconds, max(0.0, self.seconds_left())))
            left_seconds = self.seconds_left()
            if left_seconds <= 0:
                raise LeaseLost(
                    f"not renewed for {self._timings.renew_deadline_seconds} s: writing has stopped"
                )
            try:
                began = self._clock()
                if self._seen is None:
                    await self._look()
                decision = decide(self._seen, self.identity, began, _wall(), self._timings)
                if isinstance(decision, Wait):
                    raise LeaseLost(f"{decision.holder} has taken the lease: writing has stopped")
                # A renewal is an update of what was seen; after a conflict it is read anew.
                if decision.record.transitions != self.transitions:
                    raise LeaseLost("the lease was taken by another in between: writing has stopped")
                await self._write(decision.record, left_seconds)
                self._renewed_at = began
                failures = 0
            except errors.Conflict:
                self._seen = None
            except errors.KubeError as error:
                failures += 1
                level = logging.WARNING if failures in {1, 10, 100} else logging.DEBUG
                logger.log(level, "lease not renewed, %.1f s are left: %s", self.seconds_left(), error)

    async def _look(self) -> None:
        try:
            body = await self._api.get(
                LEASES, self._namespace, self._name, deadline_seconds=self._timings.renew_deadline_seconds
            )
        except errors.NotFound:
            self._seen = None
            return
        record = read_record(body)
        if self._seen is None or self._seen.record != record:
            self._seen = Seen(record, self._clock())

    async def _write(self, record: Record, seconds: float) -> None:
        body = lease_body(record, self._namespace, self._name)
        if record.resource_version:
            answer = await self._api.replace(LEASES, body, deadline_seconds=seconds)
        else:
            answer = await self._api.create(LEASES, body, deadline_seconds=seconds)
        stored = read_record(answer)
        self._seen = Seen(stored, self._clock())
        self.holder, self.transitions = stored.holder, stored.transitions


class LeaseLost(Exception):  # noqa: N818 - says what happened
    """This process leads no more and has to end."""


def _wall() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
