"""Frames: the fixed binary headers and their bounds. Pure functions between bytes and values.

Every frame starts with 8 bytes: magic ``PK``, protocol version, frame type, length of the rest (big-endian).
A DATA frame goes on with `DATA_HEADER` and the payload; every other frame with a JSON object.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

import xxhash

MAGIC = b"PK"
VERSION = 1
HEADER = struct.Struct("!2sBBI")
DATA_HEADER = struct.Struct("!IIIIqQ")

MAX_PAYLOAD_BYTES = 64 << 20
"""Largest DATA payload. One unit is never split, and a state snapshot of a large layer can take tens of
MiB."""

MAX_OPEN_BYTES = 4 << 20
"""An OPEN lists lanes and, when it resumes, what each still lacks; 10,000 lanes fit."""

MAX_CONTROL_BYTES = 256 << 10
"""Every other control frame. The largest is a HELLO, which carries all fields of the fingerprint."""


class FrameType(enum.IntEnum):
    """What a frame is. Numbers are part of the wire protocol."""

    HELLO = 1
    HELLO_ACK = 2
    OPEN = 3
    PENDING = 4
    OPENED = 5
    REFUSED = 6
    DATA = 7
    AGAIN = 8
    END = 9
    DONE = 10
    CANCEL = 11
    PING = 12
    PONG = 13
    GOODBYE = 14


class WireError(ValueError):
    """The peer sent something that this protocol does not allow here. The connection is unusable."""


@dataclass(frozen=True, slots=True)
class Header:
    """First 8 bytes of a frame, checked. ``length`` counts the bytes that follow."""

    type: FrameType
    length: int


@dataclass(frozen=True, slots=True)
class DataHeader:
    """Which units a DATA payload holds.

    ``pull`` is the number that the consumer gave in its OPEN; ``lane`` an index into that OPEN's lanes;
    ``position``
    the prompt tokens that a state snapshot stands for, None for attention units; ``payload_bytes`` follow.
    """

    pull: int
    lane: int
    first: int
    count: int
    position: int | None
    checksum: int
    payload_bytes: int

    def checksum_seed(self) -> int:
        """Seed of the payload's checksum: a payload under another header fails its check."""
        position = -1 if self.position is None else self.position
        identity = DATA_HEADER.pack(
            self.pull, self.lane, self.first, self.count, position, self.payload_bytes
        )
        return xxhash.xxh3_64_intdigest(identity)


def limit(kind: FrameType) -> int:
    """Largest number of bytes that may follow the header of a frame."""
    if kind is FrameType.DATA:
        return DATA_HEADER.size + MAX_PAYLOAD_BYTES
    return MAX_OPEN_BYTES if kind is FrameType.OPEN else MAX_CONTROL_BYTES


def pack_header(kind: FrameType, length: int) -> bytes:
    """First 8 bytes of a frame."""
    return HEADER.pack(MAGIC, VERSION, kind, length)


def unpack_header(data: bytes | bytearray | memoryview) -> Header:
    """Read and bound-check the first 8 bytes of a frame.

    Raises:
        WireError: another protocol, another version, an unknown type, or a length out of bounds.
    """
    magic, version, number, length = HEADER.unpack(data)
    if magic != MAGIC:
        raise WireError("this is not the prfaas peer protocol (or a frame's length was wrong)")
    if version != VERSION:
        raise WireError(f"frame of protocol version {version}; this side speaks {VERSION}")
    try:
        kind = FrameType(number)
    except ValueError:
        raise WireError(f"unknown frame type {number}") from None
    if length > limit(kind):
        raise WireError(f"{kind.name} of {length} bytes is over the limit of {limit(kind)}")
    if kind is FrameType.DATA and length <= DATA_HEADER.size:
        raise WireError("DATA without a payload")
    return Header(kind, length)


def pack_data_header(
    pull: int, lane: int, first: int, count: int, position: int | None, payload: memoryview
) -> bytes:
    """Everything of a DATA frame that goes before its payload, with the payload's checksum."""
    unsigned = DataHeader(pull, lane, first, count, position, 0, payload.nbytes)
    checksum = xxhash.xxh3_64_intdigest(payload, unsigned.checksum_seed())
    return pack_header(FrameType.DATA, DATA_HEADER.size + payload.nbytes) + DATA_HEADER.pack(
        pull, lane, first, count, -1 if position is None else position, checksum
    )


def unpack_data_header(data: bytes | bytearray | memoryview, length: int) -> DataHeader:
    """Read what follows the 8 bytes of a DATA frame of ``length``.

    Raises:
        WireError: no units, a payload that is no whole number of units, or a position out of range.
    """
    pull, lane, first, count, position, checksum = DATA_HEADER.unpack(data)
    payload_bytes = length - DATA_HEADER.size
    if count == 0 or payload_bytes % count:
        raise WireError(f"DATA of {payload_bytes} bytes cannot hold {count} equal units")
    if position < -1 or (position >= 0 and count != 1):
        raise WireError("a state position needs to be non-negative and to belong to exactly one unit")
    return DataHeader(pull, lane, first, count, None if position < 0 else position, checksum, payload_bytes)
