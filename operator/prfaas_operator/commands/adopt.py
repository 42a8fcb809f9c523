"""`prfaas adopt`: the pool that yields the pods of a Deployment, plus what prfaas adds."""

from __future__ import annotations

import asyncio
import json
import os
from typing import IO, Any

import click
import yaml

from prfaas.api.keys import DECODE_POOL, PREFILL_POOL, PoolKind
from prfaas_operator.commands.documents import EXAMPLE_SETTINGS, Document, pool_of, read_documents
from prfaas_operator.injection import Refusals, inject
from prfaas_operator.injection.adoption import AdoptionError
from prfaas_operator.injection.adoption import adopt as adopted


@click.command(
    epilog="""\b
Examples:
  prfaas adopt deployment/chat -n serving > pool.yaml
  prfaas adopt deployment/chat -f manifests.yaml --kind PrefillPool
  kubectl get deployment chat -o yaml | prfaas adopt -f -"""
)
@click.argument("name", required=False, metavar="[deployment/NAME]")
@click.option("-f", "--filename", type=click.File("r"), help="A manifest instead of the cluster; - is stdin.")
@click.option("-n", "--namespace", help="Namespace in the cluster; else that of the kubeconfig's context.")
@click.option("--kubeconfig", type=click.Path(), help="Kubeconfig; else KUBECONFIG or ~/.kube/config.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--kind", type=click.Choice([PREFILL_POOL, DECODE_POOL]), help="What the engines are to be.")
@click.option("--container", help="Name of the engine's container, where it is not plain.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def adopt(
    name: str | None,
    filename: IO[str] | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    kind: PoolKind | None,
    container: str | None,
    output: str,
) -> None:
    """Print the pool that yields the pods of a Deployment, plus what prfaas adds. Nothing is changed.

    What to look at before applying it goes to standard error, and so do the reasons why the pool would be
    refused as it stands; the exit code is then 1.
    """
    wanted = _deployment_name(name)
    if filename is not None:
        deployment = _in_file(filename, wanted)
    elif wanted is not None:
        deployment = asyncio.run(_in_cluster(wanted, namespace, kubeconfig, context))
    else:
        raise click.UsageError("name a Deployment (deployment/NAME), or a file with -f")
    try:
        adoption = adopted(deployment, kind=kind, container=container)
    except AdoptionError as error:
        raise click.ClickException(str(error)) from error
    if output == "json":
        click.echo(json.dumps(adoption.pool, indent=2))
    else:
        click.echo(yaml.safe_dump(adoption.pool, sort_keys=False), nl=False)
    for note in adoption.notes:
        click.echo(f"note: {note}", err=True)
    problems = _problems(adoption.pool)
    for problem in problems:
        click.echo(f"would be refused: {problem}", err=True)
    if problems:
        raise SystemExit(1)


def _deployment_name(name: str | None) -> str | None:
    if name is None:
        return None
    kind, slash, rest = name.partition("/")
    if not slash:
        return kind
    if kind not in ("deployment", "deployments", "deploy", "deployment.apps", "deployments.apps") or not rest:
        raise click.UsageError(f"{name}: only Deployments can be adopted: deployment/NAME")
    return rest


def _in_file(file: IO[str], name: str | None) -> dict[str, Any]:
    found = [
        document.content
        for document in read_documents((file,))
        if document.kind == "Deployment"
        and (name is None or (document.content.get("metadata") or {}).get("name") == name)
    ]
    if len(found) != 1:
        what = f"Deployment {name}" if name is not None else "Deployment"
        raise click.ClickException(
            f"{file.name}: {len(found)} objects are a {what}; exactly one is needed (deployment/NAME chooses)"
        )
    return found[0]


async def _in_cluster(
    name: str, namespace: str | None, kubeconfig: str | None, context: str | None
) -> dict[str, Any]:
    # Imported here: reading a file needs no client.
    from kubernetes.aio.config.config_exception import ConfigException
    from kubernetes.aio.config.kube_config import list_kube_config_contexts

    from prfaas.kube import resources
    from prfaas.kube.client import connect
    from prfaas.kube.connect import NoCluster, own_namespace
    from prfaas.kube.errors import KubeError

    def of_context() -> str:
        try:
            listing: Any = list_kube_config_contexts
            contexts, current = listing(kubeconfig or os.environ.get("KUBECONFIG"))
        except (ConfigException, OSError):
            return own_namespace() or "default"
        chosen = next((each for each in contexts if each["name"] == context), current)
        return str(chosen["context"].get("namespace") or "default")

    try:
        where = namespace or await asyncio.to_thread(of_context)
        async with await connect(kubeconfig, context) as client:
            deployment: dict[str, Any] = await client.get(resources.DEPLOYMENTS, where, name)
            return deployment
    except (KubeError, NoCluster) as error:
        raise click.ClickException(str(error)) from error


def _problems(pool: dict[str, Any]) -> list[str]:
    read = pool_of(Document("", pool))
    if isinstance(read, list):
        return read
    result = inject(read, EXAMPLE_SETTINGS)
    return list(map(str, result.refusals)) if isinstance(result, Refusals) else []
