"""What a cluster says of itself: which region and cluster it is, and where its operator keeps its objects."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from prfaas.api import keys
from prfaas.commands.cluster import REACHED_WITHIN_SECONDS, USER_AGENT, Target, explained
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.client import KubeClient, connect
from prfaas.kube.resources import CONFIG_MAPS, LEASES, NAMESPACES, REGIONS, SECRETS, Object

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster with its operator.

    Attributes:
        namespace: of the operator.
        region, cluster: as the operator is configured.
        label: for messages.
    """

    api: KubeClient
    namespace: str
    region: str
    cluster: str
    label: str


def run(work: Callable[..., Awaitable[T]], *targets: Target) -> T:
    """Connect to each, do the work with the clients, and turn what goes wrong into errors of the command."""

    async def connected() -> T:
        async with AsyncExitStack() as stack:
            clients = []
            for target in targets:
                target.check()
                client = await connect(target.kubeconfig, target.context, user_agent=USER_AGENT)
                clients.append(await stack.enter_async_context(client))
                try:
                    await client.version(deadline_seconds=REACHED_WITHIN_SECONDS)
                except (errors.Forbidden, errors.Unauthorized):
                    # What may not be read here is for the work itself to tell.
                    continue
                except errors.KubeError as error:
                    raise click.ClickException(
                        f"{label_of(target)}: the API server cannot be reached: {error.message}. "
                        "Is it up, and is this the right context?"
                    ) from error
            return await work(*clients)

    with explained():
        return asyncio.run(connected())


def label_of(target: Target) -> str:
    """The cluster as the user named it."""
    return f"context {target.context}" if target.context else (target.kubeconfig or "the current context")


async def place(
    api: KubeClient, target: Target, *, region: str | None = None, cluster: str | None = None
) -> Place:
    """Which cluster this is, by what its operator tells gateways; options stand in where that is missing.

    Raises:
        click.ClickException: it cannot be told, or differs from the options.
    """
    label = label_of(target)
    namespace = target.namespace or await operator_namespace(api, label)
    told = await _snapshot(api, namespace)
    for option, given, known in (
        ("--region", region, told.get("region")),
        ("--cluster", cluster, told.get("cluster")),
    ):
        if given and known and given != known:
            raise click.ClickException(
                f"{label}: {option} is {given}, and the operator there says {known}. Correct the option, or "
                "the chart's value."
            )
    name = told.get("region") or region
    if not name:
        raise click.ClickException(
            f"{label}: no operator in namespace {namespace} has told yet which region this is. Is prfaas "
            "installed there (helm status)? Else give --region and the operator's --namespace."
        )
    return Place(api, namespace, str(name), str(told.get("cluster") or cluster or name), label)


async def operator_namespace(api: KubeApi, label: str) -> str:
    leases = await api.list(LEASES, field_selector=f"metadata.name={keys.OPERATOR_LEASE}")
    places = sorted({each["metadata"]["namespace"] for each in leases})
    if len(places) == 1:
        return str(places[0])
    if not places:
        raise click.ClickException(
            f"{label}: no operator of prfaas is there: install the chart first, or name its --namespace."
        )
    raise click.ClickException(f"{label}: operators are in {', '.join(places)}: choose one by --namespace.")


async def _snapshot(api: KubeApi, namespace: str) -> dict[str, Any]:
    try:
        body = await api.get(CONFIG_MAPS, namespace, keys.GATEWAY_POLICY_CONFIG_MAP)
        found = json.loads((body.get("data") or {}).get(keys.GATEWAY_POLICY_KEY) or "{}")
    except (errors.NotFound, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def region_of(api: KubeApi, name: str) -> Object | None:
    """A Region, None when there is none."""
    try:
        return await api.get(REGIONS, None, name)
    except errors.NotFound as error:
        if not error.kind_is_served:
            raise
        return None


async def hub_uid(api: KubeApi) -> str:
    """What a hub is known by."""
    body = await api.get(NAMESPACES, None, "kube-system", metadata_only=True)
    return str(body["metadata"]["uid"])


async def authorities(at: Place) -> str:
    """The public part of the region's authority, PEM: the operator's own, or that of cert-manager's issuer.

    Raises:
        click.ClickException: there is none yet.
    """
    body, name = await _authority_secret(at)
    where = f"Secret {at.namespace}/{name}"
    data = body.get("data") or {}
    try:
        own = data["ca.crt"] if name != keys.CA_SECRET else data.get("ca.crt") or data["tls.crt"]
        text = base64.b64decode(own, validate=True).decode()
    except (KeyError, ValueError, binascii.Error) as error:
        raise click.ClickException(f"{at.label}: {where} holds no ca.crt in PEM.") from error
    if "PRIVATE KEY" in text:
        raise click.ClickException(f"{at.label}: ca.crt of {where} holds a private key: take it out first.")
    return text


async def _authority_secret(at: Place) -> tuple[Object, str]:
    """The Secret that tells the authority, and its name.

    Raises:
        click.ClickException: there is none yet.
    """
    # One that is left over from before there was an issuer signs nothing any more.
    for name in (keys.GATEWAY_TLS_SECRET, keys.CA_SECRET):
        try:
            body = await at.api.get(SECRETS, at.namespace, name)
        except errors.NotFound:
            continue
        issued = (body["metadata"].get("annotations") or {}).get("cert-manager.io/certificate-name")
        if name == keys.CA_SECRET or issued:
            return body, name
    raise click.ClickException(
        f"{at.label}: Secret {at.namespace}/{keys.CA_SECRET} is not there: the operator makes it when it "
        f"leads for the first time, or cert-manager issues {keys.GATEWAY_TLS_SECRET} where "
        "certificates.issuerRef is set. Look at the operator's logs."
    )
