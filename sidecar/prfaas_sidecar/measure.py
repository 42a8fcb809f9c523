"""What the kernel measures on peer streams, as metrics per peer."""

from __future__ import annotations

from collections.abc import Iterable

from prfaas_sidecar.links import Links
from prfaas_sidecar.metrics import Metrics
from prfaas_sidecar.net.sockets import TcpInfo, tcp_info
from prfaas_sidecar.net.stream import PeerStream
from prfaas_sidecar.protocol.states import Role


class LinkMeasurements:
    """Keeps what is needed to turn the kernel's totals per connection into counters per peer."""

    def __init__(self, metrics: Metrics, links: Links) -> None:
        self._metrics = metrics
        self._links = links
        self._retransmits: dict[PeerStream, int] = {}

    def update(self, streams: Iterable[PeerStream]) -> None:
        """Read all streams; peers are named by their verified identity."""
        seen: dict[PeerStream, int] = {}
        sources: list[tuple[object, str, TcpInfo]] = []
        for stream in streams:
            info = tcp_info(stream.socket) if stream.socket is not None else None
            if info is None or stream.identity is None:
                continue
            peer = stream.identity.uri
            self._metrics.rtt_seconds.labels(peer).set(info.rtt_seconds)
            grown = info.retransmits - self._retransmits.get(stream, 0)
            self._metrics.retransmits.labels(peer).inc(max(0, grown))
            seen[stream] = info.retransmits
            if stream.session.role is Role.CONSUMER:
                sources.append((stream, stream.identity.region, info))
        self._retransmits = seen
        self._links.measured(sources)
