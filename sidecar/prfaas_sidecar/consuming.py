"""The consumer side: transfers that the local engine wants from peers."""

from __future__ import annotations

from prfaas_connector.local_api.messages import Accepted, Consume, Release
from prfaas_sidecar.config import split_address
from prfaas_sidecar.engine import Engine
from prfaas_sidecar.errors import TransferError
from prfaas_sidecar.identity import IdentityError, parse
from prfaas_sidecar.incoming import Incoming
from prfaas_sidecar.net.link import Link, Target, Tls
from prfaas_sidecar.net.refusals import Lost, UnknownRegionError
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.node import Node
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import VERSION
from prfaas_sidecar.tasks import Tasks
from prfaas_sidecar.transfers.consumer import ConsumerTransfer


class Consuming:
    """All consumer transfers and the links that they use."""

    def __init__(self, node: Node, tls: Tls | None, tasks: Tasks) -> None:
        """``tls`` None: peers speak plaintext."""
        self._node = node
        self._tls = tls
        self._tasks = tasks
        self._links: dict[Target, Link] = {}
        # Until the engine releases them, which may be long after they ended.
        self._transfers: dict[str, Incoming] = {}
        # Ended with their engine; its other processes may still read their memory.
        self._orphans: list[Incoming] = []

    @property
    def running(self) -> int:
        """Transfers that have not ended."""
        return sum(1 for each in self._transfers.values() if not each.over)

    @property
    def streams(self) -> list[PeerStream]:
        """All that are open."""
        return [stream for link in self._links.values() for stream in link.streams]

    def consume(self, engine: Engine, message: Consume) -> Accepted:
        """Reserve memory for what is wanted; `start` then pulls it.

        Raises:
            TransferError: it is refused.
        """
        node, now = self._node, self._node.clock()
        if node.draining:
            raise TransferError("Draining", "the sidecar is shutting down")
        if message.transfer_id in node.records:
            raise TransferError("TransferExists", "this transfer id was used before")
        engine.require_ready()
        early = node.records.early_call(message.transfer_id, now)
        if early is not None:
            raise TransferError(early, "the gateway ended this transfer before it began")
        target = self._target(message)
        try:
            transfer = ConsumerTransfer(
                message.lanes, message.want, checksum_retries=node.config.link.checksum_retries
            )
        except ValueError as error:
            raise TransferError("LayoutMismatch", str(error)) from error
        reservation = node.arena.reserve(message.transfer_id, transfer.sizes(), ["transfer"])
        if reservation is None:
            free = node.arena.size_bytes - node.arena.used_bytes
            raise TransferError("ArenaFull", f"{sum(transfer.sizes())} bytes are needed, {free} are free")
        record = node.records.start(message.transfer_id, "consumer")
        record.opened_at = node.records.wall()
        record.units_wanted = transfer.units_wanted
        node.metrics.running.labels("consumer").inc()
        self._transfers[message.transfer_id] = Incoming(
            node, engine, message, transfer, reservation, record, self._link(target, engine)
        )
        return Accepted(message.transfer_id, reservation.offsets)

    def start(self, transfer_id: str) -> None:
        """The engine has its answer: begin to pull."""
        incoming = self._transfers.get(transfer_id)
        if incoming is not None:
            incoming.link.attach(incoming)

    def release(self, message: Release) -> None:
        """The engine reads no more."""
        incoming = self._transfers.pop(message.transfer_id, None)
        if incoming is None:
            return
        incoming.record.taken_tokens = message.taken_tokens
        incoming.end("Cancelled", "the engine released the transfer", tell_engine=False)
        incoming.reservation.let_go("transfer")

    def end(self, transfer_id: str, code: str, message: str) -> bool:
        """Stop waiting, with what has landed; whether it was running here."""
        incoming = self._transfers.get(transfer_id)
        if incoming is None or incoming.over:
            return False
        incoming.end(code, message)
        return True

    def engine_gone(self, engine: Engine) -> None:
        """All transfers of an engine end. Ranks that may still read keep the memory until they are gone
        too."""
        for transfer_id in [key for key, each in self._transfers.items() if each.engine is engine]:
            incoming = self._transfers.pop(transfer_id)
            for name in engine.connections:
                incoming.reservation.hold(name)
            incoming.end("EngineGone", "the engine's connection closed", tell_engine=False)
            incoming.reservation.let_go("transfer")
            self._orphans.append(incoming)
        # Its fingerprint is in the greeting of every stream; the next engine's may be another.
        self.close("Closed", "the engine is gone")

    def connection_gone(self, engine: Engine, name: str) -> None:
        """A process of a gone engine is gone too and reads no more."""
        for incoming in [each for each in self._orphans if each.engine is engine]:
            incoming.reservation.let_go(name)
        self._orphans = [incoming for incoming in self._orphans if not incoming.reservation.freed]

    def tick(self, now: float) -> None:
        """Deadlines, and links that nobody needs."""
        for incoming in list(self._transfers.values()):
            incoming.tick(now)
        for target, link in list(self._links.items()):
            link.tick(now)
            if link.expired(now):
                link.close()
                del self._links[target]

    def close_strangers(self) -> None:
        """Close links to producers that may not be dialled, or not be trusted, any more and that nothing
        uses."""
        for target, link in list(self._links.items()):
            if link.idle and not self._node.may_be_dialled(target.identity, target.host, target.port):
                link.close()
                del self._links[target]
            else:
                link.leave_untrusted(self._node.clock())

    def close(self, code: str, message: str) -> None:
        """Close all links."""
        for link in self._links.values():
            link.close(code, message)
        self._links.clear()

    def _target(self, message: Consume) -> Target:
        try:
            identity = parse(message.producer)
            host, port = split_address(message.producer_address)
            target = Target(host, int(port), identity, message.server_name)
        except (IdentityError, ValueError) as error:
            raise TransferError("PeerNotAllowed", f"not a peer: {error}") from error
        if not self._node.trusts(identity.region):
            raise TransferError("UnknownRegion", str(UnknownRegionError(identity.region)))
        if message.server_name is not None and self._tls is not None:
            try:
                self._tls.server_name(message.server_name)
            except ValueError as error:
                raise TransferError("PeerNotAllowed", f"producer.server_name: {error}") from error
        if not self._node.access.may_be_dialled(identity, host, target.port):
            raise TransferError(
                "PeerNotAllowed",
                f"{identity} at {message.producer_address} is not among those that may be dialled",
            )
        return target

    def _link(self, target: Target, engine: Engine) -> Link:
        link = self._links.get(target)
        if link is None:
            link = self._links[target] = Link(
                target,
                lambda channel: bodies.Hello(
                    versions=(VERSION, VERSION),
                    channel=channel,
                    identity=self._node.identity.uri,
                    fingerprint=engine.fingerprint,
                    fingerprint_fields=engine.fingerprint_fields,
                ),
                self._tls,
                self._node.config.link,
                self._node.clock,
                self._tasks,
                self._stream_lost,
                self._node.links.tally(target.identity.region),
            )
        return link

    def _stream_lost(self, lost: Lost) -> None:
        self._node.metrics.streams_lost.labels("consumer", lost.code).inc()
        self._node.an_end.set()
