"""A consumer's link to one producer: a few warm streams, the pulls on them, and their way back after a
loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prfaas_sidecar.config import LinkSection
from prfaas_sidecar.identity import Identity
from prfaas_sidecar.logs import fields
from prfaas_sidecar.net.refusals import Lost, UnknownRegionError, of_dialled
from prfaas_sidecar.net.sockets import tune
from prfaas_sidecar.net.stream import OutFrame, PeerStream
from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import VERSION, DataHeader, WireError
from prfaas_sidecar.protocol.session import ControlReceived, Event, Landing
from prfaas_sidecar.protocol.states import Role
from prfaas_sidecar.tasks import Tasks

_log = logging.getLogger(__name__)

_FINAL = frozenset(
    {
        "NotAuthorised",
        "FingerprintMismatch",
        "PeerNotAllowed",
        "UnknownRegion",
        "WrongRegion",
        "CertificateExpired",
    }
)
_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 2.0
_GATHER_LOSSES_SECONDS = 0.02
_SAY_AGAIN_SECONDS = 10.0


class Pulling(Protocol):
    """A transfer as its link sees it."""

    attached_at: float
    reopen_code: str

    def open_body(self, pull: int, now: float) -> bodies.Open | None:
        """The next OPEN, or None when the transfer may not ask again (and has ended)."""

    def place(self, header: DataHeader) -> Landing:
        """Where a payload of the current pull belongs; raises WireError."""

    def received(self, event: Event) -> None:
        """A frame of the current pull arrived; raises WireError."""

    def fail(self, code: str, message: str) -> None:
        """The link cannot go on with it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a link dials. ``server_name`` where a proxy goes by it; else it is made from the host."""

    host: str
    port: int
    identity: Identity
    server_name: str | None = None


class Tls(Protocol):
    """How a link proves who it is, and whom it believes."""

    @property
    def own_region(self) -> str:
        """The region that it says to be of."""

    def client(self, region: str) -> ssl.SSLContext:
        """Trusts one region's authorities; raises UnknownRegionError."""

    def server_name(self, pod: str) -> str:
        """What to ask for, which also says the own region; raises ValueError."""

    def stands(self, context: ssl.SSLContext | None) -> bool:
        """Whether what a connection was verified by is trusted still."""


