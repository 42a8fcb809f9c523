"""An emulator's status as text."""

from __future__ import annotations

from prfaas_wan.quantities import format_rate, format_size, format_time
from prfaas_wan.settings import Direction, LinkSettings
from prfaas_wan.status import DirectionStatus, HostStatus, WanStatus


def status_text(status: WanStatus) -> str:
    lines = [f"{status.name} (process {status.keeper_pid})"]
    lines += [_host_line(host) for host in status.hosts]
    for direction, each in status.directions.items():
        lines += _direction_lines(direction, each)
    lines += [f"  note: {note}" for note in status.notes]
    return "\n".join(lines)


def _host_line(host: HostStatus) -> str:
    line = f"  host {host.name}: {host.address}, {host.address_v6}"
    return f"{line}; from here: {host.access_address}" if host.access_address else line


def _direction_lines(direction: Direction, each: DirectionStatus) -> list[str]:
    stats = each.stats
    dropped = stats.dropped_queue_segments
    overload = stats.dropped_memory_segments + stats.undelivered_frames + stats.device_dropped_packets
    lines = [
        f"  {direction}: {link_text(each.settings)}",
        f"    {stats.delivered_segments} segments, {format_size(stats.delivered_bytes)} delivered; "
        f"{stats.lost_segments} lost, {dropped} dropped by the queue, {stats.dropped_cut_segments} by a cut; "
        f"{format_size(stats.queued_bytes)} queued",
    ]
    if overload or stats.unreadable_frames:
        lines.append(f"    OVERLOADED: the emulator itself lost {overload + stats.unreadable_frames} packets")
    return lines


def link_text(link: LinkSettings) -> str:
    words = ["CUT"] if link.cut else []
    words += [format_rate(link.rate_bits_per_second), f"delay {format_time(link.delay_seconds)}"]
    if link.jitter_seconds:
        words.append(f"jitter {format_time(link.jitter_seconds)}{' reordering' if link.reorder else ''}")
    if link.loss_fraction:
        words.append(f"loss {link.loss_fraction * 100:.4g} %")
    if link.rate_bits_per_second is not None:
        words.append(f"queue {format_size(link.queue_limit_bytes)}")
    return ", ".join(words)
