"""Sockets to engines and sidecars that notice when the machine at the other end is gone.

A process that ends closes its connections, and its kernel says so. A node that loses its power or its network
says nothing: without these settings a request that it had taken would wait for as long as its timeouts allow,
and an answer that it had begun likewise. A peer that is alive and merely computes is not disturbed, because
its kernel answers.
"""

from __future__ import annotations

import socket
from typing import Final

from aiohttp import AddrInfoType

SILENCE_SECONDS: Final = 5
"""After this much without a packet the peer's kernel is asked whether it is there, then again as often."""
QUESTIONS: Final = 3


def socket_to_peer(address: AddrInfoType) -> socket.socket:
    """A socket for aiohttp's connector, closed by the kernel about 20 seconds after its peer's last sign."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    gone_after_milliseconds = SILENCE_SECONDS * (QUESTIONS + 1) * 1000
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, QUESTIONS),
        # The same for what was sent and is not confirmed; the kernel's default is a quarter of an hour.
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_after_milliseconds),
    ):
        made.setsockopt(level, option, value)
    return made
