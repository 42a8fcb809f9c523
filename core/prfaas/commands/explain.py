"""`prfaas explain`: why a pool has its size, and what would change it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from prfaas.api.conditions import ConditionType, find
from prfaas.api.v1alpha1 import POOL_CLASSES, Pool, ScalingDecision, ScalingInput, ScalingMode
from prfaas.commands.cluster import Target, cluster_options, run
from prfaas.commands.durations import short_duration
from prfaas.commands.overrides import named_pool, only_one
from prfaas.commands.plain import plain
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import Object

LABEL_WIDTH = 10
HISTORY_SHOWN = 5
_SHORT = {"PrefillPool": "ppool", "DecodePool": "dpool"}


@click.command(
    epilog="\b\nExamples:\n  prfaas explain ppool/long\n  prfaas explain pool/chat -n serving -o json"
)
@click.argument("pool", metavar="POOL")
@cluster_options
@click.option(
    "-o", "output", type=click.Choice(["text", "json"]), default="text", help="For people or for programs."
)
def explain(
    pool: str, namespace: str | None, context: str | None, kubeconfig: str | None, output: str
) -> None:
    """Why a pool has its number of engine instances, and what would change it.

    POOL is ppool/NAME, dpool/NAME, or pool/NAME when only one of the kinds has that name.
    """
    resources, name = named_pool(pool)
    target = Target(kubeconfig, context, namespace)
    place = target.namespace_or_default()

    async def work(api: KubeApi) -> tuple[Object, datetime]:
        resource = await only_one(api, resources, place, name)
        return await api.get(resource, place, name), api.server_now()

    body, now = run(work, target)
    if output == "json":
        click.echo(json.dumps(document(body), indent=2))
        return
    for line in lines(body, now):
        click.echo(plain(line))


def document(body: Object) -> dict[str, Any]:
    """What is known of the pool's size, as JSON."""
    spec, status = body["spec"], body.get("status") or {}
    wanted = ("ScalingActive", "ScalingLimited", "ProfileFits")
    return {
        "kind": body["kind"],
        "namespace": body["metadata"]["namespace"],
        "name": body["metadata"]["name"],
        "mode": (spec.get("scaling") or {}).get("mode", str(ScalingMode.STATIC)),
        "replicas": spec.get("replicas"),
        "readyReplicas": status.get("readyReplicas", 0),
        "scaling": status.get("scaling"),
        "hold": status.get("hold"),
        "conditions": [each for each in status.get("conditions") or () if each.get("type") in wanted],
    }


def lines(body: Object, now: datetime) -> Iterator[str]:
    """The same for people."""
    pool: Pool = POOL_CLASSES[body["kind"]].model_validate(body)
    status, scaling = pool.status, pool.spec.scaling
    bounds = ""
    if scaling.mode is ScalingMode.MANAGED:
        least = 1 if scaling.min_replicas is None else scaling.min_replicas
        bounds = f", {least} to {scaling.max_replicas}"
    yield (
        f"{_SHORT[pool.kind]}/{pool.metadata.name} in {pool.metadata.namespace}: {pool.spec.replicas} wanted,"
        f" {status.ready_replicas} ready (mode {scaling.mode}{bounds})"
    )
    active = find(status.conditions, ConditionType.SCALING_ACTIVE)
    told = status.scaling.explanation if status.scaling is not None else None
    if status.hold is not None or told is None:
        why = f"{active.reason}: {active.message}" if active is not None else "nothing is said of it yet"
        yield _row("Why", why)
    else:
        yield _row("Why", f"{told.reason}: {told.message or ''}")
        yield _row("Needs", f"{told.needed} for its load")
        if told.limited_by is not None:
            yield _row("Kept by", f"{told.limited_by}: {told.limit_message or ''}")
        yield _row("From", _inputs(told.inputs or ()))
        for label, texts in (
            ("Changes", told.would_change),
            ("Offers", told.offers),
            ("Note", told.notes),
        ):
            for text in texts or ():
                yield _row(label, text)
        yield _row("As of", f"{told.time:%Y-%m-%d %H:%M:%S}Z ({short_duration(now - told.time)} ago)")
    limited = find(status.conditions, ConditionType.SCALING_LIMITED)
    if limited is not None and str(limited.status) == "True":
        yield _row("Limited", f"{limited.reason}: {limited.message}")
    fits = find(status.conditions, ConditionType.PROFILE_FITS)
    if fits is not None and str(fits.status) == "False":
        yield _row("Profile", fits.message)
    yield from _history(status.scaling.history or () if status.scaling is not None else (), now)


def _history(history: tuple[ScalingDecision, ...], now: datetime) -> Iterator[str]:
    for index, each in enumerate(history[:HISTORY_SHOWN]):
        ago = short_duration(now - each.time)
        text = f"{each.from_replicas} to {each.to_replicas}, {ago} ago: {each.message or each.reason}"
        yield _row("Before" if index else "Last", text)


def _inputs(inputs: tuple[ScalingInput, ...]) -> str:
    return ", ".join(f"{each.name} {each.value:g}{' ' + each.unit if each.unit else ''}" for each in inputs)


def _row(label: str, text: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{text}"
