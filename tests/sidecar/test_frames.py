"""Frames and bodies: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_connector.local_api.units import Lane, normalise
from prfaas_sidecar.protocol import bodies, frames
from prfaas_sidecar.protocol.frames import DATA_HEADER, HEADER, FrameType, WireError

HEX = "0123456789abcdef"
u32 = st.integers(0, (1 << 32) - 1)
text = st.text(max_size=50)
ids = st.text(alphabet=HEX, min_size=32, max_size=32)
digests = st.text(alphabet=HEX, min_size=64, max_size=64)
codes = st.text(alphabet="abcXYZ", min_size=1, max_size=64)
ranges = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)), max_size=5).map(
    lambda pairs: normalise([(start, start + length) for start, length in pairs])
)


@st.composite
def opens(draw: st.DrawFn) -> bodies.Open:
    groups = draw(st.integers(1, 3))
    lanes = tuple(
        (group, layer, shard, 200, draw(st.integers(1, 1 << 20)))
        for group in range(groups)
        for layer in range(draw(st.integers(1, 2)))
        for shard in range(draw(st.integers(1, 2)))
    )
    want = tuple(draw(ranges) for _ in range(groups))
    missing = {
        index: draw(st.sampled_from([(), want[lane[0]], want[lane[0]][:1]]))
        for index, lane in enumerate(lanes)
        if draw(st.booleans())
    }
    return bodies.Open(
        pull=draw(u32),
        transfer_id=draw(ids),
        prompt_digest=draw(digests),
        lanes=lanes,
        want=want,
        missing=missing,
        deadline_seconds=draw(st.floats(0.001, 80_000)),
    )


anything = st.one_of(
    st.builds(
        bodies.Hello,
        versions=st.tuples(u32, u32),
        channel=ids,
        identity=text,
        fingerprint=digests,
        fingerprint_fields=st.dictionaries(text, text, max_size=4),
    ),
    st.builds(bodies.HelloAck, version=u32, identity=text, fingerprint=st.one_of(digests, st.just(""))),
    opens(),
    st.builds(bodies.Opened, pull=u32),
    st.builds(bodies.Pending, pull=u32),
    st.builds(bodies.Refused, pull=u32, code=codes, message=text),
    st.builds(bodies.Again, pull=u32, lane=u32, first=u32, count=st.integers(1, bodies.MAX_UNITS)),
    st.builds(
        bodies.End, pull=u32, code=codes, message=text, missing=st.lists(ranges, max_size=3).map(tuple)
    ),
    st.builds(bodies.Done, pull=u32),
    st.builds(bodies.Cancel, pull=u32, code=codes),
    st.builds(bodies.Ping, number=u32),
    st.builds(bodies.Pong, number=u32),
    st.builds(bodies.Goodbye, code=codes, message=text),
)


@given(body=anything)
def test_every_body_survives_the_wire(body: bodies.Body) -> None:
    packed = bodies.pack(body)
    header = frames.unpack_header(packed[: HEADER.size])
    assert header.type is body.FRAME
    assert header.length == len(packed) - HEADER.size
    assert bodies.unpack(header.type, packed[HEADER.size :]) == body


@given(
    pull=u32,
    lane=u32,
    first=u32,
    count=st.integers(1, 20),
    position=st.one_of(st.none(), st.integers(0, 1 << 40)),
    unit=st.binary(min_size=1, max_size=50),
)
def test_data_headers_survive_the_wire(
    pull: int, lane: int, first: int, count: int, position: int | None, unit: bytes
) -> None:
    count = 1 if position is not None else count
    payload = memoryview(unit * count)
    packed = frames.pack_data_header(pull, lane, first, count, position, payload)
    header = frames.unpack_header(packed[: HEADER.size])
    data = frames.unpack_data_header(packed[HEADER.size :], header.length)
    assert (data.pull, data.lane, data.first, data.count, data.position) == (
        pull,
        lane,
        first,
        count,
        position,
    )
    assert data.payload_bytes == payload.nbytes


def test_a_payload_under_another_header_has_another_checksum() -> None:
    payload = memoryview(b"x" * 64)
    checksums = set()
    for changed in range(5):
        numbers = [1, 1, 1, 1]
        if changed < 4:
            numbers[changed] = 2
        packed = frames.pack_data_header(numbers[0], numbers[1], numbers[2], numbers[3], None, payload)
        checksums.add(frames.unpack_data_header(packed[HEADER.size :], DATA_HEADER.size + 64).checksum)
    packed = frames.pack_data_header(1, 1, 1, 1, 1, payload)
    checksums.add(frames.unpack_data_header(packed[HEADER.size :], DATA_HEADER.size + 64).checksum)
    assert len(checksums) == 6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEADER.pack(b"XX", 1, 1, 5), "not the prfaas peer protocol"),
        (HEADER.pack(b"PK", 2, 1, 5), "version 2"),
        (HEADER.pack(b"PK", 1, 0, 5), "unknown frame type 0"),
        (HEADER.pack(b"PK", 1, 15, 5), "unknown frame type 15"),
        (HEADER.pack(b"PK", 1, FrameType.PING, frames.MAX_CONTROL_BYTES + 1), "over the limit"),
        (HEADER.pack(b"PK", 1, FrameType.OPEN, frames.MAX_OPEN_BYTES + 1), "over the limit"),
        (
            HEADER.pack(b"PK", 1, FrameType.DATA, frames.MAX_PAYLOAD_BYTES + DATA_HEADER.size + 1),
            "over the limit",
        ),
        (HEADER.pack(b"PK", 1, FrameType.DATA, DATA_HEADER.size), "without a payload"),
    ],
)
def test_headers_out_of_bounds_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        frames.unpack_header(data)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ((1, 0, 0, 0, -1, 0), 100),
        ((1, 0, 0, 3, -1, 0), 100),
        ((1, 0, 0, 2, 5, 0), 100),
        ((1, 0, 0, 1, -2, 0), 100),
    ],
    ids=["no units", "no whole units", "position of two", "negative position"],
)
def test_data_headers_that_contradict_themselves_are_refused(fields: tuple[int, ...], length: int) -> None:
    with pytest.raises(WireError):
        frames.unpack_data_header(DATA_HEADER.pack(*fields), DATA_HEADER.size + length)


@pytest.mark.fuzz
@given(
    kind=st.sampled_from([kind for kind in FrameType if kind is not FrameType.DATA]),
    data=st.binary(max_size=300),
)
def test_garbage_is_refused_and_nothing_worse(kind: FrameType, data: bytes) -> None:
    try:
        body = bodies.unpack(kind, data)
    except WireError:
        return
    assert body.FRAME is kind


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.mark.fuzz
@given(body=anything, name=st.integers(0, 20), value=json_values)
def test_a_field_of_another_kind_is_refused_or_harmless(body: bodies.Body, name: int, value: object) -> None:
    fields = json.loads(body.model_dump_json())
    fields[sorted(fields)[name % len(fields)]] = value
    try:
        read = bodies.unpack(body.FRAME, json.dumps(fields).encode())
    except WireError:
        return
    # What is accepted means the same when it is said again.
    assert bodies.unpack(body.FRAME, bodies.pack(read)[HEADER.size :]) == read


@pytest.mark.parametrize(
    ("lanes", "want"),
    [
        ((Lane(0, 0, 0, 4, 16), Lane(0, 1, 0, 5, 16)), (((0, 4),),)),
        ((Lane(0, 0, 0, 4, 16), Lane(0, 0, 0, 4, 16)), (((0, 4),),)),
        ((Lane(1, 0, 0, 4, 16),), (((0, 4),),)),
        ((Lane(0, 0, 0, 4, 16),), (((0, 5),),)),
        ((Lane(0, 0, 0, 4, 16),), (((0, 4),), ((0, 1),))),
        ((Lane(0, 0, 0, bodies.MAX_UNITS + 1, 16),), ((),)),
        ((Lane(0, 0, 0, 1, bodies.MAX_UNIT_BYTES + 1),), ((),)),
        ((Lane(0, bodies.MAX_LANES, 0, 1, 1),), ((),)),
        (tuple(Lane(0, n, 0, 1, 1) for n in range(bodies.MAX_LANES + 1)), ((),)),
    ],
    ids=[
        "unequal units",
        "same lane twice",
        "group without want",
        "want beyond the units",
        "want without lanes",
        "too many units",
        "units too large",
        "layer too large",
        "too many lanes",
    ],
)
def test_lanes_that_cannot_be_are_refused(
    lanes: tuple[Lane, ...], want: tuple[tuple[tuple[int, int], ...], ...]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        bodies.check_lanes(lanes, want)
