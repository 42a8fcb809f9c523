"""An emulated WAN between two bare clusters: the only way from the pods of one to the other.

Each end of the emulator is a router at the bridge of one cluster. Everything of the other cluster (nodes,
pods, Services, the API server) is routed to it, so a cut cuts all of it; the machine's own shell reaches both
past it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prfaas_cluster.bare.cluster import layout_of
from prfaas_cluster.bare.layout import CONTROL_PLANE, Layout
from prfaas_cluster.bare.network import BRIDGE
from prfaas_cluster.bare.sandbox import Sandbox, find_sandboxes, run
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.record import Record
from prfaas_wan import Host, Network, WanConfig, WanError, connect, launch

NAME_PREFIX = "clusters"
# Of the nodes' network; nodes begin at 11 and are at most 15. One number per WAN that a cluster may have.
FIRST_ROUTER = 200
_LAN = "lan0"


@dataclass(frozen=True)
class Side:
    """One cluster at its end of the WAN. `place` numbers the WANs of a cluster."""

    layout: Layout
    host: Host
    place: int

    @property
    def router_address(self) -> str:
        return str(self.layout.nodes_network[FIRST_ROUTER + self.place])

    @property
    def cable(self) -> str:
        """The interface at the cluster's bridge."""
        return f"wan-{self.place}"


def wan_name(one: str, other: str) -> str:
    """Name of the emulator between two clusters."""
    return "-".join((NAME_PREFIX, *sorted((one, other))))


def join(one: Record, other: Record, config: WanConfig) -> Network:
    """Join two clusters, one as host `a` of the emulator and the other as `b`, in place of an earlier WAN.

    Raises:
        ClusterError: a cluster does not run, or the machine does not allow it.
    """
    part(one.name, other.name)
    try:
        network = launch(config.model_copy(update={"name": wan_name(one.name, other.name)}))
    except WanError as error:
        raise ClusterError(str(error)) from error
    try:
        a, b = layout_of(one), layout_of(other)
        sides = Side(a, network.a, b.number), Side(b, network.b, a.number)
        for near, far in (sides, sides[::-1]):
            _connect(near, far)
    except BaseException:
        network.stop()
        raise
    return network


def part(one: str, other: str) -> bool:
    """End the WAN between two clusters. False when there is none."""
    try:
        network = connect(wan_name(one, other))
    except WanError:
        return False
    network.stop()
    network.close()
    return True


def _connect(near: Side, far: Side) -> None:
    sandboxes = {each.name: each for each in find_sandboxes(near.layout.name)}
    control_plane = sandboxes.get(CONTROL_PLANE)
    if control_plane is None:
        raise ClusterError(
            f"cluster {near.layout.name} does not run: prfaas cluster up --name {near.layout.name}"
        )
    _lay_cable(near, control_plane)
    for command in _router_commands(near, far):
        run(near.host.command(command))
    way = ["ip", "route", "replace", str(far.layout.network), "via", near.router_address]
    for sandbox in sandboxes.values():
        sandbox.run(way)


def _lay_cable(side: Side, control_plane: Sandbox) -> None:
    """The emulator's end took an earlier cable with it."""
    run(
        [
            "ip", "link", "add", _LAN, "netns", side.host.namespace_path,
            "type", "veth", "peer", "name", side.cable, "netns", str(control_plane.pid),
        ]
    )  # fmt: skip
    control_plane.run(["ip", "link", "set", side.cable, "master", BRIDGE, "up"])


def _router_commands(near: Side, far: Side) -> list[list[str]]:
    layout = near.layout
    ways = {str(node.pods_network): str(node.address) for node in layout.nodes}
    ways[str(layout.services_network)] = str(layout.nodes[0].address)
    return [
        ["sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"],
        ["ip", "address", "add", f"{near.router_address}/24", "dev", _LAN],
        ["ip", "link", "set", _LAN, "up"],
        *(["ip", "route", "add", network, "via", gateway] for network, gateway in ways.items()),
        ["ip", "route", "add", str(far.layout.network), "via", far.host.address],
    ]
