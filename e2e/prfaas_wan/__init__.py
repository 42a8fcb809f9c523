"""An emulated WAN between network namespaces: rate, delay, jitter, loss, queue and cuts, changeable under
traffic."""

from prfaas_wan.emulator import Host, Network, connect, is_supported, launch, wan
from prfaas_wan.errors import WanError
from prfaas_wan.settings import Direction, LinkChange, LinkSettings, WanConfig
from prfaas_wan.status import DirectionStats, HostStatus, WanStatus

__all__ = [
    "Direction",
    "DirectionStats",
    "Host",
    "HostStatus",
    "LinkChange",
    "LinkSettings",
    "Network",
    "WanConfig",
    "WanError",
    "WanStatus",
    "connect",
    "is_supported",
    "launch",
    "wan",
]
