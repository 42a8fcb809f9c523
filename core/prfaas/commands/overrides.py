"""`prfaas hold` and `prfaas route`: overrides that end by themselves, as annotations by the user."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import click

from prfaas.api.keys import ANNOTATION_HOLD, ANNOTATION_LOCAL_ONLY, MANAGER_CLI
from prfaas.api.v1alpha1.placement import REPLICAS_MAX
from prfaas.commands.cluster import Target, cluster_options, run
from prfaas.commands.durations import parse_duration, short_duration
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import DECODE_POOLS, PREFILL_POOLS, PREFILL_ROUTES, Resource

SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=30)
REASON_MAX_CHARACTERS = 200
_POOL_KINDS: dict[str, tuple[Resource, ...]] = {
    "pool": (PREFILL_POOLS, DECODE_POOLS),
    **dict.fromkeys(("ppool", "prefillpool", "prefillpools"), (PREFILL_POOLS,)),
    **dict.fromkeys(("dpool", "decodepool", "decodepools"), (DECODE_POOLS,)),
}
_SHORT = {PREFILL_POOLS.kind: "ppool", DECODE_POOLS.kind: "dpool", PREFILL_ROUTES.kind: "proute"}


def _length(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    """The value of --for, within what an override may last."""
    if value is None:
        return None
    try:
        length = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from error
    if not SHORTEST <= length <= LONGEST:
        raise click.BadParameter(
            f"{value} is not between {short_duration(SHORTEST)} and {LONGEST.days}d.", ctx, param
        )
    return length


_for = click.option(
    "--for", "length", callback=_length, metavar="DURATION", help="How long: 2h, 90m, 1h30m. Then it ends."
)
_reason = click.option("--reason", default="", help="Why, for whoever looks at the status.")


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas hold ppool/long --replicas 8 --for 2h --reason 'launch'\n"
    "  prfaas hold pool/chat --replicas 0 --for 30m\n"
    "  prfaas hold ppool/long --release"
)
@click.argument("pool", metavar="POOL")
@cluster_options
@click.option(
    "--replicas", type=click.IntRange(0, REPLICAS_MAX), help="Engine instances to hold the pool at."
)
@_for
@_reason
@click.option("--release", is_flag=True, help="End the hold now.")
def hold(
    pool: str,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    replicas: int | None,
    length: timedelta | None,
    reason: str,
    release: bool,
) -> None:
    """Hold a pool at a number of engine instances for a while, whoever else decides on it.

    POOL is ppool/NAME, dpool/NAME, or pool/NAME when only one of the kinds has that name. The manifest is not
    touched, so GitOps does not undo it; it ends by itself.
    """
    if release and (replicas is not None or length is not None):
        raise click.UsageError("--release ends a hold: leave out --replicas and --for")
    if not release and (replicas is None or length is None):
        raise click.UsageError("give --replicas and --for, or --release")
    resources, name = named_pool(pool)
    target = Target(kubeconfig, context, namespace)
    place = target.namespace_or_default()
    _check_reason(reason)

    async def work(api: KubeApi) -> tuple[Resource, datetime | None]:
        resource = await only_one(api, resources, place, name)
        until = _until(length, api)
        value = None if until is None else _override(until, reason, replicas=replicas)
        await _annotate(api, resource, place, name, ANNOTATION_HOLD, value)
        return resource, until

    resource, until = run(work, target)
    found = f"{_SHORT[resource.kind]}/{name}"
    if until is None or length is None:
        click.echo(f"{found} in {place} is held no longer.")
        return
    click.echo(f"{found} in {place} is held at {replicas} until {_when(until, length)}.")
    click.echo(f"To end it now: prfaas hold {found} -n {place} --release")


@click.command(
    epilog="\b\nExamples:\n"
    "  prfaas route chat --local-only --for 1h --reason 'link maintenance'\n"
    "  prfaas route chat --normal"
)
@click.argument("route", metavar="ROUTE")
@cluster_options
@click.option("--local-only", is_flag=True, help="Prefill everything locally for a while.")
@_for
@_reason
@click.option("--normal", is_flag=True, help="Back to what the manifest says.")
def route(
    route: str,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    local_only: bool,
    length: timedelta | None,
    reason: str,
    normal: bool,
) -> None:
    """Switch a route to local prefill for a while, or back.

    Running transfers go on. The manifest is not touched, so GitOps does not undo it; it ends by itself.
    """
    if local_only == normal:
        raise click.UsageError("give --local-only with --for, or --normal")
    if local_only != (length is not None):
        raise click.UsageError("--for belongs to --local-only, which needs it")
    name = route.removeprefix("proute/").removeprefix("route/")
    target = Target(kubeconfig, context, namespace)
    place = target.namespace_or_default()
    _check_reason(reason)

    async def work(api: KubeApi) -> datetime | None:
        await only_one(api, (PREFILL_ROUTES,), place, name)
        until = _until(length, api)
        value = None if until is None else _override(until, reason)
        await _annotate(api, PREFILL_ROUTES, place, name, ANNOTATION_LOCAL_ONLY, value)
        return until

    until = run(work, target)
    if until is None or length is None:
        click.echo(f"proute/{name} in {place} is as its manifest says.")
        return
    click.echo(f"proute/{name} in {place} prefills locally until {_when(until, length)}.")
    click.echo(f"To end it now: prfaas route {name} -n {place} --normal")


def named_pool(text: str) -> tuple[tuple[Resource, ...], str]:
    """Kinds and name that `ppool/long` or `pool/long` may mean."""
    kind, slash, name = text.partition("/")
    resources = _POOL_KINDS.get(kind.lower().removesuffix(".prfaas.io"))
    if not slash or not name or resources is None:
        raise click.UsageError(f"{text!r} names no pool: write ppool/NAME, dpool/NAME or pool/NAME")
    return resources, name


def _until(length: timedelta | None, api: KubeApi) -> datetime | None:
    """By the cluster's clock, after at least one answer: it is there that the override ends."""
    return None if length is None else (api.server_now() + length).replace(microsecond=0)


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_MAX_CHARACTERS:
        raise click.UsageError(f"--reason has more than {REASON_MAX_CHARACTERS} characters")


def _when(until: datetime, length: timedelta) -> str:
    return f"{until:%Y-%m-%d %H:%M:%S}Z ({short_duration(length)})"


def _override(until: datetime, reason: str, **values: int | None) -> str:
    document: dict[str, object] = {**values, "until": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
    return json.dumps(document | ({"reason": reason} if reason else {}))


async def only_one(api: KubeApi, resources: tuple[Resource, ...], namespace: str, name: str) -> Resource:
    """The one kind that has an object of that name."""
    found = []
    for resource in resources:
        try:
            await api.get(resource, namespace, name, metadata_only=True)
        except errors.NotFound as error:
            if not error.kind_is_served:
                raise
        else:
            found.append(resource)
    if not found:
        kinds = " or ".join(resource.kind for resource in resources)
        raise click.ClickException(
            f"There is no {kinds} {name} in namespace {namespace}: look with `prfaas status -A`"
        )
    if len(found) > 1:
        raise click.ClickException(
            f"{namespace} has a prefill and a decode pool {name}: say ppool/ or dpool/"
        )
    return found[0]


async def _annotate(
    api: KubeApi, resource: Resource, namespace: str, name: str, annotation: str, value: str | None
) -> None:
    body = {"metadata": {"annotations": {annotation: value}}}
    await api.patch(resource, namespace, name, body, field_manager=MANAGER_CLI)
