"""Messages of the local API: every one survives the socket, and nothing else gets through."""

from __future__ import annotations

import json
import struct
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.local_api import framing
from prfaas_connector.local_api.framing import MAX_MESSAGE_BYTES, Unpacker, pack
from prfaas_connector.local_api.messages import (
    Accepted,
    Message,
    MessageError,
    Progress,
    Publish,
    Refused,
    decode,
    encode,
)
from tests.connector.strategies import MESSAGES, any_message

ABORT = {"type": "abort", "transfer_id": "a", "code": "Cancelled"}
LANE = [0, 0, 0, 1, 64]
PRODUCE = {
    "type": "produce",
    "transfer_id": "a",
    "prompt_digest": "b",
    "consumer": "c",
    "lanes": [LANE],
    "deadline_seconds": 30,
}
WANTED = {"type": "wanted", "transfer_id": "a", "want": [[[0, 3]]]}
PUBLISH = {"type": "publish", "transfer_id": "a", "lane": 0, "first": 0, "count": 1, "tokens": None}
PROGRESS = {"type": "progress", "transfer_id": "a", "landed": [[]], "positions": [{}], "landed_bytes": 0}
DONE = {"type": "producer_done", "transfer_id": "a", "rank": 0, "complete": True}
HELLO = {
    "type": "hello",
    "protocol": 1,
    "side": "worker",
    "role": "both",
    "rank": 0,
    "world_size": 1,
    "pid": 1,
    "fingerprint": "f",
    "fingerprint_fields": {},
}


def test_every_message_is_generated() -> None:
    assert set(MESSAGES) == set(get_args(Message))


