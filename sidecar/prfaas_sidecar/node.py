"""What both sides of a sidecar share: arena, engine, records, counters, time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from prfaas_sidecar.access import Access
from prfaas_sidecar.arena import Arena
from prfaas_sidecar.config import Config
from prfaas_sidecar.engine import Engine
from prfaas_sidecar.identity import Identity
from prfaas_sidecar.links import Links
from prfaas_sidecar.logs import fields
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.refusals import UnknownRegionError
from prfaas_sidecar.records import Record, Records
from prfaas_sidecar.sending import Sending

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Node:
    """One sidecar process."""

    config: Config
    identity: Identity
    arena: Arena
    records: Records
    metrics: Metrics
    clock: Callable[[], float]
    access: Access
    links: Links = field(default_factory=Links)
    sending: Sending = field(default_factory=Sending)
    engine: Engine | None = None
    stopping: bool = False
    """The process ends; for good."""
    drain_asked: bool = False
    """The engine is about to end; until a new run of it greets."""
    an_end: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a transfer or a stream has ended; for whoever waits until none is left."""

    @property
    def draining(self) -> bool:
        """Whether new transfers are refused."""
        return self.stopping or self.drain_asked

    def trusts(self, region: str) -> bool:
        """Whether anybody of a region can be believed."""
        regions = self.access.regions
        return regions is None or region == self.identity.region or region in regions

    def why_not_pull(self, identity: Identity) -> tuple[str, str] | None:
        """Code and text why this pool may not have KV from here; None when it may."""
        if not self.trusts(identity.region):
            return "UnknownRegion", str(UnknownRegionError(identity.region))
        if not self.access.may_pull(identity):
            return "NotAuthorised", f"{identity} is not on the list of who may pull"
        return None

    def may_be_dialled(self, identity: Identity, host: str, port: int) -> bool:
        """Whether KV may be fetched there."""
        return self.access.may_be_dialled(identity, host, port) and self.trusts(identity.region)

    def ended(self, record: Record, code: str, message: str) -> None:
        """A transfer is over: record it, count it, say it."""
        if record.state == "ended":
            return
        record.end(code, self.records.wall())
        self.an_end.set()
        self.metrics.transfers.labels(record.side, code).inc()
        self.metrics.running.labels(record.side).dec()
        if record.opened_at is not None and record.ended_at is not None:
            self.metrics.total_seconds.labels(record.side).observe(
                max(0.0, record.ended_at - record.opened_at)
            )
        _log.log(
            logging.INFO if code == "complete" else logging.WARNING,
            "transfer ended",
            extra=fields(
                transfer_id=record.transfer_id,
                side=record.side,
                code=code,
                reason=message,
                units_wanted=record.units_wanted,
                units_landed=record.units_landed,
                bytes_kv=record.bytes_kv,
                resumes=record.resumes,
            ),
        )

    def refused(self, transfer_id: str, side: str, code: str, message: str) -> None:
        """A transfer did not start."""
        self.metrics.refused.labels(side, code).inc()
        _log.warning(
            "transfer refused", extra=fields(transfer_id=transfer_id, side=side, code=code, reason=message)
        )
