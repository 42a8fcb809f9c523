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
from typing import Any

import click

from prfaas.capacity import InvalidInputError
from prfaas.commands.plan.paper_tables import results_page
from prfaas.commands.plan.scenario import Scenario, loaded
from prfaas.commands.plan.text import screen
from prfaas.planner import PlanTimeoutError
from prfaas.planner import plan as planned


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas plan scenario.yaml                        what to run, where, and what binds\n"
    "  prfaas plan scenario.yaml --set link.north-west=5     the same with 5 Gbit/s on a link\n"
    "  prfaas plan scenario.yaml --set demand.chat=12 -o json\n"
    "  prfaas plan --paper                              the tables of docs/results.md"
)
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--paper", is_flag=True, help="Print the published tables, from this code.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="WHAT=NUMBER",
    help="What if: link.NAME=Gbit/s or demand.NAME=requests/s (repeatable).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
def plan(scenario: Path | None, paper: bool, changes: tuple[str, ...], output: str) -> None:
    """Pool sizes, thresholds and flows for a scenario: offline, nothing is changed anywhere."""
    if paper == (scenario is not None):
        raise click.UsageError("give a scenario file or --paper, and not both")
    if scenario is None:
        with solver_output_aside():
            page = results_page(_stopwatch)
        click.echo(page, nl=False)
        return
    try:
        read: Scenario = loaded(scenario.read_text(encoding="utf-8"), changes)
        with solver_output_aside():
            found = planned(read.problem, read.options, elapsed_seconds=_stopwatch())
    except (InvalidInputError, PlanTimeoutError) as error:
        raise click.ClickException(f"{scenario}: {error}") from error
    if output == "json":
        document = dataclasses.asdict(found) | {"summary": found.summary, "complete": found.complete}
        click.echo(json.dumps(_plain(document), indent=2))
    else:
        click.echo(screen(found))


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
