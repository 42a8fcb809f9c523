"""Clusters by whoever can provide one here: `bare`, `kind` or `existing`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from prfaas_cluster import existing, kind
from prfaas_cluster.bare import cluster as bare
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.record import Record, all_records, read_record


class Provider(Protocol):
    """A module that makes clusters. Its functions raise ClusterError and SetupError."""

    PROVIDER: str

    def up(self, name: str, *, node_count: int = 1, fake_node_count: int = 0) -> Record: ...

    def down(self, name: str) -> list[str]: ...

    def load_image(self, record: Record, archive: Path) -> None: ...


PROVIDERS: dict[str, Provider] = {each.PROVIDER: each for each in (bare, kind, existing)}


def up(name: str, provider: str, *, node_count: int = 1, fake_node_count: int = 0) -> Record:
    """A cluster of this name that works, made if it isn't there yet."""
    return PROVIDERS[provider].up(name, node_count=node_count, fake_node_count=fake_node_count)


def down(name: str) -> list[str]:
    """Take down a cluster, or what is left of a bare one. Returns a line for each thing done."""
    record = read_record(name)
    return PROVIDERS[record.provider if record is not None else bare.PROVIDER].down(name)


def names() -> list[str]:
    """All clusters, and those of which something is left."""
    return sorted({*(record.name for record in all_records()), *bare.names()})


def load_image(name: str, archive: Path) -> None:
    """Make an image of an OCI or Docker archive known to all nodes under the name that it has in there."""
    record = known(name)
    PROVIDERS[record.provider].load_image(record, archive)


def known(name: str) -> Record:
    """Raises ClusterError when there is no such cluster."""
    record = read_record(name)
    if record is None:
        raise ClusterError(f"there is no cluster {name}: prfaas cluster up --name {name}")
    return record
