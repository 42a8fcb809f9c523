"""`prfaas cluster load-product` and `prfaas cluster example`: what a cluster needs to try prfaas in it."""

from __future__ import annotations

import click
import yaml

from prfaas_cluster import product
from prfaas_cluster.options import cluster_name, reported_errors


@click.command("load-product")
@cluster_name
def load_product(name: str) -> None:
    """Build this checkout's images, load them, and print the chart's values for them.

    \b
    Example:
      prfaas cluster load-product > values.yaml
      helm install prfaas charts/prfaas --namespace prfaas --create-namespace --values values.yaml
    """
    with reported_errors():
        values = product.load_product(name)
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


@click.command()
@cluster_name
@click.option("--namespace", "-n", default="serving", show_default=True)
def example(name: str, namespace: str) -> None:
    """Print pools and a route whose pods run this machine's CPU build of vLLM with a small model.

    Stands in for your own pools where there is no GPU and no engine image. Builds the engine first where
    it is missing.

    \b
    Example:
      prfaas cluster example | kubectl apply -f -
    """
    with reported_errors():
        documents = product.example_fleet(name, namespace)
    click.echo(yaml.safe_dump_all(documents, sort_keys=False), nl=False)