@pytest.mark.fuzz
@given(any_message)
def test_every_message_survives(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.fuzz
@given(st.lists(any_message, max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_messages_survive_any_fragmentation(sent: list[Message], sizes: list[int]) -> None:
    stream = b"".join(pack(message) for message in sent)
    unpacker, received, at = Unpacker(), [], 0
    for turn in range(len(stream)):
        size = sizes[turn % len(sizes)]
        received += unpacker.feed(stream[at : at + size])
        at += size
    assert received == sent


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_message_error(garbage: bytes) -> None:
    for parse in (decode, Unpacker().feed):
        try:
            parse(garbage)
        except MessageError:
            continue


@pytest.mark.fuzz
@given(any_message, st.data())
def test_damaged_messages_are_a_message_or_a_message_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at] = data.draw(st.integers(0, 255))
        else:
            del body[at]
            if not body:
                break
    try:
        decode(bytes(body))
    except MessageError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.fuzz
@given(any_message, st.data())
def test_a_field_of_any_json_value_is_a_message_or_a_message_error(
    message: Message, data: st.DataObject
) -> None:
    fields = json.loads(encode(message))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(json_values)
    try:
        decoded = decode(json.dumps(fields).encode())
    except MessageError:
        return
    assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"type":null}',
        b'{"type":["abort"]}',
        b'{"type":"surprise"}',
        b"[" * 100_000,
        b'{"type":' + b"9" * 5000 + b"}",
        json.dumps(ABORT).encode("utf-16"),
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        decode(body)


def changed(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**message, **fields}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": "abort", "transfer_id": "a"}, "code"),
        (changed(ABORT, extra=1), "extra"),
        (changed(ABORT, TYPE="abort"), "TYPE"),
        (changed(ABORT, __class__="x"), "__class__"),
        (changed(ABORT, code=3), "expected str"),
        (changed(ABORT, code=None), "expected str"),
        (changed(ABORT, code="\ud800"), "abort"),
        (changed(DONE, rank=-1), "out of range"),
        (changed(DONE, rank=1 << 62), "out of range"),
        (changed(DONE, rank=True), "expected int"),
        (changed(DONE, rank=0.0), "expected int"),
        (changed(DONE, complete=1), "expected bool"),
        (changed(PUBLISH, tokens=-1), "out of range"),
        (changed(PUBLISH, tokens="4"), "expected int"),
        (changed(PRODUCE, deadline_seconds=0), "seconds"),
        (changed(PRODUCE, deadline_seconds=86_400), "seconds"),
        (changed(PRODUCE, deadline_seconds=float("nan")), "seconds"),
        (changed(PRODUCE, deadline_seconds=float("inf")), "seconds"),
        (changed(PRODUCE, deadline_seconds=True), "seconds"),
        (changed(PRODUCE, lanes={}), "expected list"),
        (changed(PRODUCE, lanes=[LANE[:4]]), "lane"),
        (changed(PRODUCE, lanes=[[*LANE, 1]]), "lane"),
        (changed(PRODUCE, lanes=[[0, 0, 0, 1, 0]]), "lane"),
        (changed(PRODUCE, lanes=[[0, 0, 0, -1, 64]]), "out of range"),
        (changed(WANTED, want=[[[3, 1]]]), "range"),
        (changed(WANTED, want=[[[1]]]), "range"),
        (changed(WANTED, want=[[["0", "3"]]]), "range"),
        (changed(WANTED, want=[[7]]), "wanted"),
        (changed(WANTED, want=[7]), "expected list"),
        (changed(WANTED, want=[[[0, 1 << 80]]]), "out of range"),
        (changed(PROGRESS, positions=[{"x": 1}]), "progress"),
        (changed(PROGRESS, positions=[{"-1": 1}]), "out of range"),
        (changed(PROGRESS, positions=[{" 1": 1}]), "decimal"),
        (changed(PROGRESS, positions=[{"01": 1}]), "decimal"),
        (changed(PROGRESS, positions=[{"9" * 5000: 1}]), "progress"),
        (changed(PROGRESS, positions=[[]]), "expected dict"),
        (changed(HELLO, fingerprint_fields={"dtype": 1}), "expected str"),
        (changed(HELLO, fingerprint_fields=[]), "expected dict"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageError, match=says):
        decode(json.dumps(fields).encode())


def test_an_optional_field_may_be_missing() -> None:
    without = {name: value for name, value in PUBLISH.items() if name != "tokens"}
    assert decode(json.dumps(without).encode()) == Publish("a", 0, 0, 1, None)


def test_the_largest_produce_of_a_large_model_fits() -> None:
    lanes = 100 * 64
    assert len(pack(Accepted("a" * 32, tuple(range(1 << 40, (1 << 40) + lanes))))) < MAX_MESSAGE_BYTES


def test_an_oversized_message_is_not_sent() -> None:
    with pytest.raises(MessageError, match="over the limit"):
        pack(Refused("", "ArenaFull", "x" * MAX_MESSAGE_BYTES))


def test_an_oversized_length_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(MessageError, match="over the limit"):
        Unpacker().feed(struct.pack("!I", MAX_MESSAGE_BYTES + 1))


def test_a_message_of_exactly_the_limit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    message = Refused("", "ArenaFull", "x")
    monkeypatch.setattr(framing, "MAX_MESSAGE_BYTES", len(encode(message)))
    assert Unpacker().feed(pack(message)) == [message]
    monkeypatch.setattr(framing, "MAX_MESSAGE_BYTES", len(encode(message)) - 1)
    with pytest.raises(MessageError):
        pack(message)


@pytest.mark.fuzz
@given(any_message, st.data())
def test_a_truncated_message_is_no_message_yet(message: Message, data: st.DataObject) -> None:
    packed = pack(message)
    cut = data.draw(st.integers(0, len(packed) - 1))
    unpacker = Unpacker()
    assert unpacker.feed(packed[:cut]) == []
    assert unpacker.feed(packed[cut:]) == [message]


def test_good_messages_before_a_bad_one_do_not_hide_it() -> None:
    good = pack(Progress("a", (), (), 1))
    with pytest.raises(MessageError):
        Unpacker().feed(good + struct.pack("!I", 2) + b"[]")
