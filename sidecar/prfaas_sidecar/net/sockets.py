"""Socket options of peer streams, and what the kernel measures on them."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Any

_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = 25
_NOT_SENT_BYTES = 512 << 10
_TCP_INFO_BYTES = 232
_RTT_OFFSET, _TOTAL_RETRANSMITS_OFFSET, _DELIVERY_RATE_OFFSET = 68, 100, 160
_DATA_SEGMENTS_IN_OFFSET, _OUT_OF_ORDER_OFFSET = 152, 224


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Measurements of one connection by the kernel."""

    rtt_seconds: float
    retransmits: int
    delivery_bytes_per_second: int
    segments_received: int = 0
    segments_out_of_order: int = 0


def tune(sock: Any, *, congestion_control: str | None, pacing_bytes_per_second: int | None) -> None:
    """Options of a connected stream. What the kernel does not offer or allow is left as it is."""
    options: list[tuple[int, int, int | bytes]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        # Keeps frames in the common queue, from which the fastest stream takes them, rather than in one
        # kernel buffer.
        (socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOT_SENT_BYTES),
    ]
    if congestion_control is not None:
        options.append((socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode()))
    if pacing_bytes_per_second is not None:
        options.append((socket.SOL_SOCKET, _SO_MAX_PACING_RATE, min(pacing_bytes_per_second, 0xFFFFFFFE)))
    for level, name, value in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, name, value)


def tcp_info(sock: Any) -> TcpInfo | None:
    """Measurements, or None where the kernel gives none."""
    try:
        raw: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(raw) < _DELIVERY_RATE_OFFSET + 8:
        return None
    (rtt_microseconds,) = struct.unpack_from("=I", raw, _RTT_OFFSET)
    (retransmits,) = struct.unpack_from("=I", raw, _TOTAL_RETRANSMITS_OFFSET)
    (rate,) = struct.unpack_from("=Q", raw, _DELIVERY_RATE_OFFSET)
    (received,) = struct.unpack_from("=I", raw, _DATA_SEGMENTS_IN_OFFSET)
    # Kernels before 5.4 do not count it.
    known = len(raw) >= _OUT_OF_ORDER_OFFSET + 4
    (out_of_order,) = struct.unpack_from("=I", raw, _OUT_OF_ORDER_OFFSET) if known else (0,)
    return TcpInfo(rtt_microseconds / 1e6, retransmits, rate, received, out_of_order)
