"""Builds and takes apart TCP GSO frames, independently of the code under test."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass


def internet_sum(data: bytes) -> int:
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Segment:
    """One TCP segment as it would be on the wire."""

    sequence: int
    flags: int
    identification: int | None
    payload: bytes


@dataclass(frozen=True)
class Shape:
    version: int
    payload: bytes
    gso_bytes: int
    sequence: int
    identification: int
    flags: int
    options: bytes
    ecn: bool


def build(shape: Shape) -> bytes:
    tcp_bytes = 20 + len(shape.options)
    total = tcp_bytes + len(shape.payload)
    if shape.version == 4:
        source, target = (ipaddress.IPv4Address(text).packed for text in ("10.80.0.1", "10.80.0.2"))
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + total, shape.identification, 0x4000, 64, 6, 0)
        ip += source + target
        ip = ip[:10] + struct.pack("!H", ~internet_sum(ip) & 0xFFFF) + ip[12:]
        gso_type = 1
    else:
        source, target = (ipaddress.IPv6Address(text).packed for text in ("fd80:0::1", "fd80:0::2"))
        ip = struct.pack("!IHBB", 6 << 28, total, 6, 64) + source + target
        gso_type = 4
    pseudo = source + target + struct.pack("!II", total, 6)
    tcp = struct.pack(
        "!HHIIBBHHH",
        4000,
        5000,
        shape.sequence,
        77,
        tcp_bytes // 4 << 4,
        shape.flags,
        500,
        internet_sum(pseudo),
        0,
    )
    gso_type |= 0x80 if shape.ecn else 0
    vnet = struct.pack("=BBHHHH", 1, gso_type, len(ip) + tcp_bytes, shape.gso_bytes, len(ip), 16)
    return vnet + ip + tcp + shape.options + shape.payload


def segments_of(frame: bytes) -> list[Segment]:
    """What a network card would send for this frame; checks lengths and checksums on the way."""
    flags, gso_type, header_bytes, gso_bytes, tcp_at, checksum_offset = struct.unpack_from("=BBHHHH", frame)
    assert flags == 1
    assert checksum_offset == 16
    packet = frame[10:]
    tcp = packet[tcp_at:]
    version = packet[0] >> 4
    if version == 4:
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert internet_sum(packet[:tcp_at]) == 0xFFFF
        addresses = packet[12:20]
    else:
        assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
        addresses = packet[8:40]
    assert struct.unpack_from("!H", tcp, 16)[0] == internet_sum(addresses + struct.pack("!II", len(tcp), 6))
    assert header_bytes == tcp_at + (tcp[12] >> 4) * 4
    payload = packet[header_bytes:]
    if gso_type & 0x7F == 0:
        assert gso_bytes == 0
        gso_bytes = max(1, len(payload))
    sequence = struct.unpack_from("!I", tcp, 4)[0]
    pieces = [payload[at : at + gso_bytes] for at in range(0, len(payload), gso_bytes)]
    last = len(pieces) - 1
    return [
        Segment(
            sequence=(sequence + place * gso_bytes) % 2**32,
            flags=tcp[13] & ~(0 if place == last else 0x09) & ~(0 if place == 0 else 0x80),
            identification=(struct.unpack_from("!H", packet, 4)[0] + place) % 2**16 if version == 4 else None,
            payload=piece,
        )
        for place, piece in enumerate(pieces)
    ]
