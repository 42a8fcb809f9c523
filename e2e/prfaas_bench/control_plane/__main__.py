"""``python -m prfaas_bench.control_plane``: this part alone, with other sizes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click

from prfaas_bench.control_plane.measure import SIZES, STEADY_SECONDS, measure
from prfaas_bench.control_plane.results import table, targets_missed


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Numbers of pools, even.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of applies.")
@click.option(
    "--steady-seconds", default=STEADY_SECONDS, show_default=True, help="How long rest is measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(sizes: str, rounds: int, steady_seconds: float, as_json: bool) -> None:
    """Measure what the operator and the gateway cost in a cluster of many pools."""
    numbers = tuple(int(each) for each in sizes.split(","))
    result = asyncio.run(measure(rounds=rounds, sizes=numbers, steady_seconds=steady_seconds))
    click.echo(json.dumps(asdict(result)) if as_json else table(result))
    for missed in targets_missed(result):
        click.echo(f"missed: {missed}", err=True)


if __name__ == "__main__":
    main()
