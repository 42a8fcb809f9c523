"""`prfaas federation accept-deletes`."""

from __future__ import annotations

import json
from typing import Any

import click

from prfaas.api.conditions import ConditionType, Reason
from prfaas.api.keys import ANNOTATION_ACCEPT_DELETES, HUB_CONFIG_MAP, MANAGER_CLI
from prfaas.commands.cluster import Target, cluster_options
from prfaas.commands.federation.manifests import OFFERED_KEY, UID_KEY
from prfaas.commands.federation.places import place, region_of, run
from prfaas.commands.plain import plain
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS


@click.command("accept-deletes")
@cluster_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
def accept_deletes(
    namespace: str | None, context: str | None, kubeconfig: str | None, yes: bool, output: str
) -> None:
    """Let a frozen mirror go on: what is gone in the hub is deleted here, another hub is taken for the hub.

    Good for ten minutes, and for the hub that is there now.
    """
    target = Target(kubeconfig, context, namespace)

    async def look(api: KubeClient) -> tuple[str, str, str]:
        here = await place(api, target)
        region = await region_of(api, here.region)
        conditions: list[dict[str, Any]] = ((region or {}).get("status") or {}).get("conditions") or []
        mirror = next((each for each in conditions if each["type"] == ConditionType.MIRROR_READY), None)
        if mirror is None or mirror["reason"] != Reason.FROZEN:
            return here.namespace, "", ""
        try:
            data = (await api.get(CONFIG_MAPS, here.namespace, HUB_CONFIG_MAP)).get("data") or {}
        except errors.NotFound:
            data = {}
        return here.namespace, str(data.get(OFFERED_KEY) or data.get(UID_KEY) or ""), mirror["message"]

    place_of_operator, uid, why = run(look, target)
    if not uid:
        if output == "json":
            click.echo(json.dumps({"accepted": False, "frozen": False}))
        else:
            click.echo("The mirror of this cluster is not frozen: there is nothing to accept.")
        return
    if not yes:
        click.echo(plain(why), err=True)
        click.confirm("Delete here what is gone there?", abort=True, err=True)

    async def accept(api: KubeClient) -> str:
        # The connection has brought the server's clock along, by which the operator judges.
        value = f"{uid}@{api.server_now():%Y-%m-%dT%H:%M:%SZ}"
        body = {"metadata": {"annotations": {ANNOTATION_ACCEPT_DELETES: value}}}
        await api.patch(CONFIG_MAPS, place_of_operator, HUB_CONFIG_MAP, body, field_manager=MANAGER_CLI)
        return value

    value = run(accept, target)
    if output == "json":
        click.echo(json.dumps({"accepted": True, "frozen": True, "annotation": value}))
    else:
        click.echo("Accepted for ten minutes. See what comes of it: prfaas federation check")
