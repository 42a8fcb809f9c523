"""Sessions: two of them back to back under any chopping of the bytes, and one alone under garbage."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas_sidecar.protocol import bodies
from prfaas_sidecar.protocol.frames import HEADER, VERSION, DataHeader, FrameType, WireError, pack_header
from prfaas_sidecar.protocol.session import ControlReceived, DataReceived, Event, Landing, Session
from prfaas_sidecar.protocol.states import PULL, STREAM, PullState, Role, StreamState, Way, next_stream_state

HELLO = bodies.Hello(
    versions=(VERSION, VERSION), channel="c" * 32, identity="x", fingerprint="f" * 64, fingerprint_fields={}
)
ACK = bodies.HelloAck(version=VERSION, identity="y", fingerprint="f" * 64)
UNIT = 8


class Place:
    """Memory of a consumer; takes note of what was asked for."""

    def __init__(self) -> None:
        self.memory = bytearray(1 << 16)
        self.asked: list[DataHeader] = []

    def __call__(self, header: DataHeader) -> Landing:
        self.asked.append(header)
        start = header.first * UNIT
        return Landing(memoryview(self.memory)[start : start + header.count * UNIT])


@dataclass
class Sent:
    """A payload that was sent, as it will arrive."""

    first: int
    payload: bytes
    intact: bool


def nowhere(header: DataHeader) -> Landing:
    raise AssertionError("a producer places nothing")


class Conversation(RuleBasedStateMachine):
    """A consumer and a producer that say whatever their table allows; bytes travel in any pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Place()
        self.ends = {
            Role.CONSUMER: Session(Role.CONSUMER, self.place, 0.0),
            Role.PRODUCER: Session(Role.PRODUCER, nowhere, 0.0),
        }
        self.wires = {Role.CONSUMER: bytearray(), Role.PRODUCER: bytearray()}
        self.expected: dict[Role, list[bodies.Body | Sent]] = {Role.CONSUMER: [], Role.PRODUCER: []}
        self.next_unit = 0

    def say(self, role: Role, body: bodies.Body) -> None:
        other = Role.PRODUCER if role is Role.CONSUMER else Role.CONSUMER
        self.wires[other] += self.ends[role].send(body, 1.0)
        self.expected[other].append(body)

    @precondition(lambda self: self.ends[Role.CONSUMER].state is StreamState.START)
    @rule()
    def greet(self) -> None:
        self.say(Role.CONSUMER, HELLO)

    @precondition(lambda self: self.ends[Role.PRODUCER].state is StreamState.GREETED)
    @rule()
    def answer(self) -> None:
        self.say(Role.PRODUCER, ACK)

    @precondition(lambda self: self.ends[Role.CONSUMER].state is StreamState.READY)
    @rule(number=st.integers(0, 1000), kind=st.sampled_from(["done", "ping", "cancel"]))
    def consumer_says(self, number: int, kind: str) -> None:
        said: dict[str, bodies.Body] = {
            "done": bodies.Done(pull=number),
            "ping": bodies.Ping(number=number),
            "cancel": bodies.Cancel(pull=number, code="Cancelled"),
        }
        self.say(Role.CONSUMER, said[kind])

    @precondition(lambda self: self.ends[Role.PRODUCER].state is StreamState.READY)
    @rule(number=st.integers(0, 1000), kind=st.sampled_from(["opened", "pending", "pong"]))
    def producer_says(self, number: int, kind: str) -> None:
        said: dict[str, bodies.Body] = {
            "opened": bodies.Opened(pull=number),
            "pending": bodies.Pending(pull=number),
            "pong": bodies.Pong(number=number),
        }
        self.say(Role.PRODUCER, said[kind])

    @precondition(lambda self: self.ends[Role.PRODUCER].state is StreamState.READY)
    @rule(count=st.integers(1, 5), seed=st.integers(0, 255), damage=st.booleans())
    def producer_sends(self, count: int, seed: int, damage: bool) -> None:
        payload = bytearray((seed + n) % 256 for n in range(count * UNIT))
        header = self.ends[Role.PRODUCER].send_data(
            7, 0, self.next_unit, count, None, memoryview(payload), 1.0
        )
        if damage:
            payload[seed % len(payload)] ^= 1
        self.wires[Role.CONSUMER] += header + payload
        self.expected[Role.CONSUMER].append(Sent(self.next_unit, bytes(payload), not damage))
        self.next_unit += count

    @rule(role=st.sampled_from(list(Role)), size=st.integers(1, 200))
    def deliver(self, role: Role, size: int) -> None:
        wire = self.wires[role]
        piece, self.wires[role] = bytes(wire[:size]), wire[size:]
        for event in self.ends[role].feed(piece, 2.0):
            self.check(role, event)

    def check(self, role: Role, event: Event) -> None:
        expected = self.expected[role].pop(0)
        if isinstance(event, ControlReceived):
            assert event.body == expected
            return
        assert isinstance(expected, Sent)
        first, payload, intact = expected.first, expected.payload, expected.intact
        assert (event.header.first, event.intact) == (first, intact)
        if intact:
            start = first * UNIT
            assert self.place.memory[start : start + len(payload)] == payload

    @invariant()
    def there_is_always_room_to_read_into(self) -> None:
        for session in self.ends.values():
            assert len(session.next_buffer()) > 0


