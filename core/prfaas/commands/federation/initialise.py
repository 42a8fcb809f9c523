"""`prfaas federation init`."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml

from prfaas.api.keys import LABEL_MIRRORED, MANAGER_CLI
from prfaas.commands.cluster import Target, cluster_options
from prfaas.commands.federation.manifests import region_object
from prfaas.commands.federation.places import authorities, place, region_of, run
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import REGIONS, Object


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in values:
        name, separator, value = each.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{each} is not NAME=VALUE", ctx, param)
        found[name] = value
    return found


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas federation init --peer gw.eu.example.org:7410 --jurisdiction EU\n"
    "  prfaas federation init --print > region-eu.yaml"
)
@cluster_options
@click.option("--region", help="Name of the region; default: what the operator says.")
@click.option("--cluster", help="Name of this cluster; default: what the operator says.")
@click.option("--peer", metavar="HOST:PORT", help="Where gateways of other regions reach this one's.")
@click.option("--jurisdiction", help="Whose law holds here, for residency.")
@click.option("--label", "labels", multiple=True, callback=_labels, metavar="NAME=VALUE", help="Own words.")
@click.option("--print", "only_print", is_flag=True, help="Print the Region and change nothing (GitOps).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
def init(
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    region: str | None,
    cluster: str | None,
    peer: str | None,
    jurisdiction: str | None,
    labels: dict[str, str],
    only_print: bool,
    output: str,
) -> None:
    """Make this cluster's own Region, with the public part of its authority.

    Run it again to change something, or when the authority has changed; what is not given stays as it is.
    """
    target = Target(kubeconfig, context, namespace)

    async def work(api: KubeClient) -> Object:
        here = await place(api, target, region=region, cluster=cluster)
        stored = await region_of(api, here.region)
        if (
            stored is not None
            and LABEL_MIRRORED in (stored["metadata"].get("labels") or {})
            and not only_print
        ):
            raise click.ClickException(
                f"Region {here.region} comes from the hub, which would put it back as it was. Change it "
                "there: prfaas federation join renews its trustBundle; edit the rest in the hub."
            )
        spec = merged(
            (stored or {}).get("spec") or {},
            cluster=here.cluster if here.cluster != here.region else None,
            peer=peer,
            jurisdiction=jurisdiction,
            labels=labels,
            trust_bundle=await authorities(here),
        )
        body = region_object(here.region, spec)
        if not only_print:
            await api.apply(REGIONS, body, field_manager=MANAGER_CLI, force=True)
        return body

    body = run(work, target)
    name, spec = body["metadata"]["name"], body["spec"]
    if only_print:
        click.echo(yaml.safe_dump(body, sort_keys=False), nl=False)
    elif output == "json":
        click.echo(json.dumps({"region": name, "spec": spec}, indent=2))
    else:
        click.echo(f"Region {name} is there, with the authority of this cluster.")
        if "peer" not in spec:
            click.echo("It has no --peer yet: gateways of other regions cannot reach this one.")
        click.echo("Next: prfaas federation join, with the context of another cluster.")


def merged(
    stored: dict[str, Any],
    *,
    cluster: str | None,
    peer: str | None,
    jurisdiction: str | None,
    labels: dict[str, str],
    trust_bundle: str,
) -> dict[str, Any]:
    """The spec with what was given in place of what was there."""
    spec = {name: value for name, value in stored.items() if value not in (None, [], {})}
    spec["trustBundle"] = trust_bundle
    clusters = list(spec.get("clusters") or ())
    if cluster is not None and cluster not in clusters:
        spec["clusters"] = sorted([*clusters, cluster])
    if peer is not None:
        spec["peer"] = {"address": peer}
    if jurisdiction is not None:
        spec["jurisdiction"] = jurisdiction
    if labels:
        spec["labels"] = {**(spec.get("labels") or {}), **labels}
    return spec
