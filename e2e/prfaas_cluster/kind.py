"""Clusters by kind, for machines with Docker. Its node images come from a registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from prfaas_cluster.bare.layout import cluster_folder
from prfaas_cluster.bare.sandbox import run
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.record import Record, read_record, write_record
from prfaas_setup.progress import step

PROVIDER = "kind"
UP_SECONDS = 600.0
CALL_SECONDS = 300.0
READY = "180s"
_NEEDED = ("docker", "kind")


def up(name: str, *, node_count: int = 1, fake_node_count: int = 0) -> Record:
    """A cluster with so many nodes. One that is there stays as it is.

    Raises:
        ClusterError: Docker or kind is missing or fails.
    """
    _check_machine()
    if fake_node_count:
        raise ClusterError("nodes by kwok come with --provider bare; kind has none")
    known = read_record(name)
    if known is not None and known.provider != PROVIDER:
        raise ClusterError(f"the cluster {name} is of provider {known.provider}: choose another --name")
    kubeconfig = cluster_folder(name) / "kubeconfig"
    record = Record(name, PROVIDER, str(kubeconfig), node_count=node_count)
    if name in run(["kind", "get", "clusters"], timeout_seconds=CALL_SECONDS).split():
        write_record(known or record)
        run(export_command(name, kubeconfig), timeout_seconds=CALL_SECONDS)
        return known or record
    write_record(record)
    with step(f"cluster {name} by kind"):
        run(create_command(name, kubeconfig), timeout_seconds=UP_SECONDS, stdin=configuration(node_count))
    return record


def down(name: str) -> list[str]:
    """Delete it and what is remembered of it. Returns a line for each thing done."""
    _check_machine()
    run(["kind", "delete", "cluster", "--name", name], timeout_seconds=CALL_SECONDS)
    shutil.rmtree(cluster_folder(name), ignore_errors=True)
    return [f"deleted the kind cluster {name}"]


def load_image(record: Record, archive: Path) -> None:
    """Load an OCI or Docker archive into every node."""
    run(load_command(record.name, archive), timeout_seconds=CALL_SECONDS)


def create_command(name: str, kubeconfig: Path) -> list[str]:
    return [
        "kind", "create", "cluster", "--name", name, "--kubeconfig", str(kubeconfig), "--wait", READY,
        "--config", "-",
    ]  # fmt: skip


def export_command(name: str, kubeconfig: Path) -> list[str]:
    return ["kind", "export", "kubeconfig", "--name", name, "--kubeconfig", str(kubeconfig)]


def load_command(name: str, archive: Path) -> list[str]:
    return ["kind", "load", "image-archive", str(archive), "--name", name]


def configuration(node_count: int) -> str:
    """kind's own configuration. A single node is control plane and takes pods; more are workers."""
    workers = [{"role": "worker"} for _ in range(node_count - 1)]
    return yaml.safe_dump(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, *workers],
        }
    )


def _check_machine() -> None:
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise ClusterError(
            f"the provider kind needs {' and '.join(missing)} on PATH; --provider bare needs neither"
        )
