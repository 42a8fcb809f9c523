"""TCP super-packets as a TUN device hands them over, and how to cut one into shorter ones.

A frame is a virtio-net header followed by an IP packet. A GSO frame carries many segments' payload behind
one set of headers; its TCP checksum field holds the pseudo-header's sum only, and whoever delivers it
completes or trusts it.
"""

from __future__ import annotations

import struct
from typing import Final, Self

VNET_HEADER: Final = struct.Struct(
    "=BBHHHH"
)  # flags, GSO type, header length, GSO size, checksum start, offset
VNET_BYTES: Final = VNET_HEADER.size

NEEDS_CHECKSUM: Final = 1
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_ECN: Final = 0x80

_TCP = 6
_FIN = 0x01
_PSH = 0x08
_CWR = 0x80


class Packet:
    """One frame. `segments` > 1 only for TCP GSO. Immutable; shares no memory with its cuts."""

    __slots__ = ("_gso_bytes", "_header_bytes", "_payload_bytes", "_tcp_at", "frame", "segments")

    def __init__(self, frame: bytes) -> None:
        """Raises ValueError for a frame that is too short for what its header promises."""
        self.frame = frame
        ip_bytes = len(frame) - VNET_BYTES
        if ip_bytes < 20:
            raise ValueError("a frame without an IP header")
        _, gso_type, _, gso_bytes, checksum_start, _ = VNET_HEADER.unpack_from(frame)
        self._tcp_at: int = checksum_start
        self._gso_bytes: int = gso_bytes
        if gso_type & ~GSO_ECN not in (GSO_TCPV4, GSO_TCPV6):
            self._header_bytes, self._payload_bytes, self.segments = ip_bytes, 0, 1
            return
        if gso_bytes == 0 or ip_bytes < checksum_start + 20:
            raise ValueError("a GSO frame without room for its headers")
        self._header_bytes = self._tcp_at + (frame[VNET_BYTES + checksum_start + 12] >> 4) * 4
        self._payload_bytes = ip_bytes - self._header_bytes
        if self._payload_bytes < 0:
            raise ValueError("a GSO frame shorter than its headers")
        self.segments = max(1, -(-self._payload_bytes // self._gso_bytes))

    def bytes_of(self, start: int, stop: int) -> int:
        if self.segments == 1:
            return self._header_bytes + self._payload_bytes
        payload = min(stop * self._gso_bytes, self._payload_bytes) - start * self._gso_bytes
        return (stop - start) * self._header_bytes + payload

    def cut(self, start: int, stop: int) -> Self:
        """Segments start to stop as a frame of their own: lengths, sequence number, flags and checksums
        put right."""
        if start == 0 and stop == self.segments:
            return self
        first = start * self._gso_bytes
        last = min(stop * self._gso_bytes, self._payload_bytes)
        payload_at = VNET_BYTES + self._header_bytes
        headers = bytearray(self.frame[VNET_BYTES:payload_at])
        self._fix_tcp(headers, start, stop)
        self._fix_ip(headers, start, last - first)
        vnet = self._vnet_header(start, stop)
        return type(self)(b"".join((vnet, headers, self.frame[payload_at + first : payload_at + last])))

    def _vnet_header(self, start: int, stop: int) -> bytes:
        flags, gso_type, _, gso_bytes, checksum_start, checksum_offset = VNET_HEADER.unpack_from(self.frame)
        if stop - start == 1:
            gso_type, gso_bytes = GSO_NONE, 0
        elif start > 0:
            gso_type &= ~GSO_ECN
        return VNET_HEADER.pack(
            flags, gso_type, self._header_bytes, gso_bytes, checksum_start, checksum_offset
        )

    def _fix_tcp(self, headers: bytearray, start: int, stop: int) -> None:
        at = self._tcp_at
        (sequence,) = struct.unpack_from("!I", headers, at + 4)
        struct.pack_into("!I", headers, at + 4, (sequence + start * self._gso_bytes) & 0xFFFFFFFF)
        if stop < self.segments:
            headers[at + 13] &= ~(_FIN | _PSH) & 0xFF
        if start > 0:
            headers[at + 13] &= ~_CWR & 0xFF

    def _fix_ip(self, headers: bytearray, start: int, payload_bytes: int) -> None:
        at = self._tcp_at
        tcp_bytes = len(headers) - at + payload_bytes
        if headers[0] >> 4 == 4:
            (identification,) = struct.unpack_from("!H", headers, 4)
            struct.pack_into("!H", headers, 2, at + tcp_bytes)
            struct.pack_into("!H", headers, 4, (identification + start) & 0xFFFF)
            struct.pack_into("!H", headers, 10, 0)
            struct.pack_into("!H", headers, 10, ~ones_sum(headers[: (headers[0] & 15) * 4]) & 0xFFFF)
            addresses = headers[12:20]
        else:
            struct.pack_into("!H", headers, 4, at + tcp_bytes - 40)
            addresses = headers[8:40]
        pseudo_header = bytes(addresses) + struct.pack("!II", tcp_bytes, _TCP)
        struct.pack_into("!H", headers, at + 16, ones_sum(pseudo_header))


def ones_sum(data: bytes | bytearray) -> int:
    """The 16-bit one's complement sum of the internet checksum, not yet complemented."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
