"""One stream of the peer protocol on an asyncio transport: a session on one side, an owner on the other."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from prfaas_sidecar.identity import Identity, IdentityError, of_certificate
from prfaas_sidecar.net.refusals import Lost
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import DataHeader, WireError
from prfaas_sidecar.protocol.session import Event, Landing, Session
from prfaas_sidecar.protocol.states import Role, StreamState

_log = logging.getLogger(__name__)

_SLICE_BYTES = 256 << 10
_SLICES_PER_TURN = 4
_MAX_CONTROL_FRAMES = 4096
_CLOSE_SECONDS = 2.0
UNTRUSTED_SECONDS = 60.0
_SINK = memoryview(bytearray(64 << 10))
"""What arrives on a stream that is being closed ends here, whoever's it is."""


@dataclass(slots=True)
class OutFrame:
    """A DATA frame to send. ``flushed`` is called once, when nothing refers to the payload's memory any
    more."""

    header: bytes
    payload: memoryview
    flushed: Callable[[], None]


class Owner(Protocol):
    """Who a stream belongs to."""

    def stream_connected(self, stream: PeerStream) -> None:
        """TCP and TLS are done. ``stream.identity`` is set where a certificate told it, ``stream.nameless``
        says
        why a certificate told none; without TLS both are None."""

    def stream_place(self, stream: PeerStream, header: DataHeader) -> Landing:
        """Where a payload belongs; raises WireError."""

    def stream_event(self, stream: PeerStream, event: Event) -> None:
        """A whole frame arrived; raises WireError."""

    def stream_frame(self, stream: PeerStream) -> OutFrame | None:
        """The next DATA frame for a stream that can take one."""

    def stream_lost(self, stream: PeerStream, lost: Lost) -> None:
        """The stream is gone; called once for every stream that was connected."""


