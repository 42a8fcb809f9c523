"""One stream of the peer protocol, without I/O: memory to fill goes out, bytes come in, events come out.

The owner reads into `Session.next_buffer` and reports with `Session.received`. For a DATA payload that
buffer *is* the place in the arena, so bytes land without a copy; the owner decides the place when it is asked
(``place``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import (
    DATA_HEADER,
    HEADER,
    DataHeader,
    FrameType,
    Header,
    WireError,
    pack_data_header,
    unpack_data_header,
    unpack_header,
)
from prfaas_sidecar.protocol.states import Role, StreamState, Way, next_stream_state

_SCRATCH_BYTES = 256 << 10


@dataclass(eq=False, slots=True)
class Landing:
    """Where a payload goes. The owner takes ``view`` away when the memory stops being its to write; the
    rest of the
    payload then drains into scratch memory and is dropped."""

    view: memoryview | None


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """A control frame arrived whole."""

    body: bodies.Body


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A payload arrived whole. ``intact`` is whether its checksum agreed."""

    header: DataHeader
    landing: Landing
    intact: bool


Event = ControlReceived | DataReceived


class Session:
    """Parser, writer and state of one stream. Every method may raise `WireError`; the stream is over then."""

    def __init__(self, role: Role, place: Callable[[DataHeader], Landing], now: float) -> None:
        self.role = role
        self.state = StreamState.START
        self.last_received = now
        self.last_sent = now
        self._place = place
        self._header = bytearray(HEADER.size)
        self._data_header = bytearray(DATA_HEADER.size)
        self._scratch: memoryview | None = None
        self._frame: Header | None = None
        self._data: DataHeader | None = None
        self._landing: Landing | None = None
        self._check: xxhash.xxh3_64 | None = None
        self._target = memoryview(self._header)
        self._filled = 0

    def __repr__(self) -> str:
        return f"<Session {self.role.value} {self.state.name}>"

    def next_buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty. Ask again after every `received`."""
        if self._landing is None or self._data is None:
            return self._target[self._filled :]
        if self._landing.view is not None:
            return self._landing.view[self._filled :]
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        return self._scratch[: self._data.payload_bytes - self._filled]

    def received(self, count: int, now: float) -> list[Event]:
        """``count`` bytes were written to the start of the buffer that `next_buffer` returned last."""
        self.last_received = now
        if self._landing is not None and self._data is not None:
            return self._payload_received(count, self._data, self._landing)
        self._filled += count
        if self._filled < len(self._target):
            return []
        return self._piece_complete()

    def feed(self, data: bytes, now: float) -> list[Event]:
        """The same for bytes that are already in memory."""
        events: list[Event] = []
        view = memoryview(data)
        while view:
            buffer = self.next_buffer()
            taken = min(len(buffer), len(view))
            buffer[:taken] = view[:taken]
            view = view[taken:]
            events += self.received(taken, now)
        return events

    def send(self, body: bodies.Body, now: float) -> bytes:
        """A control frame to be written to the stream.

        Raises:
            WireError: the state does not allow it: a fault on this side.
            ValueError: the frame would be too large for the peer.
        """
        frame = bodies.pack(body)
        self.state = next_stream_state(self.role, self.state, Way.SEND, body.FRAME)
        self.last_sent = now
        return frame

    def send_data(
        self,
        pull: int,
        lane: int,
        first: int,
        count: int,
        position: int | None,
        payload: memoryview,
        now: float,
    ) -> bytes:
        """Everything that goes to the stream before the payload itself."""
        self.state = next_stream_state(self.role, self.state, Way.SEND, FrameType.DATA)
        self.last_sent = now
        return pack_data_header(pull, lane, first, count, position, payload)

    def _piece_complete(self) -> list[Event]:
        if self._frame is None:
            self._frame = unpack_header(self._header)
            next_state = next_stream_state(self.role, self.state, Way.RECEIVE, self._frame.type)
            if self._frame.type is FrameType.DATA:
                self._expect(self._data_header)
                return []
            self.state = next_state
            if self._frame.length == 0:
                raise WireError(f"{self._frame.type.name} without a body")
            self._expect(bytearray(self._frame.length))
            return []
        frame, body = self._frame, self._target
        if frame.type is FrameType.DATA:
            self._data = unpack_data_header(self._data_header, frame.length)
            self._landing = self._place(self._data)
            view = self._landing.view
            if view is not None and view.nbytes != self._data.payload_bytes:
                raise WireError("DATA does not have the size of its units")
            self._check = xxhash.xxh3_64(seed=self._data.checksum_seed())
            self._filled = 0
            return []
        self._next_frame()
        return [ControlReceived(bodies.unpack(frame.type, bytes(body)))]

    def _payload_received(self, count: int, header: DataHeader, landing: Landing) -> list[Event]:
        if self._check is not None and landing.view is not None:
            # Chunk by chunk, while the bytes are still in the processor's cache.
            self._check.update(landing.view[self._filled : self._filled + count])
        self._filled += count
        if self._filled < header.payload_bytes:
            return []
        intact = (
            landing.view is not None
            and self._check is not None
            and self._check.intdigest() == header.checksum
        )
        self._next_frame()
        return [DataReceived(header, landing, intact)]

    def _expect(self, target: bytearray) -> None:
        self._target = memoryview(target)
        self._filled = 0

    def _next_frame(self) -> None:
        self._frame = self._data = self._landing = self._check = None
        self._expect(self._header)
