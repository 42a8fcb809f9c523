"""`prfaas evidence`."""

from __future__ import annotations

from pathlib import Path

import click

from prfaas.commands.evidence.runs import all_runs, follow_ups, results
from prfaas.commands.evidence.tables import page
from prfaas.commands.plan.command import solver_output_aside

PAGE = Path("docs/results.md")
BEGINS = "# Results: simulated"


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas evidence                     the tables, on standard output\n"
    "  prfaas evidence --write             and into docs/results.md, behind the paper's tables"
)
@click.option("--write", is_flag=True, help=f"Write the simulated part of {PAGE}.")
@click.option("--processes", type=click.IntRange(min=1), help="Simulations at a time. Default: one per core.")
def evidence(write: bool, processes: int | None) -> None:
    """Simulate what the project promises: where it holds, where it stops, what each part is worth.

    Some hundred simulations of eight hours; half an hour on two cores that do nothing else.
    """
    if write and not PAGE.is_file():
        raise click.UsageError(f"--write is for a checkout: there is no {PAGE} here")
    with solver_output_aside():
        runs = all_runs()
    found = results(runs, _told, processes)
    with solver_output_aside():
        # What is asked for at equal spend needs to know what was spent.
        more = follow_ups(found)
    found |= results(more, _told, processes)
    # The order of the tables is that of the runs, whichever was done first.
    text = page({name: found[name] for name in runs | more})
    click.echo(text, nl=False)
    if write:
        before = PAGE.read_text(encoding="utf-8").partition(f"\n{BEGINS}")[0].rstrip("\n")
        PAGE.write_text(f"{before}\n\n{text}", encoding="utf-8")
        click.echo(f"wrote {PAGE}", err=True)


def _told(name: str, done: int, of: int) -> None:
    click.echo(f"{done} of {of}: {name}", err=True)
