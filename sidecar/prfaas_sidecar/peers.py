"""Streams that consumers opened to this sidecar: who they are, and which channel they belong to."""

from __future__ import annotations

import logging

from prfaas_sidecar.channels import Channel
from prfaas_sidecar.engine import differing
from prfaas_sidecar.identity import IdentityError, parse
from prfaas_sidecar.logs import fields
from prfaas_sidecar.net.link import Tls
from prfaas_sidecar.net.refusals import REMEDIES, Lost
from prfaas_sidecar.net.sockets import tune
from prfaas_sidecar.net.stream import OutFrame, PeerStream
from prfaas_sidecar.node import Node
from prfaas_sidecar.producing import Producing
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import VERSION, DataHeader, WireError
from prfaas_sidecar.protocol.session import ControlReceived, Event, Landing
from prfaas_sidecar.protocol.states import Role

_log = logging.getLogger(__name__)

MAX_STREAMS_PER_CHANNEL = 64
MAX_STREAMS = 4096


class PeerServer:
    """Owner of all accepted streams."""

    def __init__(self, node: Node, producing: Producing, tls: Tls | None) -> None:
        self._node = node
        self._tls = tls
        self._producing = producing
        self._streams: dict[PeerStream, Channel | None] = {}
        self._channels: dict[tuple[str, str], Channel] = {}

    def protocol(self) -> PeerStream:
        """For the listener: a protocol for a connection that was admitted."""
        return PeerStream(Role.PRODUCER, self, self._node.clock)

    @property
    def streams(self) -> list[PeerStream]:
        """All that are open."""
        return list(self._streams)

    def tick(self, now: float) -> None:
        """Signs of life."""
        link = self._node.config.link
        for stream in list(self._streams):
            if not stream.ready and now - stream.connected_at > link.connect_seconds:
                stream.abort("PeerSilent", "no HELLO within the connect time")
            else:
                stream.tick(now, link.ping_seconds, link.silence_seconds)

    def close_strangers(self) -> None:
        """Close streams of consumers that are not on the list any more, or not trusted, and have nothing
        under way."""
        for stream, channel in list(self._streams.items()):
            idle = channel is None or not channel.pulls
            if stream.identity is None:
                continue
            if (refused := self._node.why_not_pull(stream.identity)) is not None:
                if idle:
                    self._turn_away(stream, *refused)
            elif self._tls is not None and not self._tls.stands(stream.context):
                stream.leave_untrusted(self._node.clock(), idle=idle)

    def close(self, code: str, message: str) -> None:
        """Close every stream."""
        for stream in list(self._streams):
            stream.close(code, message)

    # What streams report.

    def stream_connected(self, stream: PeerStream) -> None:
        """Whoever holds a certificate of the right CA is heard only when its pool is on the list."""
        self._streams[stream] = None
        if len(self._streams) > MAX_STREAMS:
            self._refuse(stream, "Draining", "too many streams", "too_many_streams")
        elif stream.nameless is not None:
            self._refuse(stream, "NotAuthorised", stream.nameless, "not_authorised")
        elif stream.wrong_region is not None:
            self._turn_away(stream, "WrongRegion", f"{stream.wrong_region}; {REMEDIES['wrong_region']}")
        elif (
            stream.identity is not None and (refused := self._node.why_not_pull(stream.identity)) is not None
        ):
            self._turn_away(stream, *refused)

    def stream_place(self, stream: PeerStream, header: DataHeader) -> Landing:
        """The state table lets no DATA come this far."""
        raise WireError("a producer takes no DATA")

    def stream_event(self, stream: PeerStream, event: Event) -> None:
        """A control frame."""
        body = event.body if isinstance(event, ControlReceived) else None
        if isinstance(body, bodies.Hello):
            self._hello(stream, body)
            return
        channel = self._streams.get(stream)
        if channel is None:
            raise WireError("a frame before HELLO")
        if isinstance(body, bodies.Open):
            self._producing.open(channel, body, stream)
        elif isinstance(body, bodies.Again):
            self._producing.again(channel, body)
        elif isinstance(body, bodies.Done):
            self._producing.farewell(channel, body.pull, "complete")
        elif isinstance(body, bodies.Cancel):
            self._producing.farewell(channel, body.pull, body.code)

    def stream_frame(self, stream: PeerStream) -> OutFrame | None:
        """The next DATA frame of the stream's channel."""
        channel = self._streams.get(stream)
        return None if channel is None else self._producing.next_frame(channel, stream)

    def stream_lost(self, stream: PeerStream, lost: Lost) -> None:
        """Leave the channel; with its last stream the channel goes."""
        if stream not in self._streams:
            return
        channel = self._streams.pop(stream)
        self._node.an_end.set()
        self._node.metrics.streams_lost.labels("producer", lost.code).inc()
        _log.info(
            "stream of a consumer ended",
            extra=fields(peer=str(stream.identity or stream.address), code=lost.code, reason=lost.message),
        )
        if channel is None:
            return
        channel.streams.remove(stream)
        if not channel.streams:
            self._channels.pop((channel.identity.uri, channel.name), None)
            self._producing.channel_gone(channel)
        else:
            channel.wake()

    def _hello(self, stream: PeerStream, hello: bodies.Hello) -> None:
        node = self._node
        lowest, highest = hello.versions
        if not lowest <= VERSION <= highest:
            raise WireError(f"the peer speaks versions {lowest} to {highest}, this side {VERSION}")
        if stream.identity is None:
            # Plaintext by explicit configuration: the claim is all there is.
            try:
                stream.identity = parse(hello.identity)
            except IdentityError as error:
                raise WireError(str(error)) from error
            if (refused := node.why_not_pull(stream.identity)) is not None:
                self._turn_away(stream, *refused)
                return
        if hello.identity != stream.identity.uri:
            self._refuse(
                stream, "NotAuthorised", "HELLO and certificate name different identities", "not_authorised"
            )
            return
        engine = node.engine
        if engine is not None and engine.fingerprint != hello.fingerprint:
            text = differing(engine.fingerprint_fields, hello.fingerprint_fields)
            self._refuse(stream, "FingerprintMismatch", text, "fingerprint")
            return
        key = (stream.identity.uri, hello.channel)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(
                stream.identity, hello.channel, hello.fingerprint, hello.fingerprint_fields
            )
        elif channel.fingerprint != hello.fingerprint:
            raise WireError("streams of one channel have different fingerprints")
        elif len(channel.streams) >= MAX_STREAMS_PER_CHANNEL:
            self._refuse(stream, "ProtocolError", "too many streams in one channel", "too_many_streams")
            return
        channel.streams.append(stream)
        self._streams[stream] = channel
        budget = node.config.link.budget_bits_per_second
        for each in channel.streams:
            tune(
                each.socket,
                congestion_control=node.config.link.congestion_control,
                pacing_bytes_per_second=None if budget is None else budget // 8 // len(channel.streams),
            )
        stream.send(
            bodies.HelloAck(
                version=VERSION,
                identity=node.identity.uri,
                fingerprint="" if engine is None else engine.fingerprint,
            )
        )
        channel.wake()

    def _turn_away(self, stream: PeerStream, code: str, message: str) -> None:
        reasons = {"UnknownRegion": "unknown_region", "WrongRegion": "wrong_region"}
        self._refuse(stream, code, message, reasons.get(code, "not_authorised"))

    def _refuse(self, stream: PeerStream, code: str, message: str, reason: str) -> None:
        self._node.metrics.handshakes_refused.labels("peer", reason).inc()
        _log.warning(
            "peer refused",
            extra=fields(peer=str(stream.identity or stream.address), code=code, reason=message),
        )
        stream.close(code, message)
