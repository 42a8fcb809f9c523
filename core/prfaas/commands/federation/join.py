"""`prfaas federation join`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import yaml

from prfaas.api.keys import HUB_CONFIG_MAP, HUB_KUBECONFIG_SECRET, LABEL_MIRRORED, MANAGER_CLI, MANAGER_MIRROR
from prfaas.commands.cluster import Target, cluster_options
from prfaas.commands.durations import parse_duration
from prfaas.commands.federation import manifests
from prfaas.commands.federation.initialise import merged
from prfaas.commands.federation.places import Place, authorities, hub_uid, place, region_of, run
from prfaas.kube import errors
from prfaas.kube.client import KubeClient
from prfaas.kube.resources import CONFIG_MAPS, LEASES, REGIONS, SECRETS, Object

SHORTEST = timedelta(minutes=10)


def _length(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    try:
        length = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from error
    if length < SHORTEST:
        raise click.BadParameter("must be at least 10m", ctx, param)
    return length


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas federation join --context us --hub-context eu\n"
    "  prfaas federation join --context us --hub-context eu --no-hub   only Regions, both ways\n"
    "  prfaas federation join --context us --hub-context eu --print    manifests for Git"
)
@cluster_options
@click.option("--hub-context", help="Context of the hub, or of the other cluster with --no-hub.")
@click.option("--hub-kubeconfig", type=click.Path(), help="Its kubeconfig; default: as this cluster's.")
@click.option("--hub-namespace", help="Namespace of its operator; default: it is looked for.")
@click.option("--hub-server", metavar="URL", help="Its API server as this cluster reaches it.")
@click.option(
    "--no-hub", is_flag=True, help="Only exchange Regions: what is wanted comes by Git, not by a hub."
)
@click.option(
    "--token-for", callback=_length, default="365d", show_default=True, help="How long the token is to last."
)
@click.option("--replace-hub", is_flag=True, help="Leave the hub that this cluster has had so far.")
@click.option("--print", "only_print", is_flag=True, help="Print what would be applied where (GitOps).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form.")
def join(
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    hub_context: str | None,
    hub_kubeconfig: str | None,
    hub_namespace: str | None,
    hub_server: str | None,
    no_hub: bool,
    token_for: timedelta,
    replace_hub: bool,
    only_print: bool,
    output: str,
) -> None:
    """Make this cluster a member of another one's federation.

    Regions are exchanged both ways. In the hub this cluster's region gets an account that may read what is
    wanted and write its own report, and nothing else; its token is kept here as Secret prfaas-hub. Run it
    again to renew the token or the trust bundle.
    """
    if hub_context is None and hub_kubeconfig is None:
        raise click.UsageError("name the other cluster: --hub-context or --hub-kubeconfig")
    target = Target(kubeconfig, context, namespace)
    other = Target(hub_kubeconfig or kubeconfig, hub_context, hub_namespace)

    async def work(here_api: KubeClient, hub_api: KubeClient) -> Joined:
        here, hub = await place(here_api, target), await place(hub_api, other)
        return await _join(here, hub)

    async def _join(here: Place, hub: Place) -> Joined:
        if here.region == hub.region and here.cluster == hub.cluster:
            raise click.ClickException(
                f"{here.label} and {hub.label} are the same cluster: {here.cluster} of region {here.region}."
            )
        uid = await hub_uid(hub.api)
        joined = Joined(here, hub, uid)
        await joined.plan_regions(mirrored=not no_hub)
        if not no_hub:
            await joined.check_pin(replace_hub)
            joined.plan_account()
        if not only_print:
            await joined.apply()
            if not no_hub:
                await joined.give_token(token_for, hub_server)
        return joined

    joined = run(work, target, other)
    if only_print:
        click.echo(joined.printed(no_hub=no_hub), nl=False)
    elif output == "json":
        click.echo(json.dumps(joined.summary(), indent=2))
    else:
        for line in joined.told(no_hub=no_hub):
            click.echo(line)


class Joined:
    """What joining does to both clusters, planned and then applied."""

    def __init__(self, here: Place, hub: Place, uid: str) -> None:
        self._here, self._hub, self._uid = here, hub, uid
        self._in_hub: list[tuple[Any, Object, str]] = []
        self._in_here: list[tuple[Any, Object, str]] = []
        self._clusters: list[str] = []
        self._token_ends_at: str | None = None

    async def plan_regions(self, *, mirrored: bool) -> None:
        """Each cluster's own Region into the other."""
        ours, theirs = await self._own(self._here), await self._own(self._hub)
        same_region = self._here.region == self._hub.region
        self._clusters = list(ours["spec"].get("clusters") or [self._here.region])
        if self._here.cluster not in self._clusters:
            raise click.ClickException(
                f"Region {self._here.region} in {self._here.label} does not list cluster "
                f"{self._here.cluster}: run prfaas federation init there again."
            )
        if same_region:
            spec = ours["spec"] | {"clusters": sorted({*self._clusters, *_clusters(theirs)})}
            self._in_hub.append((REGIONS, manifests.region_object(self._here.region, spec), MANAGER_CLI))
            return
        self._in_hub.append((REGIONS, manifests.region_object(self._here.region, ours["spec"]), MANAGER_CLI))
        origin = f"{self._uid}//{self._hub.region}/{theirs['metadata'].get('generation', 0)}"
        there = await region_of(self._here.api, self._hub.region)
        # One that Git or an earlier exchange brought is not the mirror's.
        as_mirror = mirrored and (there is None or LABEL_MIRRORED in _labels(there))
        body = manifests.region_object(
            self._hub.region, theirs["spec"], mirrored_from=origin if as_mirror else None
        )
        self._in_here.append((REGIONS, body, MANAGER_MIRROR if as_mirror else MANAGER_CLI))

    async def _own(self, at: Place) -> Object:
        """A cluster's own Region, with the authority that it has today."""
        stored = await region_of(at.api, at.region)
        if stored is None:
            raise click.ClickException(
                f"{at.label} has no Region {at.region} of its own yet: run prfaas federation init there "
                f"first (--context {at.label.removeprefix('context ')})."
            )
        spec = merged(
            stored.get("spec") or {},
            cluster=None,
            peer=None,
            jurisdiction=None,
            labels={},
            trust_bundle=await authorities(at),
        )
        return {**stored, "spec": spec}

    async def check_pin(self, replace_hub: bool) -> None:
        """Refuse another hub than the known one, which the mirror would freeze at anyway."""
        try:
            body = await self._here.api.get(CONFIG_MAPS, self._here.namespace, HUB_CONFIG_MAP)
        except errors.NotFound:
            pinned = ""
        else:
            pinned = str((body.get("data") or {}).get(manifests.UID_KEY) or "")
        if pinned and pinned != self._uid and not replace_hub:
            raise click.ClickException(
                f"{self._here.label} has another hub: its kube-system has UID {pinned}, that of "
                f"{self._hub.label} has {self._uid}. To leave that one: --replace-hub; what came from it and "
                "is not in the new one is then kept until prfaas federation accept-deletes."
            )
        if not pinned:
            self._in_here.append(
                (CONFIG_MAPS, manifests.pin(self._here.namespace, self._uid), MANAGER_MIRROR)
            )

    def plan_account(self) -> None:
        """The account and its rights in the hub."""
        for resource, body in manifests.hub_objects(self._here.region, self._clusters, self._hub.namespace):
            self._in_hub.append((resource, body, MANAGER_CLI))
        for cluster in self._clusters:
            self._in_hub.append((LEASES, manifests.lease_object(cluster, self._hub.namespace), MANAGER_CLI))

    async def apply(self) -> None:
        """First the hub: a member that comes up finds all that it needs."""
        for at, objects in ((self._hub, self._in_hub), (self._here, self._in_here)):
            for resource, body, manager in objects:
                await _told_where(at, at.api.apply(resource, body, field_manager=manager, force=True))

    async def give_token(self, length: timedelta, server: str | None) -> None:
        """A token of the account, into the joining cluster."""
        name = manifests.account_name(self._here.region)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"namespace": self._hub.namespace},
            "spec": {"expirationSeconds": int(length.total_seconds())},
        }
        answer = await _told_where(
            self._hub,
            self._hub.api.create(
                manifests.SERVICE_ACCOUNTS, request, subresource_of=name, subresource="token"
            ),
        )
        found = await self._hub.api.credentials()
        ca = await asyncio.to_thread(Path(found.ca_file).read_bytes) if found.ca_file else None
        config = manifests.kubeconfig(
            server=server or found.server,
            ca=ca,
            token=str(answer["status"]["token"]),
            namespace=self._hub.namespace,
            verify=found.verify,
        )
        self._token_ends_at = str(answer["status"].get("expirationTimestamp") or "") or None
        secret = manifests.hub_secret(self._here.namespace, config)
        await _told_where(
            self._here, self._here.api.apply(SECRETS, secret, field_manager=MANAGER_CLI, force=True)
        )

    def summary(self) -> dict[str, Any]:
        """For programs."""
        return {
            "region": self._here.region,
            "cluster": self._here.cluster,
            "with": {"region": self._hub.region, "cluster": self._hub.cluster, "uid": self._uid},
            "tokenEndsAt": self._token_ends_at,
            "applied": [
                {"cluster": at.cluster, "kind": body["kind"], "name": body["metadata"]["name"]}
                for at, objects in ((self._hub, self._in_hub), (self._here, self._in_here))
                for _, body, _ in objects
            ],
        }

    def told(self, *, no_hub: bool) -> list[str]:
        """For people."""
        first = f"Regions {self._here.region} and {self._hub.region} know each other."
        if no_hub:
            return [first, f"See whether they reach each other: prfaas federation check {self._hub.region}"]
        return [
            first,
            f"Cluster {self._here.cluster} may read what is wanted in {self._hub.cluster}, and report there; "
            f"its token ends at {self._token_ends_at or 'no time'}.",
            "Its operator has to know: helm upgrade … --set federation.source=Hub --set "
            "'federation.allowedNamespaces={…}' (once). Then: prfaas federation check",
        ]

    def printed(self, *, no_hub: bool) -> str:
        """Manifests for Git; a token is never among them."""
        parts = []
        for at, objects in ((self._hub, self._in_hub), (self._here, self._in_here)):
            parts += [f"# In cluster {at.cluster}:\n"]
            parts += [yaml.safe_dump(body, sort_keys=False) for _, body, _ in objects]
        if not no_hub:
            parts.append(
                f"# Secret {self._here.namespace}/{HUB_KUBECONFIG_SECRET} with the token (key: kubeconfig)\n"
                "# is left out: it belongs into no Git. prfaas federation join makes it.\n"
            )
        return "---\n".join(parts)


async def _told_where(at: Place, call: Awaitable[Object]) -> Object:
    """An error with the cluster that it comes from: there are two."""
    try:
        return await call
    except errors.Forbidden as error:
        raise click.ClickException(
            f"{at.label}: not allowed: {error.message}. Joining needs the rights of an administrator there; "
            "with --print an administrator can apply it."
        ) from error
    except errors.KubeError as error:
        raise click.ClickException(f"{at.label}: {error.message}") from error


def _clusters(body: Object) -> list[str]:
    return list((body.get("spec") or {}).get("clusters") or [body["metadata"]["name"]])


def _labels(body: Object) -> dict[str, str]:
    return body["metadata"].get("labels") or {}
