"""Events, usage and bodies: bytes that must come out as they went in, except where they must not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prfaas_gateway.body import forwarded_headers, is_control_field, read_body
from prfaas_gateway.errors import GatewayError
from prfaas_gateway.sse import EventCutter, EventTooLargeError, data_of, split_events
from prfaas_gateway.usage import rewrite_body, rewrite_events

PIECES = st.lists(
    st.sampled_from([b"\n", b"\n\n", b"\r\n\r\n", b"\r", b"data: {}", b"x", b"event: y\n", b"", b"\r\r"]),
    max_size=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fuzz
@given(pieces=PIECES)
@example(pieces=[b"data: 1\n", b"\ndata: 2\r\n", b"\r\nrest"])
def test_events_put_together_are_the_stream_however_it_was_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    cutter = EventCutter(1 << 20)
    fed = [cutter.feed(piece) for piece in pieces]
    assert b"".join(fed) + cutter.rest() == whole
    for events in fed:
        assert not events or events.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    assert b"\n\n" not in cutter.rest()
    assert b"\r\n\r\n" not in cutter.rest()


def test_an_event_over_the_limit_is_noticed() -> None:
    cutter = EventCutter(10)
    assert cutter.feed(b"data: 1\n\ndata: ") == b"data: 1\n\n"
    with pytest.raises(EventTooLargeError):
        cutter.feed(b"x" * 10)


@given(st.lists(st.sampled_from([b"data: {}", b"data: [DONE]", b": ping"]), max_size=5))
def test_split_events_are_the_whole(lines: list[bytes]) -> None:
    whole = b"".join(line + b"\n\n" for line in lines)
    assert split_events(whole) == [line + b"\n\n" for line in lines]
    assert [data_of(event) for event in split_events(whole)] == [
        line.removeprefix(b"data: ") if line.startswith(b"data") else None for line in lines
    ]


@pytest.mark.parametrize(
    ("cached", "taken", "left"),
    [(96, 80, 16), (96, 96, 0), (96, 200, 0), (0, 80, 0), (96, 0, 96), (None, 5, None)],
)
def test_cached_tokens_without_those_that_were_taken(
    cached: int | None, taken: int, left: int | None
) -> None:
    answer = {"usage": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": cached, "other": 1}}}
    rewritten = json.loads(rewrite_body(json.dumps(answer).encode(), taken))
    assert rewritten["usage"] == {
        "prompt_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": left, "other": 1},
    }


@pytest.mark.fuzz
@given(value=JSON, taken=st.integers(0, 100))
def test_an_answer_that_is_not_understood_is_left_alone(value: Any, taken: int) -> None:
    for details in (value, {"cached_tokens": value if type(value) is not int else "x"}):
        data = json.dumps({"usage": {"prompt_tokens_details": details}}).encode()
        if isinstance(details, dict) and type(details.get("cached_tokens")) is int:
            continue
        assert rewrite_body(data, taken) == data
    assert rewrite_body(b"\xff{", taken) == b"\xff{"


def test_only_the_event_with_the_usage_changes() -> None:
    text = b'data: { "choices" : [ {"text":"\\u00f6 \xc3\xb6"} ] }\n\n'
    usage = b'data: {"usage":{"prompt_tokens_details":{"cached_tokens":9}},"x":"\xc3\xb6"}\n\n'
    done = b"data: [DONE]\n\n"
    assert rewrite_events(text + usage + done, 5) == text + usage.replace(b"9", b"4") + done


@pytest.mark.fuzz
@given(fields=st.dictionaries(st.text(max_size=6), JSON, max_size=5), indent=st.sampled_from([None, 1]))
def test_a_transfer_is_added_and_nothing_else_changes(fields: dict[str, Any], indent: int | None) -> None:
    fields = {name: value for name, value in fields.items() if not is_control_field(name)}
    raw = json.dumps(fields, indent=indent).encode()
    body = read_body(raw)
    assert body.raw == raw
    assert json.loads(body.with_transfer(b'{"a":1}')) == {"kv_transfer_params": {"a": 1}, **fields}
    with_ids = json.loads(body.with_token_ids(b"[1,2]", b"{}"))
    assert with_ids == {**fields, "kv_transfer_params": {}, "prompt": [1, 2]}


@pytest.mark.fuzz
@given(fields=st.dictionaries(st.text(max_size=6), JSON, max_size=5), evil=JSON)
def test_control_fields_are_taken_out_and_all_else_keeps_its_value(fields: dict[str, Any], evil: Any) -> None:
    fields = {name: value for name, value in fields.items() if not is_control_field(name)}
    body = read_body(json.dumps({**fields, "kv_transfer_params": evil, "bootstrap_room": evil}).encode())
    assert sorted(body.removed) == ["bootstrap_room", "kv_transfer_params"]
    assert body.fields == fields
    assert json.loads(body.raw) == fields
    assert json.loads(body.with_transfer(b"{}")) == {"kv_transfer_params": {}, **fields}


@pytest.mark.fuzz
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0eE+-.1ntf ', max_size=40).map(str.encode))
def test_any_bytes_are_a_body_or_a_clear_error(data: bytes) -> None:
    try:
        parsed = json.loads(data.decode())
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        assert repr(read_body(data).fields) == repr(parsed)
        return
    with pytest.raises(GatewayError) as refused:
        read_body(data)
    assert (refused.value.status, refused.value.code) == (400, "InvalidJson")


def test_headers_of_the_clients_hop_stay_here() -> None:
    headers = [
        ("Host", "x"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Accept-Encoding", "br"),
        ("X-Tenant", "t"),
        ("X-Prefiller-Host-Port", "evil"),
        ("User-Agent", "me"),
        ("Cookie", "a"),
        ("Cookie", "b"),
    ]
    assert forwarded_headers(headers, drop=("x-tenant",)) == [
        ("User-Agent", "me"),
        ("Cookie", "a"),
        ("Cookie", "b"),
    ]
