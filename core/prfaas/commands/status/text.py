"""The view as text for a terminal: tables as of kubectl, a reason beside whatever is not well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prfaas.api.conditions import Reason
from prfaas.commands.durations import short_duration
from prfaas.commands.plain import plain
from prfaas.commands.status.regions_text import links_table, regions_table
from prfaas.commands.status.view import (
    EndpointState,
    EndpointView,
    FleetView,
    Health,
    OperatorState,
    PairView,
    PoolView,
    RouteView,
)

T = TypeVar("T")
FINGERPRINT_CHARACTERS = 12
_SHORT_KINDS = {"PrefillPool": "ppool", "DecodePool": "dpool"}
_STYLES = {
    Health.WELL: "green",
    Health.PROGRESSING: "yellow",
    Health.NOT_READY: "red",
    Health.STALLED: "bold red",
    Health.UNSEEN: "magenta",
    EndpointState.READY: "green",
    EndpointState.STARTING: "yellow",
    EndpointState.PENDING: "yellow",
    EndpointState.FAILING: "red",
    EndpointState.DRAINING: "cyan",
    EndpointState.ENDING: "cyan",
    EndpointState.ENDED: "dim",
    OperatorState.LEADING: "green",
    OperatorState.DOWN: "bold red",
    OperatorState.ABSENT: "bold red",
    OperatorState.NOT_VISIBLE: "yellow",
}


def screen(fleet: FleetView, *, namespaces: bool, most_rows: int | None = None) -> RenderableType:
    """The whole screen: operator, regions and links, pools, routes, pods.

    Args:
        namespaces: whether to show them, when there may be several.
        most_rows: of each table; what is not well comes first where there are more.
    """
    pools = _most_urgent(fleet.pools, most_rows, lambda pool: pool.health is Health.WELL)
    routes = _most_urgent(fleet.routes, most_rows, lambda route: route.health is Health.WELL)
    endpoints = _most_urgent(fleet.endpoints, most_rows, lambda pod: pod.state is EndpointState.READY)
    parts: list[RenderableType] = [
        Text.assemble(
            "operator  ",
            (str(fleet.operator.state), _STYLES[fleet.operator.state]),
            f"  {plain(fleet.operator.message)}",
        )
    ]
    if not fleet.pools and not fleet.routes:
        parts += ["", f"No pools and no routes in {fleet.scope}."]
    left_out = [
        f"{len(shown)} of {len(all_)} {what}"
        for what, shown, all_ in (
            ("pools", pools, fleet.pools),
            ("routes", routes, fleet.routes),
            ("pods", endpoints, fleet.endpoints),
        )
        if len(shown) < len(all_)
    ]
    if left_out:
        parts.append(Text(f"shown     {', '.join(left_out)}; what is not well comes first", style="dim"))
    if fleet.regions:
        parts += ["", regions_table(fleet.regions)]
    if fleet.links:
        parts += ["", links_table(fleet.links)]
    if pools:
        parts += ["", _pools(pools, namespaces)]
    if routes:
        parts += ["", _routes(routes, namespaces)]
    if endpoints:
        parts += ["", _endpoints(endpoints, fleet.at, namespaces)]
    return Group(*parts)


def _most_urgent(found: Sequence[T], most: int | None, is_well: Callable[[T], bool]) -> Sequence[T]:
    if most is None or len(found) <= most:
        return found
    return sorted(found, key=is_well)[:most]


def _pools(pools: Sequence[PoolView], namespaces: bool) -> Table:
    table = _table(("POOL", "MODEL", "READY", "HEALTH", "FINGERPRINT"), "WHY", namespaces)
    for pool in pools:
        desired = "?" if pool.desired_replicas is None else str(pool.desired_replicas)
        cells: list[str | Text] = [
            f"{_SHORT_KINDS.get(pool.kind, pool.kind)}/{pool.name}",
            pool.model,
            f"{pool.ready_replicas}/{desired}",
            _word(pool.health),
            (pool.fingerprint or "-")[:FINGERPRINT_CHARACTERS],
        ]
        _rows(table, pool.namespace, cells, _why(pool), namespaces)
    return table


def _routes(routes: Sequence[RouteView], namespaces: bool) -> Table:
    table = _table(("ROUTE", "DECODE", "MODE", "OVER TOKENS", "HEALTH"), "WHY", namespaces)
    for route in routes:
        mode = route.effective_mode or "?"
        if route.effective_mode is not None and route.effective_mode != route.wanted_mode:
            mode = f"{mode} (of {route.wanted_mode})"
        cells: list[str | Text] = [
            f"proute/{route.name}",
            f"dpool/{route.decode_pool}",
            mode,
            "-" if route.threshold_tokens is None else str(route.threshold_tokens),
            _word(route.health),
        ]
        lines = [*_why(route), *(_pair(pair) for pair in route.pairs)]
        _rows(table, route.namespace, cells, lines, namespaces)
    return table


def _endpoints(endpoints: Sequence[EndpointView], now: datetime, namespaces: bool) -> Table:
    table = _table(("POD", "POOL", "STATE", "FINGERPRINT", "RESTARTS", "AGE"), "NODE, WHY", namespaces)
    for pod in endpoints:
        cells: list[str | Text] = [
            pod.name,
            f"{_SHORT_KINDS.get(pod.pool_kind, pod.pool_kind)}/{pod.pool}",
            _word(pod.state),
            (pod.fingerprint or "-")[:FINGERPRINT_CHARACTERS],
            str(pod.restarts),
            short_duration(now - pod.created_at),
        ]
        last = [line for line in (pod.node or "", pod.message) if line]
        _rows(table, pod.namespace, cells, last, namespaces)
    return table


def _why(thing: PoolView | RouteView) -> list[str]:
    if thing.health is Health.WELL:
        first = [thing.reason]
    else:
        first = [f"{thing.reason}: {thing.message}" if thing.message else thing.reason]
    return [*first, *thing.notes]


def _pair(pair: PairView) -> str:
    engines = f"{pair.ready_prefill} prefill, {pair.ready_decode} decode ready"
    if pair.compatible == "True":
        return f"with ppool/{pair.prefill_pool}: {engines}"
    if pair.compatible == "False":
        engines = f"{pair.prefill_engines or 0} prefill and {pair.decode_engines or 0} decode ready"
        fit = "" if pair.prefill_engines is None else f": {engines}, and none fit together"
        return f"with ppool/{pair.prefill_pool}: not compatible ({pair.reason or 'not known why'}){fit}"
    # Engines of one side alone are not counted: the numbers are of those that fit together.
    unknown = pair.reason in (None, Reason.FINGERPRINT_UNKNOWN)
    return f"with ppool/{pair.prefill_pool}: {'no pair of ready engines yet' if unknown else pair.reason}"


def _table(columns: Iterable[str], last: str, namespaces: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in (*(("NAMESPACE",) if namespaces else ()), *columns):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    table.add_column(last, overflow="fold", ratio=1)
    return table


def _rows(
    table: Table, namespace: str, cells: Sequence[str | Text], last: list[str], namespaces: bool
) -> None:
    # A plain str would be read as markup, and names and messages come from elsewhere.
    row = [*([namespace] if namespaces else []), *cells, "\n".join(last)]
    table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))


def _word(state: Health | EndpointState) -> Text:
    return Text(str(state), style=_STYLES[state])
