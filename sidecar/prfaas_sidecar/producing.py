"""The producer side: transfers that the local engine fills and peers pull."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from prfaas_connector.local_api.messages import Abort, Accepted, Produce, ProducerDone, Publish, Wanted
from prfaas_connector.local_api.units import Ranges
from prfaas_sidecar.arena import Reservation
from prfaas_sidecar.channels import Channel, OutPull, PendingOpen
from prfaas_sidecar.engine import Engine, differing, writer
from prfaas_sidecar.errors import COMPLETE, TransferError
from prfaas_sidecar.net.stream import OutFrame, PeerStream
from prfaas_sidecar.node import Node
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import DATA_HEADER, HEADER, WireError
from prfaas_sidecar.records import Record
from prfaas_sidecar.transfers.producer import LayoutError, ProducerTransfer, Pull

_CODE = re.compile(r"[A-Za-z]{1,64}")
_TRANSFER, _FRAME = "transfer", "frame"


@dataclass(eq=False, slots=True)
class Outgoing:
    """One transfer of the local engine."""

    announced: Produce
    engine: Engine
    transfer: ProducerTransfer
    reservation: Reservation
    record: Record
    deadline: float
    out: OutPull | None = None
    want: tuple[Ranges, ...] | None = None
    done_at: float | None = None

    @property
    def transfer_id(self) -> str:
        """Its name."""
        return self.announced.transfer_id


class Producing:
    """Decides; sockets are elsewhere. Every ending leads through `_end`, and memory through the
    reservation's holds."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._transfers: dict[str, Outgoing] = {}
        # Ended transfers that a rank may still write to.
        self._lingering: dict[str, Outgoing] = {}
        self._pending: dict[str, PendingOpen] = {}

    @property
    def running(self) -> int:
        """Transfers that have not ended."""
        return len(self._transfers)

    # The engine.

    def produce(self, engine: Engine, message: Produce) -> Accepted:
        """Reserve memory for a transfer; `produced` goes on once the engine has the answer.

        Raises:
            TransferError: it is refused, and so is the consumer that waits for it or asks later.
        """
        try:
            return self._produce(engine, message)
        except TransferError as error:
            # An id that was used before may belong to a transfer that goes on.
            if error.code != "TransferExists":
                self._node.records.remember_call(message.transfer_id, error.code, self._node.clock())
                pending = self._pending.pop(message.transfer_id, None)
                if pending is not None:
                    _refuse(pending.channel, None, pending.request.pull, error.code, error.message)
            raise

    def _produce(self, engine: Engine, message: Produce) -> Accepted:
        node, now = self._node, self._node.clock()
        if node.draining:
            raise TransferError("Draining", "the sidecar is shutting down")
        if message.transfer_id in node.records:
            raise TransferError("TransferExists", "this transfer id was used before")
        engine.require_ready()
        early = node.records.early_call(message.transfer_id, now)
        if early is not None:
            raise TransferError(early, "this transfer was ended before it began")
        try:
            bodies.check_lanes(message.lanes, tuple(() for _ in range(1 + max(_groups(message), default=-1))))
            transfer = ProducerTransfer(message.lanes, range(engine.world_size))
        except ValueError as error:
            raise TransferError("LayoutMismatch", str(error)) from error
        holds = [_TRANSFER, *(writer(rank) for rank in range(engine.world_size))]
        reservation = node.arena.reserve(message.transfer_id, transfer.sizes(), holds)
        if reservation is None:
            free = node.arena.size_bytes - node.arena.used_bytes
            raise TransferError("ArenaFull", f"{sum(transfer.sizes())} bytes are needed, {free} are free")
        record = node.records.start(message.transfer_id, "producer")
        record.opened_at = node.records.wall()
        node.metrics.running.labels("producer").inc()
        outgoing = Outgoing(message, engine, transfer, reservation, record, now + message.deadline_seconds)
        self._transfers[message.transfer_id] = outgoing
        return Accepted(message.transfer_id, reservation.offsets)

    def produced(self, transfer_id: str) -> None:
        """The engine has its answer: serve an OPEN that came before."""
        pending = self._pending.pop(transfer_id, None)
        if pending is not None:
            self._try_open(pending.channel, pending.request, None)
        outgoing = self._transfers[transfer_id]
        for rank, complete in outgoing.engine.take_dones(transfer_id):
            self.rank_done(outgoing.engine, ProducerDone(transfer_id, rank, complete))

    def publish(self, engine: Engine, message: Publish) -> None:
        """Units are complete.

        Raises:
            LayoutError: no such units.
        """
        outgoing = self._transfers.get(message.transfer_id)
        if outgoing is None or outgoing.engine is not engine:
            return
        outgoing.transfer.publish(message.lane, message.first, message.count, message.tokens)
        if outgoing.out is not None:
            outgoing.out.channel.wake()

    def rank_done(self, engine: Engine, message: ProducerDone) -> None:
        """A rank writes no more."""
        outgoing = self._transfers.get(message.transfer_id) or self._lingering.get(message.transfer_id)
        if outgoing is None and message.transfer_id not in self._node.records and not engine.gone:
            engine.remember_done(message.transfer_id, message.rank, complete=message.complete)
        if outgoing is None or outgoing.engine is not engine:
            return
        outgoing.transfer.rank_done(message.rank, complete=message.complete)
        outgoing.reservation.let_go(writer(message.rank))
        if outgoing.transfer.done and outgoing.record.state != "ended":
            outgoing.done_at = self._node.clock()
            outgoing.record.producer_done_at = self._node.records.wall()
            if not outgoing.transfer.done_complete:
                self._end(outgoing, "PrefillFailed", "the producing request ended before its KV was complete")
            else:
                self._finish_sending(outgoing)
        self._sweep()

    def abort(self, message: Abort) -> None:
        """The engine's request ended early, perhaps before it was announced: then whoever asks is told the
        code."""
        code = message.code if _CODE.fullmatch(message.code) else "PrefillFailed"
        outgoing = self._transfers.get(message.transfer_id)
        if outgoing is not None:
            self._end(outgoing, code, "the producing request was aborted")
        elif message.transfer_id not in self._node.records:
            self._node.records.remember_call(message.transfer_id, code, self._node.clock())
            self._refuse_pending(message.transfer_id, code, "the producing engine will not produce it")

    def connection_gone(self, engine: Engine, name: str) -> None:
        """A process of the engine is gone and writes no more."""
        for outgoing in [each for each in self._lingering.values() if each.engine is engine]:
            outgoing.reservation.let_go(name)
        self._sweep()

    def engine_gone(self, engine: Engine) -> None:
        """All transfers of an engine end; a rank that is still connected keeps what it may write to."""
        for outgoing in [each for each in self._transfers.values() if each.engine is engine]:
            self._end(outgoing, "EngineGone", "the engine's connection closed")
        for outgoing in [each for each in self._lingering.values() if each.engine is engine]:
            for rank in range(engine.world_size):
                if writer(rank) not in engine.connections:
                    outgoing.reservation.let_go(writer(rank))
        self._sweep()

    # The gateway.

    def cancel(self, transfer_id: str, code: str) -> bool:
        """End a transfer; whether it was running here."""
        outgoing = self._transfers.get(transfer_id)
        if outgoing is not None:
            self._end(outgoing, code, "the gateway said so")
        self._refuse_pending(transfer_id, code, "the gateway ended this transfer")
        return outgoing is not None

    # Peers.

    def open(self, channel: Channel, request: bodies.Open, stream: PeerStream) -> None:
        """A consumer asks; it may wait until the engine has announced the transfer.

        Raises:
            WireError: this pull was opened before.
        """
        given_up = channel.numbers.open(request.pull)
        if self._is_overtaken(channel, request):
            return
        if (refused := self._node.why_not_pull(channel.identity)) is not None:
            _refuse(channel, stream, request.pull, *refused)
            self._node.refused(request.transfer_id, "producer", *refused)
            return
        self._open(channel, request, stream)
        if given_up is not None:
            self.farewell(channel, request.pull, given_up)

    def _is_overtaken(self, channel: Channel, request: bodies.Open) -> bool:
        """Whether a later pull of the same transfer has come over another stream already."""
        outgoing = self._transfers.get(request.transfer_id)
        if outgoing is not None and outgoing.out is not None and outgoing.out.channel is channel:
            return request.pull < outgoing.out.pull.number
        pending = self._pending.get(request.transfer_id)
        return pending is not None and pending.channel is channel and request.pull < pending.request.pull

    def _open(self, channel: Channel, request: bodies.Open, stream: PeerStream) -> None:
        if request.transfer_id in self._transfers:
            self._try_open(channel, request, stream)
            return
        node, now = self._node, self._node.clock()
        record = node.records.get(request.transfer_id)
        early = node.records.early_call(request.transfer_id, now)
        known = self._pending.get(request.transfer_id)
        if record is not None and record.side == "producer":
            code = record.code if record.code not in (None, COMPLETE) else "UnknownTransfer"
            _refuse(channel, stream, request.pull, code or "UnknownTransfer", "this transfer has ended")
        elif early is not None:
            _refuse(channel, stream, request.pull, early, "this transfer was ended before it began")
        elif node.draining:
            _refuse(channel, stream, request.pull, "Draining", "the producer's sidecar is shutting down")
        elif known is not None and known.channel.identity != channel.identity:
            _refuse(
                channel, stream, request.pull, "NotAuthorised", "another pool has asked for this transfer"
            )
        elif known is None and len(self._pending) >= node.config.limits.pending_opens:
            _refuse(
                channel,
                stream,
                request.pull,
                "UnknownTransfer",
                "too many transfers are waiting for this engine",
            )
        else:
            wait = min(request.deadline_seconds, node.config.limits.pending_seconds)
            self._pending[request.transfer_id] = PendingOpen(channel, request, now + wait)
            channel.send(bodies.Pending(pull=request.pull), stream)

    def again(self, channel: Channel, request: bodies.Again) -> None:
        """Send units once more."""
        out = channel.pulls.get(request.pull)
        if out is None:
            return
        try:
            out.pull.again(request.lane, request.first, request.count)
        except LayoutError as error:
            raise WireError(str(error)) from error
        channel.wake()

    def farewell(self, channel: Channel, pull: int, code: str) -> None:
        """The consumer has everything, or wants no more, perhaps of a pull whose OPEN is still under way."""
        channel.numbers.give_up(pull, code)
        for transfer_id, pending in list(self._pending.items()):
            if pending.channel is channel and pending.request.pull == pull:
                del self._pending[transfer_id]
        out = channel.pulls.get(pull)
        if out is not None:
            outgoing = self._transfers[out.transfer_id]
            self._end(outgoing, code, "the consumer said so", tell_consumer=False)

    def channel_gone(self, channel: Channel) -> None:
        """No stream is left. Transfers wait for the consumer's return until their deadline."""
        for outgoing in self._transfers.values():
            if outgoing.out is not None and outgoing.out.channel is channel:
                outgoing.out = None
        channel.pulls.clear()
        for transfer_id in [key for key, pending in self._pending.items() if pending.channel is channel]:
            del self._pending[transfer_id]

    def next_frame(self, channel: Channel, stream: PeerStream) -> OutFrame | None:
        """The next DATA frame of a channel, for a stream of it that can take one."""
        picked = channel.next_chunk(self._node.config.link.frame_bytes)
        if picked is None:
            return None
        out, chunk = picked
        outgoing = self._transfers[out.transfer_id]
        unit_bytes = outgoing.transfer.lanes[chunk.lane].unit_bytes
        offset = outgoing.reservation.offsets[chunk.lane] + chunk.first * unit_bytes
        payload = self._node.arena.view(offset, chunk.count * unit_bytes)
        reservation = outgoing.reservation
        reservation.hold(_FRAME)
        wire = HEADER.size + DATA_HEADER.size + payload.nbytes
        outgoing.record.moved(wire, payload.nbytes, self._node.records.wall())
        outgoing.record.units_landed += chunk.count
        outgoing.record.streams = max(outgoing.record.streams, len(channel.streams))
        self._node.metrics.bytes_wire.labels("producer").inc(wire)
        self._node.metrics.bytes_kv.labels("producer").inc(payload.nbytes)
        if outgoing.transfer.done and not out.pull.waiting:
            # The caller puts this frame on the stream before it sends anything else that is queued.
            self._finish_sending(outgoing)
        header = stream.session.send_data(
            out.pull.number, chunk.lane, chunk.first, chunk.count, chunk.position, payload, self._node.clock()
        )
        return OutFrame(header, payload, lambda: self._frame_flushed(outgoing, reservation))

    # Time.

    def tick(self, now: float) -> None:
        """End what has run out of time."""
        for outgoing in [each for each in self._transfers.values() if now >= each.deadline]:
            self._end(outgoing, "DeadlineExceeded", "the transfer's deadline passed")
        for transfer_id in [key for key, pending in self._pending.items() if now >= pending.expires_at]:
            self._refuse_pending(
                transfer_id, "UnknownTransfer", "the producer's engine did not announce this transfer in time"
            )

    def _try_open(self, channel: Channel, request: bodies.Open, stream: PeerStream | None) -> None:
        outgoing = self._transfers[request.transfer_id]
        try:
            self._check(outgoing, channel, request)
            pull = Pull(outgoing.transfer, request)
        except TransferError as error:
            _refuse(channel, stream, request.pull, error.code, error.message)
            self._node.refused(request.transfer_id, "producer", error.code, error.message)
            return
        except LayoutError as error:
            _refuse(channel, stream, request.pull, "LayoutMismatch", str(error))
            self._node.refused(request.transfer_id, "producer", "LayoutMismatch", str(error))
            return
        if outgoing.out is not None:
            outgoing.out.channel.pulls.pop(outgoing.out.pull.number, None)
            outgoing.record.resumes += 1
        outgoing.out = OutPull(outgoing.transfer_id, channel, pull, outgoing.deadline)
        channel.pulls[request.pull] = outgoing.out
        channel.send(bodies.Opened(pull=request.pull), stream)
        if outgoing.want is None:
            outgoing.want = request.want
            outgoing.record.units_wanted = bodies.units_wanted(outgoing.transfer.lanes, request.want)
            outgoing.engine.tell_scheduler(Wanted(request.transfer_id, request.want))
        self._finish_sending(outgoing)
        channel.wake()

    def _check(self, outgoing: Outgoing, channel: Channel, request: bodies.Open) -> None:
        """Everything that must agree before a byte of KV moves."""
        if channel.identity.uri != outgoing.announced.consumer:
            raise TransferError("NotAuthorised", f"this transfer is not for {channel.identity}")
        if channel.fingerprint != outgoing.engine.fingerprint:
            text = differing(outgoing.engine.fingerprint_fields, channel.fingerprint_fields)
            raise TransferError("FingerprintMismatch", text)
        if request.prompt_digest != outgoing.announced.prompt_digest:
            raise TransferError("PromptMismatch", "the two legs carry different prompts")
        if outgoing.want is not None and request.want != outgoing.want:
            raise TransferError("LayoutMismatch", "a resumed pull wants other units than the first")

    def _finish_sending(self, outgoing: Outgoing) -> None:
        """Say END when the engine is done and everything wanted is with a stream."""
        out = outgoing.out
        if out is None or out.end_sent or not outgoing.transfer.done_complete or out.pull.waiting:
            return
        out.end_sent = True
        missing = outgoing.transfer.never_published(out.pull.want)
        shown = missing if any(missing) else ()
        out.channel.send(bodies.End(pull=out.pull.number, code=COMPLETE, message="", missing=shown))

    def _refuse_pending(self, transfer_id: str, code: str, message: str) -> None:
        pending = self._pending.pop(transfer_id, None)
        if pending is not None:
            _refuse(pending.channel, None, pending.request.pull, code, message)
            self._node.refused(transfer_id, "producer", code, message)

    def _end(self, outgoing: Outgoing, code: str, message: str, *, tell_consumer: bool = True) -> None:
        out, outgoing.out = outgoing.out, None
        if out is not None:
            out.channel.pulls.pop(out.pull.number, None)
            if tell_consumer:
                out.channel.send(bodies.End(pull=out.pull.number, code=code, message=message))
        self._transfers.pop(outgoing.transfer_id, None)
        if outgoing.done_at is not None and code == COMPLETE and outgoing.record.last_byte_at is not None:
            tail = outgoing.record.last_byte_at - (outgoing.record.producer_done_at or 0)
            self._node.metrics.tail_seconds.observe(max(0.0, tail))
        self._node.ended(outgoing.record, code, message)
        outgoing.reservation.let_go(_TRANSFER)
        if not outgoing.reservation.freed:
            self._lingering[outgoing.transfer_id] = outgoing

    def _frame_flushed(self, outgoing: Outgoing, reservation: Reservation) -> None:
        reservation.let_go(_FRAME)
        if reservation.freed:
            self._lingering.pop(outgoing.transfer_id, None)

    def _sweep(self) -> None:
        for transfer_id in [key for key, each in self._lingering.items() if each.reservation.freed]:
            del self._lingering[transfer_id]


def _groups(message: Produce) -> Iterable[int]:
    return (lane.group for lane in message.lanes)


def _refuse(channel: Channel, stream: PeerStream | None, pull: int, code: str, message: str) -> None:
    channel.send(bodies.Refused(pull=pull, code=code, message=message[:2000]), stream)
