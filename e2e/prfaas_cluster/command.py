"""`prfaas cluster`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from prfaas_cluster import assets, providers
from prfaas_cluster.bare import cluster as bare
from prfaas_cluster.bare import wan as cluster_wan
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.options import NAME_VARIABLE, cluster_name, reported_errors
from prfaas_cluster.product_commands import example, load_product
from prfaas_cluster.record import Record
from prfaas_setup.progress import say
from prfaas_wan import WanConfig, quantities

_EXAMPLES = """\b
Examples:
  prfaas cluster up                             # a whole Kubernetes on this machine, without Docker
  eval "$(prfaas cluster env)"                  # kubectl and helm for it
  prfaas cluster up --nodes 2 --kwok-nodes 100
  prfaas cluster load-image image.tar
  prfaas cluster load-product > values.yaml     # this checkout's images, and the chart's values for them
  prfaas cluster example | kubectl apply -f -   # pools on this machine's own engine
  prfaas cluster join eu us --rate 1Gbit --rtt 80ms   # a WAN between two
  prfaas cluster down --all
"""


@click.group(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def cluster() -> None:
    """Kubernetes clusters for trying prfaas out and for its tests."""


cluster.add_command(load_product)
cluster.add_command(example)


@cluster.command()
@cluster_name
@click.option(
    "--provider",
    type=click.Choice(list(providers.PROVIDERS)),
    default="bare",
    show_default=True,
    help="bare: processes of this machine, needs root. kind: Docker and kind. existing: KUBECONFIG.",
)
@click.option("--nodes", "node_count", type=click.IntRange(1, 50), default=1, show_default=True)
@click.option(
    "--kwok-nodes",
    "fake_node_count",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Nodes that exist in name only and take pods that tolerate their taint.",
)
def up(name: str, provider: str, node_count: int, fake_node_count: int) -> None:
    """Make a cluster, or complete one that is there. Returns when its nodes are Ready."""
    with reported_errors():
        record = providers.up(name, provider, node_count=node_count, fake_node_count=fake_node_count)
    say(f"cluster {record.name} is ready. To use it in this shell:")
    say(f'  eval "$(prfaas cluster env --name {record.name})"')


@cluster.command()
@cluster_name
@click.option("--all", "every", is_flag=True, help="All clusters, and what is left of any.")
def down(name: str, every: bool) -> None:
    """End a cluster and remove every trace of it, also after a crash. An existing one is left alone."""
    with reported_errors():
        chosen = providers.names() if every else [name]
        for each in chosen:
            for other in providers.names():
                if cluster_wan.part(each, other):
                    click.echo(f"parted {each} and {other}")
            for line in providers.down(each) or [f"nothing is left of a cluster {each}"]:
                click.echo(line)


@cluster.command()
@cluster_name
def env(name: str) -> None:
    """Print what a shell needs: eval "$(prfaas cluster env)"."""
    with reported_errors():
        for line in environment(providers.known(name), assets.program("helm").parent):
            click.echo(line)


@cluster.command()
@click.argument("one")
@click.argument("other")
@click.option("--rate", default="1Gbit", show_default=True, help="Rate of each direction.")
@click.option("--rtt", default="30ms", show_default=True, help="Round trip.")
def join(one: str, other: str, rate: str, rtt: str) -> None:
    """Join two bare clusters by an emulated WAN, in place of one that is there.

    ONE is host a of the emulator and OTHER is b; `prfaas wan` changes it by the name that is printed.
    """
    with reported_errors():
        config = WanConfig.symmetric(
            rate_bits_per_second=quantities.parse_rate(rate), rtt_seconds=quantities.parse_time(rtt)
        )
        network = cluster_wan.join(providers.known(one), providers.known(other), config)
        name = network.name
        network.close()
    say(f"{one} and {other} are joined. To cut them apart: prfaas wan cut {name}")
    click.echo(name)


@cluster.command()
@click.argument("one")
@click.argument("other")
def part(one: str, other: str) -> None:
    """End the WAN between two clusters."""
    with reported_errors():
        parted = cluster_wan.part(one, other)
    click.echo(f"parted {one} and {other}" if parted else f"nothing joins {one} and {other}")


@cluster.command("load-image")
@cluster_name
@click.argument(
    "archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def load_image(name: str, archives: tuple[Path, ...]) -> None:
    """Make images known to all nodes, from OCI or Docker archives (tar)."""
    with reported_errors():
        for archive in archives:
            providers.load_image(name, archive)
            say(f"loaded {archive}")


@cluster.command()
@cluster_name
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(name: str, output: str) -> None:
    """Say how a cluster does. Exit status 1 when something of it doesn't run."""
    with reported_errors():
        seen = observe(providers.known(name))
    click.echo(json.dumps(seen, indent=2) if output == "json" else "\n".join(table(seen)))
    if not seen["healthy"]:
        raise SystemExit(1)


@cluster.command()
def programs() -> None:
    """List the programs that clusters consist of, and whether they are there. Looks only."""
    for name in assets.PROGRAMS:
        there = assets.program_is_there(name)
        click.echo(f"program     {name}: {'ready' if there else 'not there yet (built on demand; needs Go)'}")


def environment(record: Record, programs_folder: Path) -> list[str]:
    """Lines for a POSIX shell to evaluate."""
    return [
        f"export KUBECONFIG={shlex.quote(record.kubeconfig)}",
        f"export {NAME_VARIABLE}={shlex.quote(record.name)}",
        f'export PATH={shlex.quote(str(programs_folder))}:"$PATH"',
    ]


def observe(record: Record) -> dict[str, Any]:
    """How a cluster does, as JSON shows it."""
    parts = bare.part_states(record) if record.provider == bare.PROVIDER else []
    try:
        nodes = Kubectl(Path(record.kubeconfig)).get("nodes", "--request-timeout=5s")["items"]
        ready, problem = bare.ready_nodes(nodes), None
    except ClusterError as error:
        nodes, ready, problem = [], set(), str(error)
    names = [node["metadata"]["name"] for node in nodes]
    return {
        "name": record.name,
        "provider": record.provider,
        "kubeconfig": record.kubeconfig,
        "healthy": problem is None and set(names) == ready and all(pid is not None for _, pid in parts),
        "problem": problem,
        "nodes": [{"name": name, "ready": name in ready} for name in names],
        "programs": [{"name": part.name, "pid": pid, "log": str(part.log)} for part, pid in parts],
    }


def table(seen: dict[str, Any]) -> list[str]:
    """The same for a person."""
    ready = sum(node["ready"] for node in seen["nodes"])
    lines = [
        f"cluster     {seen['name']} ({seen['provider']})",
        f"kubeconfig  {seen['kubeconfig']}",
        f"nodes       {ready} of {len(seen['nodes'])} Ready",
    ]
    lines += [f"  not Ready {node['name']}" for node in seen["nodes"] if not node["ready"]]
    if seen["problem"]:
        lines.append(f"problem     {seen['problem']}")
    for each in seen["programs"]:
        state = f"process {each['pid']}" if each["pid"] else f"ENDED; see {each['log']}"
        lines.append(f"program     {each['name']}: {state}")
    if any(each["pid"] is None for each in seen["programs"]):
        lines.append(f"mend it     prfaas cluster up --name {seen['name']}")
    return lines
