"""``prfaas bench``: every measurement, as a table on the screen and in docs/benchmarks.md."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.metadata
import json
import os
import platform
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from prfaas_bench import engine, gateway, planner, scheduler, sidecar, simulator
from prfaas_bench.control_plane import measure as control_plane
from prfaas_bench.control_plane import results as control_plane_results
from prfaas_bench.federation import measure as federation
from prfaas_bench.federation import results as federation_results

PAGE = Path("docs/benchmarks.md")
_ROUNDS = 5
_QUICK_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One measurement. ``run`` takes the number of rounds and gives the table and the figures."""

    title: str
    command: str
    run: Callable[[int], tuple[str, Any]]


def _sidecar(rounds: int) -> tuple[str, Any]:
    result = sidecar.measure(rounds=rounds)
    return sidecar.table(result), asdict(result)


def _gateway(rounds: int) -> tuple[str, Any]:
    results = asyncio.run(gateway.measure(rounds=rounds))
    return gateway.table(results), [asdict(result) for result in results]


def _engine(rounds: int) -> tuple[str, Any]:
    result = engine.measure(rounds=rounds)
    return engine.table(result), asdict(result)


def _operator(rounds: int) -> tuple[str, Any]:
    sizes = control_plane.SIZES if rounds > _QUICK_ROUNDS else control_plane.QUICK_SIZES
    result = asyncio.run(control_plane.measure(rounds=rounds, sizes=sizes))
    for missed in control_plane_results.targets_missed(result):
        click.echo(f"   target missed: {missed}", err=True)
    return control_plane_results.table(result), asdict(result)


def _federation(rounds: int) -> tuple[str, Any]:
    result = asyncio.run(federation.measure(quick=rounds <= _QUICK_ROUNDS))
    for missed in federation_results.targets_missed(result):
        click.echo(f"   target missed: {missed}", err=True)
    return federation_results.table(result), asdict(result)


def _planner(rounds: int) -> tuple[str, Any]:
    results = planner.measure(rounds=rounds)
    return planner.table(results), [asdict(result) for result in results]


def _simulator(rounds: int) -> tuple[str, Any]:
    results = simulator.measure(rounds=rounds)
    return simulator.table(results), [asdict(result) for result in results]


def _scheduler(rounds: int) -> tuple[str, Any]:
    sizes = scheduler.SIZES if rounds > _QUICK_ROUNDS else scheduler.QUICK_SIZES
    results, hashing = scheduler.measure(rounds=rounds, sizes=sizes)
    for missed in scheduler.targets_missed(results):
        click.echo(f"   target missed: {missed}", err=True)
    figures = {
        "decisions": [asdict(result) for result in results],
        "hashing": [asdict(each) for each in hashing],
    }
    return scheduler.table(results, hashing), figures


PARTS = {
    "sidecar": Part("Sidecar to sidecar", "prfaas bench --only sidecar", _sidecar),
    "gateway": Part("Gateway beside a direct request", "prfaas bench --only gateway", _gateway),
    "engine": Part("Connector inside the engine", "prfaas bench --only engine", _engine),
    "planner": Part("Planner, from one route to fifty regions", "prfaas bench --only planner", _planner),
    "scheduler": Part("A decision of the scheduler", "prfaas bench --only scheduler", _scheduler),
    "federation": Part("Fifty regions through one hub", "prfaas bench --only federation", _federation),
    "simulator": Part(
        "Simulator, 1,000 requests/s and 100 pools", "prfaas bench --only simulator", _simulator
    ),
    "operator": Part("Operator and gateway in a cluster", "prfaas bench --only operator", _operator),
}


@click.command(
    epilog="""\b
Examples:
  prfaas bench                             everything; an hour on two cores
  prfaas bench --only sidecar              one part
  prfaas bench --only operator --write     one part, and its section of the page
  prfaas bench --quick --output json
"""
)
@click.option(
    "--only", "names", multiple=True, type=click.Choice(sorted(PARTS)), help="Only this part (repeatable)."
)
@click.option("--quick", is_flag=True, help=f"{_QUICK_ROUNDS} rounds instead of {_ROUNDS}.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--write/--no-write", default=None, help=f"Write {PAGE}. Default: when all parts ran in full.")
def bench(names: tuple[str, ...], quick: bool, output: str, write: bool | None) -> None:
    """Measure what prfaas costs, each thing beside doing without it, in the same run."""
    chosen = {name: PARTS[name] for name in (names or PARTS)}
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    tables: dict[str, str] = {}
    figures: dict[str, Any] = {"machine": machine()}
    for name, part in chosen.items():
        click.echo(f"== {part.title} ({rounds} rounds)", err=True)
        tables[name], figures[name] = part.run(rounds)
        if output == "table":
            click.echo(f"{part.title}\n\n{tables[name]}\n")
    if output == "json":
        click.echo(json.dumps(figures))
    if write or (write is None and len(chosen) == len(PARTS) and not quick):
        known = PAGE.read_text() if PAGE.exists() and len(chosen) < len(PARTS) else ""
        PAGE.write_text(merged(known, tables, rounds) if known else page(tables, rounds))
        click.echo(f"wrote {PAGE}", err=True)


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}, {_cpu_model()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "prfaas": f"{importlib.metadata.version('prfaas')} {_commit()}".strip(),
        **{name: importlib.metadata.version(name) for name in ("uvloop", "aiohttp", "xxhash", "kopf")},
    }


def page(tables: dict[str, str], rounds: int) -> str:
    """The page of docs/benchmarks.md."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Everything is measured beside what it is compared with, by turns, in one",
        "run; both ends share the machine's cores, so ratios mean something and absolute speeds little.",
        "",
        *(f"- {name}: {value}" for name, value in machine().items()),
        f"- rounds: {rounds}; a spread is the smallest and largest ratio of a round",
        "",
    ]
    for name, table in tables.items():
        lines += _section(name, table)
    return "\n".join(lines)


def merged(known: str, tables: dict[str, str], rounds: int) -> str:
    """The page with new sections in place of those of the same title, or after the others."""
    head, *others = known.rstrip("\n").split("\n## ")
    sections = {text.partition("\n")[0]: text.rstrip("\n") for text in others}
    about = machine()
    for name, table in tables.items():
        measured = f"Measured {about['date']} with prfaas {about['prfaas']}; rounds: {rounds}."
        lines = _section(name, f"{measured}\n\n{table}")
        sections[PARTS[name].title] = "\n".join(lines).removeprefix("## ").rstrip("\n")
    return "\n\n## ".join((head.rstrip("\n"), *sections.values())) + "\n"


def _section(name: str, table: str) -> list[str]:
    return [f"## {PARTS[name].title}", "", f"`{PARTS[name].command}`", "", table, ""]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def _commit() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10, check=False
    )
    return answer.stdout.strip()
