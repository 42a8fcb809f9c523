"""Names, addresses and paths of a cluster: all of them functions of its name, its number and its size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from prfaas_setup import locations

# Interfaces carry the name, and the kernel gives them 15 characters.
LONGEST_NAME = 10
MOST_CLUSTERS = 32
MOST_NODES = 15
API_PORT = 6443
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
FIRST_SECOND_OCTET = 130
GROUP_PREFIX = "prfaas-"
CONTROL_PLANE = "control-plane"
_NAME = re.compile(rf"[a-z]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?")


@dataclass(frozen=True)
class Node:
    """A node: its place in the cluster counts from 1."""

    cluster: Layout
    number: int

    @property
    def name(self) -> str:
        return f"{self.cluster.name}-node-{self.number}"

    @property
    def sandbox(self) -> str:
        return f"node-{self.number}"

    @property
    def folder(self) -> Path:
        return self.cluster.folder / self.sandbox

    @property
    def address(self) -> IPv4Address:
        return self.cluster.nodes_network[10 + self.number]

    @property
    def pods_network(self) -> IPv4Network:
        return list(self.cluster.pods_network.subnets(new_prefix=24))[self.number]

    @property
    def group(self) -> str:
        """The control group below which the kubelet makes those of its pods."""
        return f"{GROUP_PREFIX}{self.name}"

    @property
    def cable(self) -> str:
        """The interface that stands for the node at the cluster's bridge."""
        return f"node-{self.number}"

    @property
    def runtime_socket(self) -> Path:
        return self.folder / "containerd.sock"


@dataclass(frozen=True)
class Layout:
    """Where everything of a cluster is.

    Attributes:
        number: 0 to `MOST_CLUSTERS` - 1; gives it a /16 that no other cluster of this machine has.
    """

    name: str
    number: int
    node_count: int

    @property
    def folder(self) -> Path:
        return cluster_folder(self.name)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(f"10.{FIRST_SECOND_OCTET + self.number}.0.0/16")

    @property
    def nodes_network(self) -> IPv4Network:
        """Its .1 is the control plane, .2 the machine that everything runs on, .11 the first node."""
        return next(self.network.subnets(new_prefix=24))

    @property
    def pods_network(self) -> IPv4Network:
        """Holds no node and not the machine: what comes from those is masqueraded, so that answers return."""
        return list(self.network.subnets(new_prefix=20))[1]

    @property
    def services_network(self) -> IPv4Network:
        return list(self.network.subnets(new_prefix=20))[-1]

    @property
    def control_plane_address(self) -> IPv4Address:
        return self.nodes_network[1]

    @property
    def host_address(self) -> IPv4Address:
        return self.nodes_network[2]

    @property
    def api_service_address(self) -> IPv4Address:
        return self.services_network[1]

    @property
    def dns_address(self) -> IPv4Address:
        return self.services_network[10]

    @property
    def host_cable(self) -> str:
        """The one interface that the cluster has on the machine itself."""
        return f"pfc-{self.name}"

    @property
    def nodes(self) -> list[Node]:
        return [Node(self, number) for number in range(1, self.node_count + 1)]

    @property
    def url(self) -> str:
        return f"https://{self.control_plane_address}:{API_PORT}"


def clusters_folder() -> Path:
    """Where the folders of all clusters are."""
    return locations.cache_folder() / "clusters"


def cluster_folder(name: str) -> Path:
    return clusters_folder() / name


def check_name(name: str) -> None:
    """Raises ValueError for a name that can't be a cluster's."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} can't be a cluster's name: at most {LONGEST_NAME} characters of a-z, 0-9 and -, "
            "beginning with a letter, not ending with -"
        )


def free_number(taken: set[int], routes: list[IPv4Network]) -> int | None:
    """The lowest number that no cluster has and whose network meets none of the machine's routes."""
    for number in range(MOST_CLUSTERS):
        network = Layout("x", number, 0).network
        if number not in taken and not any(network.overlaps(route) for route in routes):
            return number
    return None
