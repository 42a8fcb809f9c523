"""`prfaas plan`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from prfaas.capacity import InvalidInputError
from prfaas.commands.plain import plain
from prfaas.commands.plan.changes import apply
from prfaas.commands.plan.paper_tables import results_page
from prfaas.commands.plan.picture import Picture, pictures, sketch, svg
from prfaas.commands.plan.scenario import Scenario, loaded
from prfaas.commands.plan.text import screen
from prfaas.planner import Plan, PlanTimeoutError
from prfaas.planner import plan as planned

if TYPE_CHECKING:
    from prfaas.commands.plan.live_scenario import LiveScenario


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas plan scenario.yaml                        what to run, where, and what binds\n"
    "  prfaas plan scenario.yaml --set link.north-west=5     the same with 5 Gbit/s on a link\n"
    "  prfaas plan scenario.yaml --set demand.chat=12 -o json\n"
    "  prfaas plan scenario.yaml --picture t.svg        throughput over the threshold t\n"
    "  prfaas plan --from-cluster -n serving            from what runs there now\n"
    "  prfaas plan --from-cluster --set link.us-eu=5Gbit --set pool.long.replicas=3\n"
    "  prfaas plan --from-cluster -o yaml > scenario.yaml    to edit, plan and simulate\n"
    "  prfaas plan --paper                              the tables of docs/results.md"
)
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--paper", is_flag=True, help="Print the published tables, from this code.")
@click.option("--from-cluster", is_flag=True, help="Plan what runs in a cluster now. It is only read.")
@click.option("-n", "--namespace", help="Namespace; default: that of the kubeconfig's context.")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--kubeconfig", type=click.Path(), help="Path of the kubeconfig; default: as kubectl.")
@click.option(
    "--observations",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answers of the gateways' /observations: lengths and demand as counted (repeatable).",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="WHAT=NUMBER",
    help="What if: link.NAME=Gbit/s, demand.NAME=requests/s, output.NAME=tokens, pool.NAME.replicas=N "
    "(repeatable).",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Draw throughput over t there, and on the screen.",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", help="yaml: the scenario."
)
def plan(
    scenario: Path | None,
    paper: bool,
    from_cluster: bool,
    namespace: str | None,
    all_namespaces: bool,
    context: str | None,
    kubeconfig: str | None,
    observations: tuple[Path, ...],
    changes: tuple[str, ...],
    picture: Path | None,
    output: str,
) -> None:
    """Pool sizes, thresholds and flows for a scenario or a cluster: nothing is changed anywhere."""
    if sum((paper, from_cluster, scenario is not None)) != 1:
        raise click.UsageError("give a scenario file, --from-cluster or --paper, and one of them only")
    if (namespace or all_namespaces or context or kubeconfig or observations) and not from_cluster:
        raise click.UsageError(
            "--namespace, -A, --context, --kubeconfig and --observations belong to --from-cluster"
        )
    if namespace and all_namespaces:
        raise click.UsageError("--all-namespaces and --namespace exclude each other")
    if paper:
        with solver_output_aside():
            page = results_page(_stopwatch)
        click.echo(page, nl=False)
        return
    live, name = None, str(scenario)
    try:
        if scenario is not None:
            text = scenario.read_text(encoding="utf-8")
        else:
            live, name = _live(
                namespace, context, kubeconfig, observations, changes, everywhere=all_namespaces
            )
            text = yaml.safe_dump(live.document, sort_keys=False, allow_unicode=True)
        if output == "yaml":
            click.echo(_scenario_text(text, changes, live, name), nl=False)
            return
        read: Scenario = loaded(text, changes)
        with solver_output_aside():
            found = planned(read.problem, read.options, elapsed_seconds=_stopwatch())
        drawn = pictures(read.problem, found, _present(live)) if picture is not None else ()
    except (InvalidInputError, PlanTimeoutError) as error:
        raise click.ClickException(plain(f"{name}: {error}")) from error
    if picture is not None:
        picture.write_text(svg(drawn), encoding="utf-8")
    if output == "json":
        click.echo(json.dumps(_document(found, live, drawn), indent=2))
        return
    click.echo(plain(_screen(found, live, name)))
    if picture is not None:
        for each in drawn:
            click.echo("\n" + sketch(each))
        click.echo(f"\n{picture} is drawn" if drawn else "\nno pool has anything remote to draw")


def _live(
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    observations: tuple[Path, ...],
    changes: tuple[str, ...],
    *,
    everywhere: bool,
) -> tuple[LiveScenario, str]:
    """The scenario of a cluster, and what to call the place."""
    # Here and not above: who plans from a file needs no client.
    try:
        from prfaas.commands.cluster import Target, run
        from prfaas.commands.plan.live_demand import added, tallies_of
        from prfaas.commands.plan.live_objects import read
        from prfaas.commands.plan.live_scenario import scenario_of
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--from-cluster needs the Python module {error.name}: pip install 'prfaas[cli]'"
        ) from error
    target = Target(kubeconfig, context, namespace)
    place = None if everywhere else target.namespace_or_default()
    tallies = added(tallies_of(file.read_text(encoding="utf-8"), str(file)) for file in observations)
    live = run(lambda api: read(api, place), target)
    where = f"namespace {place}" if place else "all namespaces"
    return scenario_of(live, changes, tallies), where


def _present(live: LiveScenario | None) -> dict[str, float]:
    if live is None:
        return {}
    from prfaas.commands.plan.live_text import present_thresholds

    return present_thresholds(live)


def _screen(found: Plan, live: LiveScenario | None, name: str) -> str:
    if live is None:
        return screen(found)
    from prfaas.commands.plan.live_text import beside

    return beside(live, found, name)


def _document(found: Plan, live: LiveScenario | None, drawn: tuple[Picture, ...]) -> Any:
    document: dict[str, Any] = dataclasses.asdict(found)
    document |= {"summary": found.summary, "complete": found.complete}
    if drawn:
        document["throughput_over_threshold"] = {
            each.pool: [dataclasses.asdict(point) for point in each.points] for each in drawn
        }
    if live is not None:
        from prfaas.commands.plan.live_text import now_document

        document |= {"now": now_document(live), "assumed": live.assumed, "scenario": live.document}
    return _plain(document)


def _scenario_text(text: str, changes: tuple[str, ...], live: LiveScenario | None, name: str) -> str:
    """The scenario with the changes made; what was assumed is in its head, for whoever edits it."""
    loaded(text, changes)
    if live is None and not changes:
        return text
    document = yaml.safe_load(text)
    for change in changes:
        apply(document, change)
    notes = [f"From {name}, by `prfaas plan --from-cluster`.", *live.assumed] if live is not None else []
    head = "".join(f"# {plain(note)}\n" for note in notes)
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _stopwatch() -> Callable[[], float]:
    begun = time.monotonic()
    return lambda: time.monotonic() - begun


def _plain(value: Any) -> Any:
    """JSON knows no infinity: a threshold above all lengths becomes null, with a remote share of 0."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    return value


@contextlib.contextmanager
def solver_output_aside() -> Iterator[None]:
    """HiGHS prints lines about its own inner steps on descriptor 1 whatever it is told; nobody needs them."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
