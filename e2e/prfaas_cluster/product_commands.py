"""`prfaas cluster load-product` and `prfaas cluster example`: what a cluster needs to try prfaas in it."""

from __future__ import annotations

import click
import yaml

from prfaas_cluster import kv_proxy, product
from prfaas_cluster.options import cluster_name, reported_errors


@click.command("load-product")
@cluster_name
@click.option(
    "--for-hub",
    metavar="NAMESPACE",
    help="Also the values with which a hub may place the example's pods in this cluster and namespace.",
)
@click.option(
    "--kv-proxy",
    "with_kv_proxy",
    is_flag=True,
    help="Also this machine's HAProxy as the region's proxy for KV, for pools with reach Passthrough.",
)
def load_product(name: str, for_hub: str | None, with_kv_proxy: bool) -> None:
    """Build this checkout's images, load them, and print the chart's values for them.

    \b
    Example:
      prfaas cluster load-product > values.yaml
      helm install prfaas charts/prfaas --namespace prfaas --create-namespace --values values.yaml
    """
    with reported_errors():
        values = product.load_product(name)
        if for_hub is not None:
            values |= product.federation_values(name, for_hub)
        if with_kv_proxy:
            values |= kv_proxy.kv_proxy_values(name)
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


@click.command()
@cluster_name
@click.option("--namespace", "-n", default="serving", show_default=True)
@click.option("--prefill-in", metavar="CLUSTER", help="Place the prefill pool in this cluster.")
@click.option("--decode-in", metavar="CLUSTER", help="Place the decode pool in this cluster.")
def example(name: str, namespace: str, prefill_in: str | None, decode_in: str | None) -> None:
    """Print pools and a route whose pods run this machine's CPU build of vLLM with a small model.

    Stands in for your own pools where there is no GPU and no engine image. Builds the engine first where
    it is missing.

    \b
    Example:
      prfaas cluster example | kubectl apply -f -
      prfaas cluster example --prefill-in us --decode-in eu | kubectl apply -f -
    """
    with reported_errors():
        documents = product.example_fleet(name, namespace, prefill_in=prefill_in, decode_in=decode_in)
    click.echo(yaml.safe_dump_all(documents, sort_keys=False), nl=False)
