"""State tables of the peer protocol: one for a stream, one for a pull. What is not in them is a violation.

Rule 1: both ends keep the stream's table, each from its own side; what one sends the other receives.
Rule 2: a pull's table is the consumer's. The frames of one pull may arrive over any stream of the channel,
so DATA and END can overtake OPENED; that is why they are legal wherever an answer is still awaited.
Rule 3: nothing leaves a final state, and everything that arrives for a pull in one is dropped, not delivered.
"""

from __future__ import annotations

import enum

from prfaas_sidecar.protocol.frames import FrameType, WireError


class Role(enum.Enum):
    """Which end of a stream. The consumer dials."""

    CONSUMER = "consumer"
    PRODUCER = "producer"


class Way(enum.Enum):
    """Direction of a frame, seen from the end that keeps the table."""

    SEND = "send"
    RECEIVE = "receive"


class StreamState(enum.Enum):
    """State of one stream."""

    START = "START"
    GREETED = "GREETED"  # HELLO is out, the answer is not
    READY = "READY"
    CLOSED = "CLOSED"


class PullState(enum.Enum):
    """State of one pull, at the consumer."""

    ASKED = "ASKED"
    WAITING = "WAITING"  # the producer's engine has yet to announce the transfer
    FLOWING = "FLOWING"
    ENDING = "ENDING"  # END came; DATA of other streams may still be under way
    CLOSED = "CLOSED"


Step = tuple[Way, FrameType]
_F = FrameType
_KEEPALIVE = {(way, kind): StreamState.READY for way in Way for kind in (_F.PING, _F.PONG)}
_LEAVE = {(way, _F.GOODBYE): StreamState.CLOSED for way in Way}


def _ready(asking: Way, answering: Way) -> dict[Step, StreamState]:
    asks = (_F.OPEN, _F.AGAIN, _F.DONE, _F.CANCEL)
    answers = (_F.PENDING, _F.OPENED, _F.REFUSED, _F.DATA, _F.END)
    return (
        {(asking, kind): StreamState.READY for kind in asks}
        | {(answering, kind): StreamState.READY for kind in answers}
        | _KEEPALIVE
        | _LEAVE
    )


STREAM: dict[Role, dict[StreamState, dict[Step, StreamState]]] = {
    Role.CONSUMER: {
        StreamState.START: {(Way.SEND, _F.HELLO): StreamState.GREETED} | _LEAVE,
        StreamState.GREETED: {(Way.RECEIVE, _F.HELLO_ACK): StreamState.READY} | _LEAVE,
        StreamState.READY: _ready(Way.SEND, Way.RECEIVE),
        StreamState.CLOSED: {},
    },
    Role.PRODUCER: {
        StreamState.START: {(Way.RECEIVE, _F.HELLO): StreamState.GREETED} | _LEAVE,
        StreamState.GREETED: {(Way.SEND, _F.HELLO_ACK): StreamState.READY} | _LEAVE,
        StreamState.READY: _ready(Way.RECEIVE, Way.SEND),
        StreamState.CLOSED: {},
    },
}

PULL: dict[PullState, dict[FrameType, PullState]] = {
    PullState.ASKED: {
        _F.PENDING: PullState.WAITING,
        _F.OPENED: PullState.FLOWING,
        _F.DATA: PullState.FLOWING,
        _F.END: PullState.ENDING,
        _F.REFUSED: PullState.CLOSED,
    },
    PullState.WAITING: {
        _F.OPENED: PullState.FLOWING,
        _F.DATA: PullState.FLOWING,
        _F.END: PullState.ENDING,
        _F.REFUSED: PullState.CLOSED,
    },
    PullState.FLOWING: {
        _F.PENDING: PullState.FLOWING,
        _F.OPENED: PullState.FLOWING,
        _F.DATA: PullState.FLOWING,
        _F.END: PullState.ENDING,
    },
    PullState.ENDING: {
        _F.PENDING: PullState.ENDING,
        _F.OPENED: PullState.ENDING,
        _F.DATA: PullState.ENDING,
    },
    PullState.CLOSED: {},
}


def next_stream_state(role: Role, state: StreamState, way: Way, kind: FrameType) -> StreamState:
    """State of a stream after a frame.

    Raises:
        WireError: the frame is not allowed there.
    """
    try:
        return STREAM[role][state][(way, kind)]
    except KeyError:
        raise WireError(f"a {role.value} in {state.name} may not {way.value} {kind.name}") from None


def next_pull_state(state: PullState, kind: FrameType) -> PullState:
    """State of a pull after a frame from the producer.

    Raises:
        WireError: the frame is not allowed there.
    """
    try:
        return PULL[state][kind]
    except KeyError:
        raise WireError(f"{kind.name} for a pull in {state.name}") from None
