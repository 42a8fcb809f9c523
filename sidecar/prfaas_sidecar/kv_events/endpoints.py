"""Where to hear an engine's KV events, from what it was told of where to publish them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]*\]|[^:\[\]]+):(?P<port>\d{1,5})")
_IPC = re.compile(r"ipc://[@/][^\s\0]{1,100}")
_EVERYWHERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  (names)
_HERE = frozenset({"127.0.0.1", "localhost", "[::1]"})


class OutOfReachError(ValueError):
    """Events are published, but not where this sidecar can hear them. The text says what to change."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """ZeroMQ addresses to connect to.

    Attributes:
        replay: of what was published before; None: the engine repeats nothing.
        topic: that all events begin with.
    """

    events: str
    replay: str | None
    topic: str


def endpoints_of(told: tuple[str, ...]) -> Endpoints | None:
    """From the connector's `Facts.kv_events`: endpoint, replay endpoint (or empty), topic. None: no events.

    Raises:
        OutOfReachError: they are elsewhere.
    """
    if not told:
        return None
    if len(told) != 3:
        raise OutOfReachError("the connector tells of KV events in a way that this sidecar does not know")
    endpoint, replay, topic = told
    # vLLM binds these, and connects to all others: somebody else listens there.
    if not ("*" in endpoint or "::" in endpoint or endpoint.startswith("ipc://")):
        raise OutOfReachError(
            "--kv-events-config names an endpoint that the engine connects to: give it one that it binds, "
            "such as ipc://@prfaas-kv-events"
        )
    address = _reachable(endpoint)
    if address is None:
        raise OutOfReachError(
            "--kv-events-config names an endpoint that is not of this pod: use ipc://@prfaas-kv-events"
        )
    return Endpoints(address, _reachable(replay) if replay else None, topic)


def _reachable(endpoint: str) -> str | None:
    if _IPC.fullmatch(endpoint):
        return endpoint
    match = _TCP.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        return None
    host = _EVERYWHERE.get(match["host"], match["host"])
    return f"tcp://{host}:{match['port']}" if host in _HERE else None
