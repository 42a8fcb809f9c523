"""`prfaas render`: what a pool's pods would be, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any

import click
import yaml

from prfaas.api.v1alpha1 import ChargedTo, Pool
from prfaas_operator.commands.documents import Document, is_pool, pool_of, read_documents, read_settings
from prfaas_operator.injection import Injected, Refusal, Refusals, Settings, inject, revision_hash
from prfaas_operator.injection.quantities import text_of_bytes
from prfaas_operator.planning import children
from prfaas_operator.planning.peers import peers_text
from prfaas_operator.planning.values import ObservedPool, PoolKey


@click.command(
    epilog="""\b
Examples:
  prfaas render -f pool.yaml
  kubectl get ppool long -o yaml | prfaas render -f - -o json
  prfaas render -f pools.yaml --revision
  prfaas render -f pool.yaml --settings operator.yaml | kubectl diff -f -"""
)
@click.option(
    "-f",
    "--filename",
    "files",
    type=click.File("r"),
    multiple=True,
    required=True,
    help="Manifests; - is stdin.",
)
@click.option(
    "--settings",
    "settings_file",
    type=click.File("r"),
    help="The operator's configuration (operator.yaml), for its images. Without it names stand in for them.",
)
@click.option(
    "--revision", "only_revision", is_flag=True, help="Print only the hash of each pool's revision."
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def render(
    files: tuple[IO[str], ...], settings_file: IO[str] | None, only_revision: bool, output: str
) -> None:
    """Print the objects that the operator would make of pools, or why it would refuse them."""
    settings = read_settings(settings_file)
    rendered: list[tuple[str, list[dict[str, Any]]]] = []
    refused = pools = 0
    for document in read_documents(files):
        if not is_pool(document):
            click.echo(f"{document}: has no pods, left out", err=True)
            continue
        pools += 1
        pool = pool_of(document)
        if isinstance(pool, list):
            refused += _complain(document, pool)
            continue
        result = inject(pool, settings)
        if isinstance(result, Refusals):
            refused += _complain(document, result.refusals)
            continue
        revision = revision_hash(pool, settings)
        if only_revision:
            click.echo(f"{pool.kind}/{pool.metadata.name} {revision}")
            continue
        rendered.append((_headline(pool, result, revision), _objects(pool, settings, result, revision)))
    if output == "json" and not only_revision:
        items = [each for _, objects in rendered for each in objects]
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
    else:
        for headline, objects in rendered:
            click.echo(f"# {headline}")
            click.echo(yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True), nl=False)
    if refused or not pools:
        click.echo(f"{refused} refused" if pools else "no PrefillPool or DecodePool was given", err=True)
        raise SystemExit(1)


def _complain(document: Document, problems: Iterable[Refusal | str]) -> int:
    for problem in problems:
        click.echo(f"{document}: {problem}", err=True)
    return 1


def _headline(pool: Pool, injected: Injected, revision: str) -> str:
    info = injected.info
    whose = "the engine's" if info.charged_to == ChargedTo.ENGINE else "the sidecar's"
    return (
        f"{pool.kind} {pool.metadata.name}, revision {revision}: arena {text_of_bytes(info.arena_bytes)} "
        "per pod, "
        f"charged to {whose} memory limit"
    )


def _objects(pool: Pool, settings: Settings, injected: Injected, revision: str) -> list[dict[str, Any]]:
    observed = _observed(pool)
    manifests = [
        children.peers(observed, peers_text(observed, settings)),
        children.deployment(observed, revision, injected, pool.spec.replicas),
    ]
    if children.budget_is_wanted(observed, pool.spec.replicas, injected.template["metadata"]["labels"]):
        manifests.append(children.budget(observed))
    for manifest in manifests:
        # Only the API server knows the owner's uid.
        manifest["metadata"].pop("ownerReferences", None)
        if not manifest["metadata"].get("namespace"):
            manifest["metadata"].pop("namespace", None)
    return manifests


def _observed(pool: Pool) -> ObservedPool:
    """As the operator sees a pool that was just made, without routes."""
    return ObservedPool(
        key=PoolKey(pool.kind, pool.metadata.namespace, pool.metadata.name),
        uid=pool.metadata.uid,
        generation=1,
        resource_version="",
        created_at=datetime.fromtimestamp(0, UTC),
        deleted=False,
        annotations={},
        spec=pool.spec,
        problems=(),
        status=pool.status,
    )
