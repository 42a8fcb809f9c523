"""`prfaas federation check`: what keeps regions apart, hop by hop, and what to do."""

from __future__ import annotations

import json
import sys

import click

from prfaas.commands.cluster import Target, cluster_options
from prfaas.commands.federation.findings import RegionCheck, check_regions
from prfaas.commands.federation.places import authorities, place, run
from prfaas.commands.plain import plain
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import REGIONS


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas federation check\n"
    "  prfaas federation check us -o json   exit status 1: not well"
)
@click.argument("regions", nargs=-1, metavar="[REGION]…")
@cluster_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
def check(
    regions: tuple[str, ...],
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    output: str,
) -> None:
    """Say how this cluster sees other regions and its hub: which hop fails, and what to do about it."""
    target = Target(kubeconfig, context, namespace)

    async def work(api: KubeClient) -> list[RegionCheck]:
        here = await place(api, target)
        found = await api.list(REGIONS)
        try:
            own_authorities: str | None = await authorities(here)
        except (errors.Forbidden, click.ClickException):
            # Secrets are not everybody's; the operator compares them too.
            own_authorities = None
        checked = check_regions(found, here.region, here.cluster, own_authorities, api.server_now())
        unknown = sorted(set(regions) - {each.name for each in checked})
        if unknown:
            known = ", ".join(each.name for each in checked)
            raise click.ClickException(
                f"No Region {', '.join(unknown)} here (there are: {known or 'none'}). "
                "Run prfaas federation join, or apply the Region."
            )
        return [each for each in checked if not regions or each.name in regions or each.own]

    checked = run(work, target)
    if output == "json":
        click.echo(json.dumps([each.to_document() for each in checked], indent=2))
    else:
        for each in checked:
            for line in each.lines():
                click.echo(plain(line))
    if any(problem.bad for each in checked for problem in each.problems):
        sys.exit(1)
