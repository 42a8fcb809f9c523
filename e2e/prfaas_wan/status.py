"""What an emulator says about itself."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from prfaas_wan.settings import Direction, LinkSettings


class DirectionStats(BaseModel):
    """Counted in segments and bytes since the start; see `prfaas_wan.link.LinkStats`. `queued_bytes` wait
    for the link, `held_bytes` are queued or under way. `unreadable_frames` and `undelivered_frames` were
    lost by the emulator itself, and `device_dropped_packets` before it: anything but 0 says that it was
    overloaded."""

    model_config = ConfigDict(extra="forbid")

    offered_segments: int
    offered_bytes: int
    delivered_segments: int
    delivered_bytes: int
    lost_segments: int
    dropped_queue_segments: int
    dropped_cut_segments: int
    dropped_memory_segments: int
    queued_bytes: int
    held_bytes: int
    unreadable_frames: int
    undelivered_frames: int
    device_dropped_packets: int


class DirectionStatus(BaseModel):
    model_config = ConfigDict(extra="forbid")

    settings: LinkSettings
    stats: DirectionStats


class HostStatus(BaseModel):
    """`access_address` reaches the host from outside, unshaped; None without host access.
    `namespace_path` is what `nsenter --net=` takes."""

    model_config = ConfigDict(extra="forbid")

    name: str
    address: str
    address_v6: str
    interface: str
    access_address: str | None
    outside_address: str | None
    outside_interface: str | None
    namespace_path: str
    namespace_inode: int


class WanStatus(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    keeper_pid: int
    relay_pid: int
    owner_pid: int | None
    hosts: list[HostStatus]
    directions: dict[Direction, DirectionStatus]
    relay_cpu_seconds: float
    notes: list[str]

    def host(self, name: str) -> HostStatus:
        return next(host for host in self.hosts if host.name == name)
