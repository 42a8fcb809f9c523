"""A pod of another region, as the fleet is made from."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas_gateway.peering.wire import PeerPod


@dataclass(frozen=True, slots=True)
class RemotePod:
    """A pod in another region, and the address (host:port) of that region's gateways."""

    region: str
    address: str
    pod: PeerPod
