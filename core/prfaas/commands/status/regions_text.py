"""Tables of regions and links."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from prfaas.commands.plain import plain
from prfaas.commands.status.view import Health, LinkView, RegionView

_STYLES = {
    Health.WELL: "green",
    Health.PROGRESSING: "yellow",
    Health.NOT_READY: "red",
    Health.STALLED: "bold red",
    Health.UNSEEN: "magenta",
}


def regions_table(regions: Sequence[RegionView]) -> Table:
    """The own region first."""
    table = _table(("REGION", "CLUSTERS", "PEER", "HEALTH"), "WHY")
    for region in regions:
        first = region.reason
        if region.health is not Health.WELL and region.message:
            first = f"{region.reason}: {region.message}"
        cells: list[str | Text] = [
            f"{region.name}{' (here)' if region.here else ''}",
            "\n".join(region.clusters),
            region.peer or "-",
            Text(str(region.health), style=_STYLES[region.health]),
            "\n".join((first, *region.notes)),
        ]
        table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in cells))
    return table


def links_table(links: Sequence[LinkView]) -> Table:
    """KV goes from the first region to the second."""
    table = _table(("LINK", "GOODPUT", "RTT", "USE", "SPENT", "HEALTH"), "WHY")
    for link in links:
        why = link.reason
        if link.health is not Health.WELL and link.message:
            why = f"{link.reason}: {link.message}"
        use = "-" if link.utilisation_percent is None else f"{link.utilisation_percent} %"
        cells: list[str | Text] = [
            f"{link.source} to {link.destination}",
            "-" if link.goodput_bits_per_second is None else bits(link.goodput_bits_per_second),
            "-" if link.rtt_seconds is None else f"{link.rtt_seconds * 1000:.0f} ms",
            use,
            _spent(link),
            Text(str(link.health), style=_STYLES[link.health]),
            why,
        ]
        table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in cells))
    return table


def _spent(link: LinkView) -> str:
    if link.spent_bytes is None:
        return "-"
    of = f" of {size(link.budget_bytes)}" if link.budget_bytes is not None else ""
    return f"{size(link.spent_bytes)}{of}"


def bits(per_second: int) -> str:
    """A rate for people: `9.4 Gbit/s`."""
    return f"{_scaled(per_second, 1000, ('', 'k', 'M', 'G', 'T', 'P'))}bit/s"


def size(count: int) -> str:
    """An amount of bytes for people: `1.2 TiB`."""
    return f"{_scaled(count, 1024, ('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi'))}B"


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    value, index = float(number), 0
    while value >= base and index < len(units) - 1:
        value, index = value / base, index + 1
    return f"{value:.0f} {units[index]}" if index == 0 or value >= 100 else f"{value:.1f} {units[index]}"


def _table(columns: Sequence[str], last: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    table.add_column(last, overflow="fold", ratio=1)
    return table
