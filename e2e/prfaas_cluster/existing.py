"""A cluster that somebody else made, known by its kubeconfig. Nothing of it is created or deleted here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from prfaas_cluster.bare.layout import cluster_folder
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.record import Record, write_record

PROVIDER = "existing"


def up(name: str, *, node_count: int = 1, fake_node_count: int = 0) -> Record:
    """Remember the cluster that KUBECONFIG names, or the user's own configuration. Its nodes are as they are.

    Raises:
        ClusterError: there is no such file, or its cluster doesn't answer.
    """
    if fake_node_count:
        raise ClusterError("nodes by kwok come with --provider bare; install kwok there yourself")
    kubeconfig = kubeconfig_of_user()
    nodes = Kubectl(kubeconfig).get("nodes", "--request-timeout=20s")["items"]
    record = Record(name, PROVIDER, str(kubeconfig), node_count=len(nodes))
    write_record(record)
    return record


def down(name: str) -> list[str]:
    """Forget it; the cluster itself is left as it is."""
    shutil.rmtree(cluster_folder(name), ignore_errors=True)
    return [f"forgot the cluster {name}; it goes on"]


def load_image(record: Record, archive: Path) -> None:
    """Always raises: nodes of somebody else's cluster pull images from a registry."""
    raise ClusterError(
        f"{archive.name} can't be loaded into an existing cluster: push it to a registry that it pulls "
        "from, and name it in the chart's values"
    )


def kubeconfig_of_user(environ: Mapping[str, str] = os.environ) -> Path:
    """The first file that KUBECONFIG names, or ~/.kube/config.

    Raises:
        ClusterError: there is none.
    """
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    path = Path(named[0]) if named else Path.home() / ".kube" / "config"
    if not path.is_file():
        raise ClusterError(f"there is no kubeconfig {path}: set KUBECONFIG to that of the cluster")
    return path.resolve()
