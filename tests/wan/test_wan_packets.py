"""Cutting super-packets: what is cut out is, segment for segment, what the whole would have been."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wan_frames import Shape, build, segments_of

from prfaas_wan.packets import Packet


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    gso_bytes = draw(st.integers(min_value=1, max_value=200))
    segments = draw(st.integers(min_value=2, max_value=20))
    tail = draw(st.integers(min_value=1, max_value=gso_bytes))
    payload = draw(st.randoms(use_true_random=False)).randbytes((segments - 1) * gso_bytes + tail)
    return Shape(
        version=draw(st.sampled_from([4, 6])),
        payload=payload,
        gso_bytes=gso_bytes,
        sequence=draw(st.integers(min_value=0, max_value=2**32 - 1)),
        identification=draw(st.integers(min_value=0, max_value=2**16 - 1)),
        flags=draw(st.integers(min_value=0, max_value=255)),
        options=b"\x01" * 4 * draw(st.integers(min_value=0, max_value=10)),
        ecn=draw(st.booleans()),
    )


@given(shapes(), st.data())
def test_any_cut_carries_exactly_its_segments(shape: Shape, data: st.DataObject) -> None:
    frame = build(shape)
    packet = Packet(frame)
    whole = segments_of(frame)
    assert packet.segments == len(whole)
    start = data.draw(st.integers(min_value=0, max_value=packet.segments - 1))
    stop = data.draw(st.integers(min_value=start + 1, max_value=packet.segments))
    cut = packet.cut(start, stop)
    assert segments_of(cut.frame) == whole[start:stop]
    assert cut.segments == stop - start
    assert cut.bytes_of(0, cut.segments) == packet.bytes_of(start, stop)


@given(shapes(), st.data())
def test_a_cut_of_a_cut_is_the_cut_of_the_whole(shape: Shape, data: st.DataObject) -> None:
    packet = Packet(build(shape))
    start = data.draw(st.integers(min_value=0, max_value=packet.segments - 1))
    stop = data.draw(st.integers(min_value=start + 1, max_value=packet.segments))
    middle = data.draw(st.integers(min_value=start, max_value=stop - 1))
    again = packet.cut(start, stop).cut(middle - start, stop - start)
    assert again.frame == packet.cut(middle, stop).frame


@given(shapes())
def test_the_bytes_of_the_parts_are_the_bytes_on_the_wire(shape: Shape) -> None:
    packet = Packet(build(shape))
    headers = 20 + len(shape.options) + (20 if shape.version == 4 else 40)
    assert packet.bytes_of(0, packet.segments) == packet.segments * headers + len(shape.payload)
    assert packet.bytes_of(0, packet.segments) == sum(
        packet.bytes_of(place, place + 1) for place in range(packet.segments)
    )


def test_an_ordinary_packet_is_one_segment_and_goes_on_untouched() -> None:
    frame = struct.pack("=BBHHHH", 0, 0, 0, 0, 0, 0) + bytes([0x45]) + bytes(83)
    packet = Packet(frame)
    assert packet.segments == 1
    assert packet.bytes_of(0, 1) == 84
    assert packet.cut(0, 1) is packet


@given(st.binary(max_size=120))
def test_no_frame_breaks_the_parser(frame: bytes) -> None:
    try:
        packet = Packet(frame)
    except ValueError:
        return
    assert packet.segments >= 1
    assert packet.bytes_of(0, packet.segments) >= 20


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(29),
        struct.pack("=BBHHHH", 1, 1, 40, 0, 20, 16) + bytes(40),  # GSO without a size
        struct.pack("=BBHHHH", 1, 1, 40, 1448, 30, 16) + bytes(40),  # the TCP header would not fit
        struct.pack("=BBHHHH", 1, 1, 40, 1448, 20, 16)
        + bytes(32)
        + b"\xf0"
        + bytes(7),  # options beyond the end
    ],
)
def test_frames_that_contradict_themselves_are_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        Packet(frame)
