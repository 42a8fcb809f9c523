"""`prfaas federation rotate-ca`: replace the authority of a region while everything goes on."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import click

from prfaas.api import keys
from prfaas.commands.cluster import Target, cluster_options, run
from prfaas.commands.federation.places import operator_namespace
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import SECRETS

ASKED = """\
The authority is being replaced. The operator trusts a new one beside it, signs with that when everybody had
time, and then forgets the old one.
What is left to do: put what --bundle shows into the own Region's trustBundle, wherever that is kept; twice:
now, and when the old one is gone.
How far it is: --status, and condition TrustBundleValid of the own Region."""


@click.command(
    name="rotate-ca",
    epilog="\b\nExamples:\n"
    "  prfaas federation rotate-ca --context us\n"
    "  prfaas federation rotate-ca --context us --bundle\n"
    "  prfaas federation rotate-ca --context us --status",
)
@cluster_options
@click.option(
    "--bundle", "what", flag_value="bundle", help="Show what belongs into the Region's trustBundle."
)
@click.option("--status", "what", flag_value="status", help="Show how far a rotation is.")
@click.option("--abandon", "what", flag_value="abandon", help="Call it off, as long as the old one signs.")
def rotate_ca(namespace: str | None, context: str | None, kubeconfig: str | None, what: str | None) -> None:
    """Replace the authority of a region; nothing that runs is interrupted.

    The namespace is the operator's; it is found. The key is made there by the operator and never leaves it.
    """
    target = Target(kubeconfig, context, namespace)
    works = {"bundle": _bundle, "status": _status, "abandon": _abandon}
    work = works.get(what or "", _begin)

    async def done(api: KubeApi) -> str:
        return await work(api, namespace or await operator_namespace(api, context or "this cluster"))

    click.echo(run(done, target))


async def _begin(api: KubeApi, namespace: str) -> str:
    body = await _secret(api, namespace)
    if _asked(body) is not None:
        return _progress(body)
    now = api.server_now()
    await _annotate(api, namespace, body, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return ASKED


async def _bundle(api: KubeApi, namespace: str) -> str:
    data = (await _secret(api, namespace)).get("data") or {}
    return base64.b64decode(data.get("ca.crt") or data["tls.crt"]).decode().rstrip()


async def _status(api: KubeApi, namespace: str) -> str:
    return _progress(await _secret(api, namespace))


async def _abandon(api: KubeApi, namespace: str) -> str:
    body = await _secret(api, namespace)
    if _asked(body) is None:
        return "No rotation is under way."
    data = body.get("data") or {}
    if "previous.crt" in data:
        raise click.ClickException(
            "The new authority signs already: let it finish, and rotate once more if you do not want it."
        )
    patch: dict[str, Any] = {
        "metadata": {
            "resourceVersion": body["metadata"]["resourceVersion"],
            "annotations": {keys.ANNOTATION_ROTATE_CA: None},
        },
        "data": {"next.crt": None, "next.key": None, "ca.crt": data["tls.crt"]},
    }
    await api.patch(SECRETS, namespace, keys.CA_SECRET, patch, field_manager=keys.MANAGER_CLI)
    return "Called off. Take the new authority out of the Region's trustBundle again."


async def _secret(api: KubeApi, namespace: str) -> dict[str, Any]:
    try:
        return await api.get(SECRETS, namespace, keys.CA_SECRET)
    except errors.NotFound as error:
        raise click.ClickException(
            f"Namespace {namespace} has no Secret {keys.CA_SECRET}: name the operator's namespace with -n. "
            "Where cert-manager issues (certificates.issuerRef), its issuer's authority is replaced there "
            '(docs/federation.md, "An issuer of cert-manager\'s").'
        ) from error


async def _annotate(api: KubeApi, namespace: str, body: dict[str, Any], value: str) -> None:
    patch = {
        "metadata": {
            "resourceVersion": body["metadata"]["resourceVersion"],
            "annotations": {keys.ANNOTATION_ROTATE_CA: value},
        }
    }
    await api.patch(SECRETS, namespace, keys.CA_SECRET, patch, field_manager=keys.MANAGER_CLI)


def _asked(body: dict[str, Any]) -> str | None:
    value: str | None = (body["metadata"].get("annotations") or {}).get(keys.ANNOTATION_ROTATE_CA)
    return value


def _progress(body: dict[str, Any]) -> str:
    asked, data = _asked(body), body.get("data") or {}
    if asked is None:
        return "No rotation is under way."
    since = _said(asked)
    if "previous.crt" in data:
        return f"Step 2 of 2, since {since}: the new authority signs, the old one is still trusted."
    if "next.crt" in data:
        return (
            f"Step 1 of 2, since {since}: both authorities are trusted. The new one signs when the own "
            "Region's trustBundle has it (--bundle) and everybody had time."
        )
    return f"Asked for at {since}; the operator has not begun yet. Does it run?"


def _said(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return "an unknown time"
