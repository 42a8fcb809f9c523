"""`prfaas status`."""

from __future__ import annotations

import asyncio
import json

import click
import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from prfaas.commands.cluster import Target, cluster_options, explain, run
from prfaas.commands.status.gather import gather
from prfaas.commands.status.text import screen
from prfaas.commands.status.view import FleetView
from prfaas.kube import errors
from prfaas.kube.api import KubeApi

# Wide enough that a table in a pipe or a log keeps its lines.
PIPE_COLUMNS = 200
TABLES = 3
LEAST_ROWS = 5


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas status                      the namespace of the current context\n"
    "  prfaas status -A --watch           everything, kept up to date\n"
    "  prfaas status -n serving -o json   for programs\n"
    "  kubectl prfaas status              the same as a plug-in of kubectl"
)
@cluster_options
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Keep the screen up to date until interrupted.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks with --watch.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", help="Form.")
@click.option(
    "--operator-namespace", help="Where the operator's Lease is; default: all namespaces are searched."
)
def status(
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    all_namespaces: bool,
    watch: bool,
    interval_seconds: float,
    output: str,
    operator_namespace: str | None,
) -> None:
    """Regions, links, pools, routes and pods on one screen: what is well, what is not, and why."""
    if all_namespaces and namespace:
        raise click.UsageError("--all-namespaces and --namespace exclude each other")
    if watch and output != "text":
        raise click.UsageError("--watch is for the screen: leave out --output")
    target = Target(kubeconfig, context, namespace)
    place = None if all_namespaces else target.namespace_or_default()
    if not watch:
        fleet = run(lambda api: gather(api, place, operator_namespace), target)
        _print(fleet, output, namespaces=all_namespaces)
        return
    try:
        run(lambda api: _keep_showing(api, place, operator_namespace, interval_seconds), target)
    except KeyboardInterrupt:
        return


def _print(fleet: FleetView, output: str, *, namespaces: bool) -> None:
    if output == "json":
        click.echo(json.dumps(fleet.to_api(), indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(fleet.to_api(), sort_keys=False, allow_unicode=True), nl=False)
    else:
        _console().print(screen(fleet, namespaces=namespaces))


async def _keep_showing(
    api: KubeApi, namespace: str | None, operator_namespace: str | None, interval_seconds: float
) -> None:
    shown: RenderableType = Text("…")
    with Live(shown, console=_console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                fleet = await gather(api, namespace, operator_namespace)
            except errors.KubeError as error:
                if not error.retryable:
                    raise
                live.update(Group(Text(explain(error), style="bold red"), "", shown), refresh=True)
            else:
                # What is below the screen's end cannot be seen, and a large fleet takes seconds to lay out.
                most_rows = max(LEAST_ROWS, live.console.height // TABLES)
                shown = screen(fleet, namespaces=namespace is None, most_rows=most_rows)
                at = Text(f"{fleet.at:%Y-%m-%d %H:%M:%S}Z, every {interval_seconds:g} s", style="dim")
                live.update(Group(at, shown), refresh=True)
            await asyncio.sleep(interval_seconds)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)