class PeerStream(asyncio.BufferedProtocol):
    """Glue between transport and session. At most one DATA frame is between the owner's queue and the
    kernel."""

    def __init__(
        self,
        role: Role,
        owner: Owner,
        clock: Callable[[], float],
        tally: Callable[[int], None] | None = None,
    ) -> None:
        """``tally`` is told of the bytes that come in."""
        self.identity: Identity | None = None
        self.nameless: str | None = None
        self.context: ssl.SSLContext | None = None
        """What the peer was verified by; None without TLS."""
        self.tls_error: ssl.SSLError | None = None
        self.address = ""
        self.connected_at = 0.0
        self.sent_bytes = 0
        """Payloads that the transport was given."""
        self._owner = owner
        self._clock = clock
        self._tally = tally
        self.session = Session(role, self._place, clock())
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._paused_at = 0.0
        self._lost: Lost | None = None
        self._control: deque[bytes] = deque()
        self._current: OutFrame | None = None
        self._sent = 0
        self._unflushed: OutFrame | None = None
        self._pump_scheduled = False
        self._closer: asyncio.TimerHandle | None = None
        self._ping_number = 0
        self._doubted_at: float | None = None

    def __repr__(self) -> str:
        return f"<PeerStream {self.identity or self.address} {self.session.state.name}>"

    @property
    def ready(self) -> bool:
        """Whether both sides have greeted and neither has left."""
        return self.session.state is StreamState.READY and self._lost is None

    @property
    def waits_for_path(self) -> bool:
        """Whether there is more to send than the path takes."""
        return self._paused and self._lost is None

    @property
    def wrong_region(self) -> str | None:
        """What is wrong when the peer's authority speaks for another region than its identity names."""
        region = getattr(self.context, "region", None)
        if region is None or self.identity is None or self.identity.region == region:
            return None
        return (
            f"{self.identity} is signed by the authority of region {region}, which does not speak for region "
            f"{self.identity.region}"
        )

    @property
    def socket(self) -> Any:
        """The socket, for options and measurements; None when not connected."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection, with TLS where used, is up."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        self.connected_at = self._clock()
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
        encrypted = transport.get_extra_info("sslcontext") is not None
        # A plain transport pauses above its limit, a TLS transport at it: with 0 it would pause for ever.
        transport.set_write_buffer_limits(high=1 if encrypted else 0, low=0)
        if encrypted:
            self.context = getattr(transport.get_extra_info("ssl_object"), "context", None)
            try:
                self.identity = of_certificate(transport.get_extra_info("peercert"))
            except IdentityError as error:
                self.nameless = str(error)
        self._owner.stream_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to read to. It must never be empty, least of all after a violation."""
        return self.session.next_buffer() if self._lost is None else _SINK

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: bytes were read."""
        if self._tally is not None:
            self._tally(nbytes)
        if self._lost is not None:
            return
        try:
            for event in self.session.received(nbytes, self._clock()):
                if self._lost is None:
                    self._handle(event)
        except WireError as violation:
            self.close("ProtocolError", str(violation))

    def eof_received(self) -> bool:
        """asyncio: the peer closed its side; the transport closes itself."""
        return False

    def pause_writing(self) -> None:
        """asyncio: the transport holds bytes that the kernel did not take."""
        self._paused = True
        self._paused_at = self._clock()

    def resume_writing(self) -> None:
        """asyncio: the transport holds nothing any more."""
        self._paused = False
        self._flushed()
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the end of the connection, whatever its cause."""
        if self._closer is not None:
            self._closer.cancel()
        self._flushed()
        current, self._current = self._current, None
        if current is not None:
            current.flushed()
        self._control.clear()
        self._transport = None
        if isinstance(exc, ssl.SSLError) and self.session.state is not StreamState.READY:
            self.tls_error = exc
        if self._lost is None:
            self._lost = _why(exc, greeted=self.session.state is StreamState.READY)
        self._owner.stream_lost(self, self._lost)

    def send(self, body: bodies.Body) -> None:
        """Queue a control frame before any further DATA."""
        if self._lost is not None or self._transport is None:
            return
        self._control.append(self.session.send(body, self._clock()))
        if len(self._control) > _MAX_CONTROL_FRAMES:
            self.abort("PeerSilent", "the peer does not read its control frames")
            return
        self.wake()

    def wake(self) -> None:
        """There may be something to send."""
        if (
            not self._paused
            and not self._pump_scheduled
            and self._transport is not None
            and self._lost is None
        ):
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def tick(self, now: float, ping_seconds: float, silence_seconds: float) -> None:
        """Give a sign of life when nothing else was sent; leave a peer that gives none."""
        if self._lost is not None or self._transport is None:
            return
        if now - self.session.last_received > silence_seconds:
            self.abort("PeerSilent", f"nothing came from {self.address} for {silence_seconds:g} s")
        elif self._paused and now - self._paused_at > silence_seconds:
            # It would hold on to the memory of its frame even after the transfer has ended.
            self.abort("PeerSilent", f"{self.address} took nothing for {silence_seconds:g} s")
        elif self.ready and now - self.session.last_sent > ping_seconds and not self._control:
            self._ping_number = (self._ping_number + 1) % (1 << 32)
            self.send(bodies.Ping(number=self._ping_number))

    def close(self, code: str, message: str) -> None:
        """Say why and close; whatever the peer still sends is dropped."""
        if self._lost is not None:
            return
        if (
            self._transport is not None
            and self.session.state is not StreamState.CLOSED
            and self._current is None
        ):
            goodbye = self.session.send(bodies.Goodbye(code=code, message=message[:2000]), self._clock())
            self._lost = Lost(code, message)
            self._transport.write(b"".join((*self._control, goodbye)))
            self._transport.close()
            # A peer that does not read must not keep the connection for ever.
            self._closer = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._transport.abort)
        else:
            # In the middle of a DATA frame nothing else can be said on this stream.
            self.abort(code, message)

    def abort(self, code: str, message: str) -> None:
        """Close without another word."""
        if self._lost is None:
            self._lost = Lost(code, message)
        if self._transport is not None:
            self._transport.abort()

    def leave_untrusted(self, now: float, *, idle: bool) -> None:
        """What the peer was verified by is not trusted any more. A busy stream has a while to become idle;
        afterwards its transfers go on over a new one, whose handshake shows whether they may."""
        if self._doubted_at is None:
            self._doubted_at = now
        if idle or now - self._doubted_at > UNTRUSTED_SECONDS:
            self.close("LinkLost", "its authority is not trusted any more; a new handshake is needed")

    def _place(self, header: DataHeader) -> Landing:
        return self._owner.stream_place(self, header)

    def _handle(self, event: Event) -> None:
        body = getattr(event, "body", None)
        if isinstance(body, bodies.Ping):
            self.send(bodies.Pong(number=body.number))
        elif isinstance(body, bodies.Goodbye):
            self.abort(body.code, f"the peer closed the stream: {body.message}")
        elif not isinstance(body, bodies.Pong):
            self._owner.stream_event(self, event)

    def _pump(self) -> None:
        self._pump_scheduled = False
        transport = self._transport
        for _ in range(_SLICES_PER_TURN):
            if transport is None or self._paused or self._lost is not None:
                return
            if self._current is not None:
                self._write_slice(transport, self._current)
            elif self._control:
                frames = b"".join(self._control)
                self._control.clear()
                transport.write(frames)
            elif self.session.state is StreamState.READY:
                frame = self._owner.stream_frame(self)
                if frame is None:
                    return
                self._current, self._sent = frame, 0
                transport.write(frame.header)
            else:
                return
        # Other streams and the engine get their turn even when the kernel takes everything at once.
        self.wake()

    def _write_slice(self, transport: asyncio.Transport, frame: OutFrame) -> None:
        end = min(self._sent + _SLICE_BYTES, frame.payload.nbytes)
        transport.write(frame.payload[self._sent : end])
        self.sent_bytes += end - self._sent
        self._sent = end
        self.session.last_sent = self._clock()
        if end == frame.payload.nbytes:
            self._current = None
            self._unflushed = frame
            if not self._paused:
                self._flushed()

    def _flushed(self) -> None:
        frame, self._unflushed = self._unflushed, None
        if frame is not None:
            frame.flushed()


def _why(error: Exception | None, *, greeted: bool) -> Lost:
    if isinstance(error, ssl.SSLError) and not greeted:
        # In TLS 1.3 a server's objection to our certificate arrives only after our side of the handshake.
        return Lost("NotAuthorised", f"TLS: {error.reason or error}")
    if error is not None:
        return Lost("LinkLost", f"the connection broke: {type(error).__name__}: {error}")
    return Lost("LinkLost", "the peer closed the connection")