TestConversation = Conversation.TestCase


def ready(role: Role, place: Place | None = None) -> Session:
    session = Session(role, place or Place(), 0.0)
    if role is Role.CONSUMER:
        session.send(HELLO, 0.0)
        session.feed(bodies.pack(ACK), 0.0)
    else:
        session.feed(bodies.pack(HELLO), 0.0)
        session.send(ACK, 0.0)
    assert session.state is StreamState.READY
    return session


@pytest.mark.fuzz
@given(role=st.sampled_from(list(Role)), greeted=st.booleans(), data=st.binary(max_size=400))
def test_garbage_ends_in_a_violation_or_in_waiting_for_more(role: Role, greeted: bool, data: bytes) -> None:
    session = ready(role) if greeted else Session(role, Place(), 0.0)
    try:
        events = session.feed(data, 0.0)
    except WireError:
        return
    assert all(isinstance(event, ControlReceived | DataReceived) for event in events)


@pytest.mark.fuzz
@given(kind=st.sampled_from(list(FrameType)), body=st.binary(max_size=200), pieces=st.integers(1, 50))
def test_whole_frames_of_garbage_end_the_same_way_in_any_pieces(
    kind: FrameType, body: bytes, pieces: int
) -> None:
    outcomes = []
    for size in (len(body) + HEADER.size, pieces):
        session, outcome = ready(Role.CONSUMER), []
        data = pack_header(kind, len(body)) + body
        try:
            for start in range(0, len(data), size):
                outcome += [repr(event) for event in session.feed(data[start : start + size], 0.0)]
        except WireError as error:
            outcome.append(str(error))
        outcomes.append([line.split(" landing=")[0] for line in outcome])
    assert outcomes[0] == outcomes[1]


def test_memory_that_is_taken_away_in_the_middle_is_not_written_any_more() -> None:
    place, payload = Place(), memoryview(bytes(range(1, 65)))
    consumer, producer = ready(Role.CONSUMER, place), ready(Role.PRODUCER)
    header = producer.send_data(1, 0, 0, 8, None, payload, 0.0)
    landing = Landing(memoryview(place.memory)[:64])
    consumer._place = lambda _: landing
    assert consumer.feed(header + bytes(payload[:20]), 0.0) == []
    landing.view = None
    (event,) = consumer.feed(bytes(payload[20:]), 0.0)
    assert isinstance(event, DataReceived)
    assert not event.intact
    assert place.memory[:20] == payload[:20]
    assert not any(place.memory[20:64])
    # The stream goes on with the next frame.
    assert consumer.feed(bodies.pack(bodies.Ping(number=3)), 0.0) == [ControlReceived(bodies.Ping(number=3))]


def test_places_with_the_same_bytes_are_still_different_places() -> None:
    first, second = Landing(memoryview(bytearray(8))), Landing(memoryview(bytearray(8)))
    under_way = [first, second]
    under_way.remove(second)
    assert under_way[0] is first


def test_a_payload_of_another_size_than_its_place_is_a_violation() -> None:
    consumer, producer = ready(Role.CONSUMER), ready(Role.PRODUCER)
    header = producer.send_data(1, 0, 0, 1, None, memoryview(b"seven.."), 0.0)
    with pytest.raises(WireError):
        consumer.feed(header, 0.0)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", list(StreamState))
@pytest.mark.parametrize("kind", list(FrameType))
def test_what_one_end_may_send_the_other_may_receive(role: Role, state: StreamState, kind: FrameType) -> None:
    other = Role.PRODUCER if role is Role.CONSUMER else Role.CONSUMER
    sends = STREAM[role][state].get((Way.SEND, kind))
    if sends is None:
        with pytest.raises(WireError):
            next_stream_state(role, state, Way.SEND, kind)
    elif state is StreamState.READY:
        assert STREAM[other][state][(Way.RECEIVE, kind)] is sends


def test_final_states_have_no_way_out() -> None:
    assert PULL[PullState.CLOSED] == {}
    for role in Role:
        assert STREAM[role][StreamState.CLOSED] == {}
