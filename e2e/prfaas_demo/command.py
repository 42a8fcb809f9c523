"""`prfaas demo`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from prfaas_demo.children import last_lines
from prfaas_demo.errors import DemoError
from prfaas_demo.interrupts import Interruption
from prfaas_demo.play import Options, play
from prfaas_demo.progress import Teller
from prfaas_demo.regions import LinkOptions
from prfaas_demo.report import write
from prfaas_demo.results import Outcome
from prfaas_setup import SetupError
from prfaas_wan import LinkSettings
from prfaas_wan.quantities import parse_fraction, parse_rate, parse_time

PLAIN_COLUMNS = 120

_EXAMPLES = """\b
Examples:
  prfaas demo
  prfaas demo --rate 200Mbit --rtt 120ms --loss 0.1%
  prfaas demo --keep              # then use it with curl, cut the link, look at metrics
  prfaas demo --json > demo.json
"""


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], Any]:
    """An option's callback; what `parse` says of a bad value becomes the usage error."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: str) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


def _rtt(text: str) -> float:
    seconds = parse_time(text)
    LinkSettings(delay_seconds=seconds / 2)
    return seconds


@click.command(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rate",
    "rate_bits_per_second",
    metavar="RATE",
    default="1Gbit",
    show_default=True,
    callback=_parsed(parse_rate),
    help="The link's rate, each way: 1Gbit, 200Mbit, unlimited.",
)
@click.option(
    "--rtt",
    "rtt_seconds",
    metavar="TIME",
    default="50ms",
    show_default=True,
    callback=_parsed(_rtt),
    help="The link's round-trip time.",
)
@click.option(
    "--loss",
    "loss_fraction",
    metavar="FRACTION",
    default="0",
    show_default=True,
    callback=_parsed(parse_fraction),
    help="Share of segments lost, each way: 0.1%.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(2, 256),
    default=32,
    show_default=True,
    help="Length of each answer.",
)
@click.option("--loopback", is_flag=True, help="No emulated WAN: both regions on this machine's loopback.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as JSON on standard output, no tables.")
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, and say how to use it.")
def demo(
    rate_bits_per_second: float | None,
    rtt_seconds: float,
    loss_fraction: float,
    max_tokens: int,
    loopback: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Two emulated regions with real engines: a prompt is prefilled in one and decoded in the other.

    Compares every answer, token by token, with that of one engine alone, also when the link is cut in
    mid-transfer. Exit status: 0 when all tokens are the same and every request went as it should, 1 when not
    or when something did not start, 130 after Ctrl-C. Needs root for the emulated WAN; without, both regions
    share the loopback.
    """
    options = Options(
        link=LinkOptions(rate_bits_per_second, rtt_seconds, loss_fraction),
        max_tokens=max_tokens,
        loopback=loopback,
        keep=keep,
    )
    errors = _console(sys.stderr)
    try:
        outcome = play(options, Teller(errors), _print_json if as_json else _print_tables)
    except DemoError as error:
        _explain(errors, error)
        sys.exit(1)
    except SetupError as error:
        raise click.ClickException(str(error)) from error
    except Interruption as interruption:
        click.echo("stopped; nothing is left running", err=True)
        sys.exit(128 + interruption.number)
    sys.exit(0 if outcome.passed else 1)


def _print_json(outcome: Outcome) -> None:
    click.echo(json.dumps(outcome.as_json(), indent=2))


def _print_tables(outcome: Outcome) -> None:
    write(_console(sys.stdout), outcome)


def _console(file: Any) -> Console:
    """As wide as the terminal; into a file or a pipe, wide enough for the tables."""
    width = None if file.isatty() or "COLUMNS" in os.environ else PLAIN_COLUMNS
    return Console(file=file, width=width)


def _explain(console: Console, error: DemoError) -> None:
    console.print(f"\nThe demo cannot go on: {error}", style="bold red", markup=False, soft_wrap=True)
    if error.log is not None:
        console.print(f"The end of {error.log}:", markup=False, soft_wrap=True)
        for line in last_lines(error.log):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if error.folder is not None and error.folder.is_dir():
        console.print(f"All logs: {error.folder}", markup=False, highlight=False, soft_wrap=True)
