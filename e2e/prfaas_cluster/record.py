"""What is remembered of a cluster between commands: one small file in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from prfaas_cluster.bare.layout import cluster_folder, clusters_folder

FILE_NAME = "cluster.json"


@dataclass(frozen=True)
class Record:
    """A cluster, whoever provides it.

    Attributes:
        provider: bare, kind or existing.
        number: a bare cluster's place among those of this machine.
        fake_node_count: nodes that kwok pretends.
        kubeconfig: path of its administrator's kubeconfig.
    """

    name: str
    provider: str
    kubeconfig: str
    number: int = 0
    node_count: int = 1
    fake_node_count: int = 0


def write_record(record: Record) -> None:
    folder = cluster_folder(record.name)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{FILE_NAME}.new"
    fresh.write_text(json.dumps(asdict(record), indent=2))
    fresh.replace(folder / FILE_NAME)


def read_record(name: str) -> Record | None:
    """None when there is no such cluster."""
    path = cluster_folder(name) / FILE_NAME
    return Record(**json.loads(path.read_text())) if path.is_file() else None


def all_records() -> list[Record]:
    found = [read_record(path.parent.name) for path in clusters_folder().glob(f"*/{FILE_NAME}")]
    return sorted((each for each in found if each is not None), key=lambda each: each.name)


def kubeconfig_of(record: Record) -> Path:
    return Path(record.kubeconfig)
