"""One consumer transfer while it runs: frames in, progress to the engine out."""

from __future__ import annotations

import asyncio

from prfaas_connector.local_api.messages import Consume, Ended, Progress
from prfaas_sidecar.arena import Reservation
from prfaas_sidecar.engine import Engine
from prfaas_sidecar.errors import COMPLETE
from prfaas_sidecar.net.link import Link
from prfaas_sidecar.node import Node
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import DATA_HEADER, HEADER, DataHeader
from prfaas_sidecar.protocol.session import ControlReceived, DataReceived, Event, Landing
from prfaas_sidecar.records import Record
from prfaas_sidecar.transfers.consumer import ConsumerTransfer

# A handshake takes less.
_STARVED_SECONDS = 1.0

PROGRESS_SECONDS = 0.01


class Incoming:
    """Implements `Pulling` of its link."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        message: Consume,
        transfer: ConsumerTransfer,
        reservation: Reservation,
        record: Record,
        link: Link,
    ) -> None:
        self.engine = engine
        self.reservation = reservation
        self.record = record
        self.link = link
        self.over = False
        self.reopen_code = "LinkLost"
        self.attached_at = node.clock()
        self._node = node
        self._message = message
        self._transfer = transfer
        self._deadline = self.attached_at + message.deadline_seconds
        self._opens = 0
        self._landings: list[Landing] = []
        self._progress: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        transfer = self._transfer
        return f"<Incoming {self._message.transfer_id} {transfer.units_landed}/{transfer.units_wanted}>"

    def open_body(self, pull: int, now: float) -> bodies.Open | None:
        """For the link: what is still missing, or None when the resume budget is spent."""
        if self._opens > self._node.config.link.resumes:
            self.end(self.reopen_code, f"the transfer was interrupted {self._opens} times")
            return None
        if self._opens:
            self.record.resumes += 1
            self._node.metrics.resumes.inc()
        self._opens += 1
        self._close_landings()
        self._transfer.reopened()
        return bodies.Open(
            pull=pull,
            transfer_id=self._message.transfer_id,
            prompt_digest=self._message.prompt_digest,
            lanes=tuple(
                (lane.group, lane.layer, lane.shard, lane.units, lane.unit_bytes)
                for lane in self._message.lanes
            ),
            want=self._message.want,
            missing=self._transfer.missing(),
            deadline_seconds=max(0.001, self._deadline - now),
        )

    def place(self, header: DataHeader) -> Landing:
        """For the link: the place of a payload in the arena."""
        offset = self._transfer.claim(header)
        start = self.reservation.offsets[header.lane] + offset
        landing = Landing(self._node.arena.view(start, header.payload_bytes))
        self._landings.append(landing)
        return landing

    def received(self, event: Event) -> None:
        """For the link: a frame of the current pull."""
        if isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, ControlReceived):
            self._control(event.body)

    def fail(self, code: str, message: str) -> None:
        """For the link: it cannot go on."""
        self.end(code, message)

    def end(self, code: str, message: str, *, tell_engine: bool = True) -> None:
        """Nothing more will land. What has landed stays until the engine releases it."""
        if self.over:
            return
        self.over = True
        starved = self.link.seconds_without_stream(self) > _STARVED_SECONDS
        self._close_landings()
        if self._progress is not None:
            self._progress.cancel()
        if code == COMPLETE:
            self.link.detach(self, lambda pull: bodies.Done(pull=pull))
        else:
            self.link.detach(self, lambda pull: bodies.Cancel(pull=pull, code=code))
        self._node.ended(self.record, code, message)
        if starved or code not in ("Cancelled", "PrefillFailed", "EngineGone"):
            # Those say nothing about the way, but of one that has no stream engines take leave before it is
            # given up here.
            self._node.links.ended(self.link.target.identity.region, complete=code == COMPLETE)
        if tell_engine:
            self._report()
            self.engine.tell_scheduler(Ended(self._message.transfer_id, code, message))

    def tick(self, now: float) -> None:
        """End at the deadline."""
        if not self.over and now >= self._deadline:
            self.end("DeadlineExceeded", "the transfer's deadline passed")

    def _control(self, body: bodies.Body) -> None:
        if isinstance(body, bodies.Refused):
            self._transfer.answered(body.FRAME)
            self.end(body.code, f"the producer refused: {body.message}")
        elif isinstance(body, bodies.End):
            self._transfer.ended(body.missing if body.code == COMPLETE else ())
            if body.code != COMPLETE:
                self.end(body.code, f"the producer ended the transfer: {body.message}")
        elif isinstance(body, bodies.Pending | bodies.Opened):
            self._transfer.answered(body.FRAME)
        if not self.over and self._transfer.complete():
            self.end(COMPLETE, "")

    def _data(self, event: DataReceived) -> None:
        if event.landing.view is None:
            self._node.metrics.bytes_dropped.inc(event.header.payload_bytes)
            return
        self._landings.remove(event.landing)
        if not event.intact:
            self._corrupt(event.header)
            return
        first = self.record.first_byte_at is None
        wire = HEADER.size + DATA_HEADER.size + event.header.payload_bytes
        now = self._node.records.wall()
        self.record.moved(wire, event.header.payload_bytes, now)
        self.record.streams = max(self.record.streams, len(self.link.streams))
        self._node.metrics.bytes_wire.labels("consumer").inc(wire)
        self._node.metrics.bytes_kv.labels("consumer").inc(event.header.payload_bytes)
        if first and self.record.opened_at is not None:
            self._node.metrics.first_byte_seconds.observe(max(0.0, now - self.record.opened_at))
        self._transfer.landed(event.header)
        self.record.units_landed = self._transfer.units_landed
        if self._transfer.complete():
            self.end(COMPLETE, "")
        elif self._progress is None:
            self._progress = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._report)

    def _corrupt(self, header: DataHeader) -> None:
        self._node.metrics.checksum_failures.inc()
        again = self._transfer.corrupt(header)
        if again is None:
            self.end("ChecksumMismatch", "blocks failed their check too often")
            return
        self.link.send(bodies.Again(pull=header.pull, lane=again.lane, first=again.first, count=again.count))

    def _report(self) -> None:
        self._progress = None
        transfer = self._transfer
        if transfer.bytes_landed:
            self.engine.tell_scheduler(
                Progress(
                    self._message.transfer_id,
                    transfer.landed_ranges(),
                    transfer.positions(),
                    transfer.bytes_landed,
                )
            )

    def _close_landings(self) -> None:
        for landing in self._landings:
            landing.view = None
        self._landings.clear()
