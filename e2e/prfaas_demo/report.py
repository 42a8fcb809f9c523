"""The tables that the demo prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prfaas_demo.prompts import CUT_NAME
from prfaas_demo.results import MIB, Comparison, Outcome, Request

_NONE = "-"


def report(outcome: Outcome, *, with_facts: bool) -> RenderableType:
    """Everything for standard output.

    Args:
        with_facts: how the demo was run; a terminal has shown it before.
    """
    facts = [Text(f"{name}: {text}") for name, text in outcome.facts.items()] if with_facts else []
    return Group(
        *facts,
        Text("\nRequests through the gateway", style="bold"),
        requests_table(outcome.prfaas),
        Text(_LEGEND, style="dim"),
        *(Text(line, style="dim") for line in _on_the_cut(outcome)),
        Text("\nThe same prompts all local", style="bold"),
        comparison_table(outcome.comparisons, outcome.local),
        Text(_verdict_on_speed(outcome), style="dim"),
        *_verdict(outcome),
    )


_LEGEND = (
    "uncached: not in the decode engine's cache; landed: of these, taken from the transfer; wire: from the "
    "first to the last byte, waiting for the prefill included; tail: from the prefill's end to the last byte."
)


def _on_the_cut(outcome: Outcome) -> Iterator[str]:
    for row in outcome.prfaas:
        if row.name == CUT_NAME and outcome.cut and row.landed_tokens is not None:
            yield (
                f"{CUT_NAME}: {outcome.cut}; of {row.uncached_tokens} tokens {row.landed_tokens} were used, "
                f"{row.uncached_tokens - row.landed_tokens} computed in the west."
            )


def requests_table(rows: Sequence[Request]) -> Table:
    """Fits 120 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("request", no_wrap=True)
    for name in ("tokens", "un-\ncached", "landed"):
        table.add_column(name, justify="right")
    table.add_column("route, reason", no_wrap=True)
    for name in ("KV\nMiB", "wire\nMbit/s", "prefill\ns", "tail\ns", "TTFT\ns", "total\ns"):
        table.add_column(name, justify="right")
    table.add_column("tokens\nequal")
    for row in rows:
        table.add_row(
            row.name,
            str(row.tokens),
            str(row.uncached_tokens),
            _whole(row.landed_tokens),
            f"{row.route} {row.reason}",
            _fixed(row.kv_bytes, MIB, 1),
            _fixed(row.wire_bits_per_second, 1e6, 0),
            _fixed(row.prefill_seconds, 1, 2),
            _fixed(row.tail_seconds, 1, 2),
            f"{row.first_token_seconds:.2f}",
            f"{row.total_seconds:.2f}",
            Text("yes", style="green") if row.same_tokens else Text("NO", style="bold red"),
        )
    return table


def comparison_table(rows: Sequence[Comparison], local: Sequence[Request]) -> Table:
    """Ratios above 1 speak for remote prefill."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("request", no_wrap=True)
    for name in (
        "TTFT s\nprfaas",
        "TTFT s\nall local",
        "ratio",
        "total s\nprfaas",
        "total s\nall local",
        "ratio",
    ):
        table.add_column(name, justify="right")
    table.add_column("tokens\nequal")
    for row, request in zip(rows, local, strict=True):
        table.add_row(
            row.name,
            f"{row.first_token_seconds:.2f}",
            f"{row.local_first_token_seconds:.2f}",
            f"{row.first_token_ratio:.2f}",
            f"{row.total_seconds:.2f}",
            f"{row.local_total_seconds:.2f}",
            f"{row.total_ratio:.2f}",
            Text("yes", style="green") if request.same_tokens else Text("NO", style="bold red"),
        )
    return table


def _verdict_on_speed(outcome: Outcome) -> str:
    ratio = outcome.median_first_token_ratio()
    if ratio is None:
        return "No transfer was complete, so there is no ratio to speak of.\n"
    return (
        f"Ratio: all local / prfaas; the median for TTFT, over complete transfers, is {ratio:.2f}. There is "
        "no second machine: engines, TLS and emulated WAN share the same cores, so this shows that it works, "
        "and not what another region's hardware gains.\n"
    )


def _verdict(outcome: Outcome) -> list[Text]:
    if outcome.passed:
        return [Text("All answers have the same tokens as the decode engine alone.", style="bold green")]
    return [
        Text(f"{name}: {problem}", style="bold red")
        for name, problems in outcome.problems.items()
        for problem in problems
    ]


def _fixed(value: float | None, unit: float, digits: int) -> str:
    return _NONE if value is None else f"{value / unit:.{digits}f}"


def _whole(value: int | None) -> str:
    return _NONE if value is None else str(value)


def write(console: Console, outcome: Outcome) -> None:
    """Print the report."""
    console.print(report(outcome, with_facts=not console.is_terminal), highlight=False)
