"""Cables, addresses and routes: every node in the cluster's one network, and the machine itself too.

So the machine's own shell reaches pods and Services, as it would in the data center of a real cluster.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network

from prfaas_cluster.bare.layout import Layout, Node
from prfaas_cluster.bare.sandbox import Sandbox, run

BRIDGE = "nodes"
NODE_INTERFACE = "eth0"
_HOST_END = "machine"

Command = list[str]


def routes(layout: Layout, *, seen_from: Node | None) -> list[Command]:
    """Routes to pods and Services for anyone outside, or to other nodes' pods for a node."""
    commands = [
        _ip("route", "replace", node.pods_network, "via", node.address)
        for node in layout.nodes
        if node != seen_from
    ]
    if seen_from is None and layout.nodes:
        # The first node's kube-proxy serves those who have none.
        commands.append(_ip("route", "replace", layout.services_network, "via", layout.nodes[0].address))
    return commands


def control_plane_commands(layout: Layout) -> list[Command]:
    """What makes the bridge, inside the control plane's sandbox."""
    return [
        _ip("link", "add", BRIDGE, "type", "bridge"),
        _ip("address", "add", f"{layout.control_plane_address}/24", "dev", BRIDGE),
        _ip("link", "set", BRIDGE, "up"),
        ["sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"],
    ]


def node_commands(node: Node) -> list[Command]:
    """What gives a node its address, inside its sandbox."""
    return [
        _ip("address", "add", f"{node.address}/24", "dev", NODE_INTERFACE),
        _ip("link", "set", NODE_INTERFACE, "up"),
        _ip("route", "replace", "default", "via", node.cluster.host_address),
        ["sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"],
    ]


def connect_control_plane(layout: Layout, control_plane: Sandbox) -> None:
    """Make the bridge and connect the machine to it."""
    for command in control_plane_commands(layout):
        control_plane.run(command)
    remove_host_cable(layout.host_cable)
    run(
        _ip("link", "add", layout.host_cable, "type", "veth", "peer", "name", _HOST_END,
            "netns", control_plane.pid)
    )  # fmt: skip
    control_plane.run(_ip("link", "set", _HOST_END, "master", BRIDGE, "up"))
    run(_ip("address", "add", f"{layout.host_address}/24", "dev", layout.host_cable))
    run(_ip("link", "set", layout.host_cable, "up"))
    control_plane.run(_ip("route", "replace", "default", "via", layout.host_address))


def connect_node(node: Node, sandbox: Sandbox, control_plane: Sandbox) -> None:
    """Lay the node's cable to the bridge. One that an earlier node of this number left is replaced."""
    found = control_plane.run(["ip", "-json", "link", "show"])
    if node.cable in {link["ifname"] for link in json.loads(found)}:
        control_plane.run(_ip("link", "delete", node.cable))
    run(
        _ip("link", "add", NODE_INTERFACE, "netns", sandbox.pid,
            "type", "veth", "peer", "name", node.cable, "netns", control_plane.pid)
    )  # fmt: skip
    control_plane.run(_ip("link", "set", node.cable, "master", BRIDGE, "up"))
    for command in node_commands(node):
        sandbox.run(command)


def lay_routes(layout: Layout, control_plane: Sandbox, nodes: dict[Node, Sandbox]) -> None:
    """All routes of the cluster, as it is now; those that are there already are no matter."""
    for command in routes(layout, seen_from=None):
        run(command)
        control_plane.run(command)
    for node, sandbox in nodes.items():
        for command in routes(layout, seen_from=node):
            sandbox.run(command)


def remove_host_cable(name: str) -> bool:
    """Remove the machine's interface to a cluster, with its routes. False when there is none."""
    if name not in host_interfaces():
        return False
    run(_ip("link", "delete", name))
    return True


def host_interfaces() -> set[str]:
    return {link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))}


def host_routes() -> list[IPv4Network]:
    """Networks that the machine has routes to; the default route is none of them."""
    found = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "main"]) or "[]")
    return [IPv4Network(route["dst"]) for route in found if route["dst"] != "default"]


def _ip(*words: object) -> Command:
    return ["ip", *map(str, words)]
