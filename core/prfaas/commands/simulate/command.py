"""`prfaas simulate`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import click

from prfaas.capacity import InvalidInputError
from prfaas.commands.durations import parse_duration
from prfaas.commands.plan.command import solver_output_aside
from prfaas.commands.simulate import html, scenario, text, validate
from prfaas.planner import PlanTimeoutError
from prfaas.simulator import simulate as simulated

PROGRESS_AFTER_SECONDS = 2.0
INTERRUPTED = 130


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration(value).total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas simulate scenario.yaml                       a table\n"
    "  prfaas simulate scenario.yaml --report day.html     and plots, in one file\n"
    "  prfaas simulate scenario.yaml --set link.north-west=5 --set simulation.policy.router=Scheduler\n"
    "  prfaas simulate scenario.yaml --duration 2h --seed 7 -o json\n"
    "  prfaas simulate --validate demo.json                beside real engines, from `prfaas demo --json`"
)
@click.argument(
    "file",
    metavar="[SCENARIO]",
    required=False,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="WHAT=VALUE",
    help="What if: link.NAME=Gbit/s, demand.NAME=requests/s or simulation.FIELD=VALUE (repeatable).",
)
@click.option("--seed", type=click.IntRange(min=0), help="Another course of chance.")
@click.option("--duration", callback=_duration, metavar="TIME", help="How long, such as 2h or 90m.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write an HTML report with plots.",
)
@click.option(
    "--validate",
    "demo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="DEMO.JSON",
    help="Instead: predict the requests of `prfaas demo --json`, beside what was measured.",
)
def simulate(
    file: Path | None,
    changes: tuple[str, ...],
    seed: int | None,
    duration: float | None,
    output: str,
    report: Path | None,
    demo: Path | None,
) -> None:
    """Play a scenario through: requests, pools and links by chance, decisions by the production code.

    The same scenario and seed give the same result. Ctrl-C ends it and shows what is known.
    """
    if (file is None) == (demo is None):
        raise click.UsageError("give a scenario file or --validate, and not both")
    if demo is not None:
        _validated(demo, output)
        return
    assert file is not None  # noqa: S101 (checked above, for mypy)
    with refused_input_told(file):
        read = scenario.read(file, changes, seed=seed, duration_seconds=duration)
        with stop_on_interrupt() as stopped, solver_output_aside():
            result = simulated(
                read.problem,
                read.options,
                read.settings,
                traces=read.traces,
                progress=Meter(read.settings.duration_seconds, stopped),
            )
    if report is not None:
        report.write_text(html.report(result, f"{file.name}, seed {read.settings.seed}"), encoding="utf-8")
        click.echo(f"wrote {report}", err=True)
    if output == "json":
        click.echo(json.dumps(text.document(result), indent=2))
    else:
        click.echo(text.screen(result))
    if result.interrupted:
        sys.exit(INTERRUPTED)


def _validated(demo: Path, output: str) -> None:
    with refused_input_told(demo):
        try:
            document = json.loads(demo.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidInputError("demo", f"is not JSON ({error})", "use `prfaas demo --json`") from error
        with solver_output_aside():
            rows = validate.compared(document)
    if output == "json":
        click.echo(json.dumps([asdict(row) | {"error": row.error} for row in rows], indent=2))
    else:
        click.echo(validate.table(rows))


@contextmanager
def refused_input_told(file: Path) -> Iterator[None]:
    """Errors of input as the command's own, with the file's name."""
    try:
        yield
    except (InvalidInputError, PlanTimeoutError) as error:
        raise click.ClickException(f"{file}: {error}") from error


class Meter:
    """A line on standard error while it takes long, rewritten where that is a terminal."""

    def __init__(self, seconds: float, stopped: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._stopped = stopped
        self._begun = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, simulated_seconds: float) -> bool:
        now = time.monotonic()
        wait = 0.2 if self._terminal else 10.0
        if now - self._begun > PROGRESS_AFTER_SECONDS and now - self._shown > wait:
            self._shown = now
            share = simulated_seconds / self._seconds
            left = (now - self._begun) * (1 - share) / share
            line = f"simulated {simulated_seconds / 3600:.2f} h, {100 * share:.0f} %, about {left:.0f} s left"
            click.echo(f"\r{line:<60}" if self._terminal else line, nl=not self._terminal, err=True)
        finished = simulated_seconds >= self._seconds or self._stopped()
        if finished and self._terminal and self._shown > self._begun:
            click.echo(f"\r{'':<60}\r", nl=False, err=True)
        return not self._stopped()


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks for an end at the next sample; a second one ends at once."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