class Link:
    """Streams to one producer. Pull numbers grow; a number that is not active any more is over, not an
    error."""

    def __init__(
        self,
        target: Target,
        hello: Callable[[str], bodies.Hello],
        tls: Tls | None,
        settings: LinkSection,
        clock: Callable[[], float],
        tasks: Tasks,
        stream_lost: Callable[[Lost], None],
        tally: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``tally`` is told of the bytes that come in."""
        self.target = target
        self.streams: list[PeerStream] = []
        self.closed = False
        self._channel = secrets.token_hex(16)
        self._hello = hello
        self._tls = tls
        self._settings = settings
        self._clock = clock
        self._stream_lost = stream_lost
        self._tally = tally
        self._pulls: dict[int, Pulling] = {}
        self._numbers: dict[Pulling, int] = {}
        self._next = 0
        self._demand = asyncio.Event()
        self._hurry = asyncio.Event()
        self._last_used = self._down_since = clock()
        self._last_failure = Lost("PeerUnreachable", "no connection was made yet")
        self._ever_ready = False
        self._said_down_at: float | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._outcomes: dict[PeerStream, asyncio.Future[Lost]] = {}
        self._ready: dict[PeerStream, asyncio.Future[None]] = {}
        self._slots = [
            tasks.spawn(self._keep(), f"link-{target.host}-{index}") for index in range(settings.streams)
        ]

    def attach(self, transfer: Pulling) -> None:
        """Start pulling a transfer, now or as soon as a stream is ready."""
        self._numbers[transfer] = -1
        self._last_used = self._clock()
        self._demand.set()
        self._hurry.set()
        self._open(transfer)

    def detach(self, transfer: Pulling, farewell: Callable[[int], bodies.Body] | None) -> None:
        """Stop pulling; ``farewell`` makes the frame that tells the producer."""
        number = self._numbers.pop(transfer, None)
        if number is None:
            return
        self._pulls.pop(number, None)
        self._last_used = self._clock()
        if number >= 0 and farewell is not None:
            self.send(farewell(number))
        if not self._numbers:
            self._demand.clear()

    def send(self, body: bodies.Body) -> None:
        """A control frame over any ready stream; without one it is not said."""
        for stream in self.streams:
            if stream.ready:
                stream.send(body)
                return

    def pull_number(self, transfer: Pulling) -> int:
        """Number of a transfer's current pull, -1 before the first."""
        return self._numbers.get(transfer, -1)

    def seconds_without_stream(self, transfer: Pulling) -> float:
        """How long a transfer has been waiting for any stream; 0 while there is one."""
        if any(stream.ready for stream in self.streams):
            return 0.0
        return self._clock() - max(transfer.attached_at, self._down_since)

    @property
    def idle(self) -> bool:
        """Whether no transfer uses it."""
        return not self._numbers

    def tick(self, now: float) -> None:
        """Signs of life, and the end of transfers that have been without a stream for too long."""
        for stream in list(self.streams):
            stream.tick(now, self._settings.ping_seconds, self._settings.silence_seconds)
        if any(stream.ready for stream in self.streams):
            return
        for transfer in list(self._numbers):
            patience = self._settings.resume_seconds if self._ever_ready else self._settings.connect_seconds
            if now - max(transfer.attached_at, self._down_since) > patience:
                code = "LinkLost" if self._ever_ready else "PeerUnreachable"
                if self._last_failure.code == "PeerSilent":
                    code = "PeerSilent"
                transfer.fail(code, f"no stream to {self._peer}: {self._last_failure.message}")

    def leave_untrusted(self, now: float) -> None:
        """Close streams to a producer whose authority is not trusted any more."""
        for stream in list(self.streams):
            if self._tls is not None and not self._tls.stands(stream.context):
                stream.leave_untrusted(now, idle=self.idle)

    def expired(self, now: float) -> bool:
        """Whether it has been idle for long enough to be closed."""
        return self.idle and now - self._last_used > self._settings.idle_seconds

    def close(self, code: str = "Closed", message: str = "the link is not needed any more") -> None:
        """Close all streams and dial no more."""
        self.closed = True
        if self._reopening is not None:
            self._reopening.cancel()
        for slot in self._slots:
            slot.cancel()
        for stream in list(self.streams):
            stream.close(code, message)

    # What streams report.

    def stream_connected(self, stream: PeerStream) -> None:
        """The producer must be who the transfer says, whoever its CA is."""
        self.streams.append(stream)
        if stream.nameless is not None:
            stream.close("NotAuthorised", stream.nameless)
            return
        if stream.wrong_region is not None:
            stream.close("WrongRegion", stream.wrong_region)
            return
        if stream.identity is not None and stream.identity != self.target.identity:
            stream.close("NotAuthorised", f"{stream.identity} answered instead of {self.target.identity}")
            return
        tune(stream.socket, congestion_control=None, pacing_bytes_per_second=None)
        stream.send(self._hello(self._channel))

    def stream_place(self, stream: PeerStream, header: DataHeader) -> Landing:
        """Of the pull, or nowhere when that is over."""
        transfer = self._of(header.pull)
        return Landing(None) if transfer is None else transfer.place(header)

    def stream_event(self, stream: PeerStream, event: Event) -> None:
        """Greeting, or a frame of a pull."""
        body = event.body if isinstance(event, ControlReceived) else None
        if isinstance(body, bodies.HelloAck):
            self._greeted(stream, body)
            return
        number = event.header.pull if not isinstance(event, ControlReceived) else getattr(body, "pull", -1)
        transfer = self._of(number)
        if transfer is not None:
            transfer.received(event)

    def stream_frame(self, stream: PeerStream) -> OutFrame | None:
        """A consumer sends no KV."""
        return None

    def stream_lost(self, stream: PeerStream, lost: Lost) -> None:
        """Wake the slot that keeps this stream, and ask again for what may have been on it."""
        was_ready = stream in self.streams
        if was_ready:
            self.streams.remove(stream)
        if stream.tls_error is not None:
            # In TLS 1.3 a server's objection to our certificate comes after our side of the handshake.
            lost = self._refused_by(stream.tls_error)
        self._stream_lost(lost)
        outcome = self._outcomes.get(stream)
        if outcome is not None and not outcome.done():
            outcome.set_result(lost)
        self._last_failure = lost
        if not any(other.ready for other in self.streams):
            self._down_since = self._clock()
        if self.closed:
            return
        if lost.code in _FINAL:
            self._fail_all(lost)
        elif was_ready and self._reopening is None:
            # Streams break together; one new OPEN per transfer is enough for all of them.
            self._reopening = asyncio.get_running_loop().call_later(
                _GATHER_LOSSES_SECONDS, self._reopen, lost
            )

    def _reopen(self, lost: Lost) -> None:
        self._reopening = None
        for transfer, number in list(self._numbers.items()):
            if number >= 0:
                self._pulls.pop(number, None)
                self._numbers[transfer] = -1
                transfer.reopen_code = (
                    lost.code if lost.code in ("PeerSilent", "ProtocolError") else "LinkLost"
                )
            self._open(transfer)

    def _greeted(self, stream: PeerStream, ack: bodies.HelloAck) -> None:
        if ack.version != VERSION:
            raise WireError(f"the peer chose version {ack.version}, which was not offered")
        if ack.identity != self.target.identity.uri:
            stream.close("NotAuthorised", f"{ack.identity} answered instead of {self.target.identity}")
            return
        self._ever_ready = True
        if self._said_down_at is not None and sum(each.ready for each in self.streams) == 1:
            self._said_down_at = None
            _log.info("streams to the peer again", extra=fields(peer=self._peer))
        ready = self._ready.get(stream)
        if ready is not None and not ready.done():
            ready.set_result(None)
        for transfer, number in list(self._numbers.items()):
            if number < 0 and self._reopening is None:
                self._open(transfer)

    def _open(self, transfer: Pulling) -> None:
        stream = next((stream for stream in self.streams if stream.ready), None)
        if stream is None:
            return
        body = transfer.open_body(self._next, self._clock())
        if body is None:
            return
        self._pulls[self._next] = transfer
        self._numbers[transfer] = self._next
        self._next += 1
        try:
            stream.send(body)
        except ValueError as error:
            transfer.fail("LinkLost", f"what is missing cannot be asked for: {error}")

    def _of(self, number: int) -> Pulling | None:
        if number >= self._next:
            raise WireError(f"pull {number} was never opened")
        return self._pulls.get(number)

    def _fail_all(self, lost: Lost) -> None:
        for transfer in list(self._numbers):
            transfer.fail(lost.code, lost.message)

    @property
    def _peer(self) -> str:
        return f"{self.target.host}:{self.target.port}"

    def _security(self) -> tuple[ssl.SSLContext | None, str | None]:
        """Context and server name of the next connection."""
        if self._tls is None:
            return None, None
        pod = self.target.host if self.target.server_name is None else self.target.server_name
        return self._tls.client(self.target.identity.region), self._tls.server_name(pod)

    def _refused_by(self, error: ssl.SSLError) -> Lost:
        return of_dialled(
            error,
            peer=self._peer,
            own_region=self._tls.own_region if self._tls is not None else "",
            peer_region=self.target.identity.region,
        )

    def _say_down(self, lost: Lost) -> None:
        """A log line when the link goes down and now and then, not for every attempt of every stream."""
        now = self._clock()
        if self._said_down_at is not None and now - self._said_down_at < _SAY_AGAIN_SECONDS:
            return
        self._said_down_at = now
        some = any(stream.ready for stream in self.streams)
        _log.info(
            "some streams to the peer fail" if some else "no stream to the peer",
            extra=fields(peer=self._peer, code=lost.code, reason=lost.message),
        )

    # Keeping one stream.

    async def _keep(self) -> None:
        failures = 0
        while True:
            await self._demand.wait()
            self._hurry.clear()
            lost = await self._one_stream()
            if lost is None:
                failures = 0
                continue
            self._last_failure = lost
            if lost.code in _FINAL:
                self._fail_all(lost)
            failures += 1
            delay = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 10))
            self._say_down(lost)
            await asyncio.sleep(_FIRST_RETRY_SECONDS)
            # A transfer that comes now is no reason to wait out what earlier ones have earned.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311 - spreads retries
                    await self._hurry.wait()

    async def _one_stream(self) -> Lost | None:
        """Dial, greet, and stay until the stream ends. None when it worked at least until both had
        greeted."""
        loop = asyncio.get_running_loop()
        stream = PeerStream(Role.CONSUMER, self, self._clock, self._tally)
        outcome: asyncio.Future[Lost] = loop.create_future()
        ready: asyncio.Future[None] = loop.create_future()
        self._outcomes[stream], self._ready[stream] = outcome, ready
        reached = False
        try:
            context, name = self._security()
            async with asyncio.timeout(self._settings.connect_seconds):
                sock = await _connect(self.target)
                reached = True
                await loop.create_connection(
                    lambda: stream,
                    sock=sock,
                    ssl=context,
                    server_hostname=name,
                )
                await asyncio.wait((outcome, ready), return_when=asyncio.FIRST_COMPLETED)
            if outcome.done() and not ready.done():
                return outcome.result()
            await outcome
        except UnknownRegionError as error:
            return Lost("UnknownRegion", str(error))
        except ssl.SSLError as error:
            return self._refused_by(error)
        except TimeoutError:
            lost = Lost("PeerSilent" if reached else "PeerUnreachable", "no answer within the connect time")
            stream.abort(lost.code, lost.message)
            return lost
        except OSError as error:
            return Lost("PeerUnreachable", f"connecting failed: {error.strerror or error}")
        finally:
            self._outcomes.pop(stream, None)
            self._ready.pop(stream, None)
            if not outcome.done():
                outcome.cancel()
        return None


async def _connect(target: Target) -> socket.socket:
    """A connected socket to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        target.host, target.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{target.host} has no address")
