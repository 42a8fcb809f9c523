"""Brings bare clusters up and takes them down."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prfaas_cluster import assets
from prfaas_cluster.apiserver import trust, why_not_ready
from prfaas_cluster.bare import files, groups, host, manifests, network
from prfaas_cluster.bare import parts as part_lists
from prfaas_cluster.bare.layout import (
    CONTROL_PLANE,
    GROUP_PREFIX,
    MOST_CLUSTERS,
    MOST_NODES,
    Layout,
    Node,
    check_name,
    clusters_folder,
    free_number,
)
from prfaas_cluster.bare.parts import Part
from prfaas_cluster.bare.sandbox import (
    Sandbox,
    find_sandbox,
    find_sandboxes,
    make_sandbox,
    run,
    running_parts,
    send,
)
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.process import last_line
from prfaas_cluster.record import Record, all_records, read_record, write_record
from prfaas_setup import system
from prfaas_setup.locking import only_one
from prfaas_setup.progress import step

PROVIDER = "bare"
UP_SECONDS = 600.0
API_SECONDS = 60.0
RUNTIME_SECONDS = 30.0
READY_SECONDS = 90.0
IMPORT_SECONDS = 300.0
REMOVE_SECONDS = 20.0
POLL_SECONDS = 0.2
PROGRAMS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns",
    "pause", "kubectl", "ptp", "loopback", "host-local", "portmap",
)  # fmt: skip
# Folders that a node replaces by its own; what it needs itself can't lie there.
_HIDDEN = ("/run", "/var/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni", "/proc")


def up(name: str, *, node_count: int = 1, fake_node_count: int = 0) -> Record:
    """A cluster with at least so many nodes, all Ready. One that is there is completed, also after a crash.

    Raises:
        ClusterError: it can't be had; the text says why and what to do.
        SetupError: a program or system package is missing and can't be had here.
        ValueError: no such name is possible.
    """
    check_name(name)
    _check_machine()
    if node_count > MOST_NODES:
        raise ClusterError(f"a bare cluster has at most {MOST_NODES} nodes; kwok pretends any number")
    system.ensure(system.CLUSTER_NEEDS)
    with _alone():
        record = _record(name, node_count, fake_node_count)
        programs = assets.programs([*PROGRAMS, *(["kwok"] if record.fake_node_count else [])])
        layout = layout_of(record)
        host.remember()
        with step(f"cluster {name}: control plane"):
            authority = files.write_cluster_files(layout)
            control_plane = _control_plane(layout)
            stages = assets.kwok_stages() if record.fake_node_count else []
            first, later = _split(part_lists.control_plane_parts(layout, programs, stages), 2)
            _start(control_plane, first)
            nodes = {node: _node(node, control_plane) for node in layout.nodes}
            network.lay_routes(layout, control_plane, nodes)
            for node, sandbox in nodes.items():
                files.write_node_files(node, authority)
                _start(sandbox, [part_lists.runtime_part(node, _containerd())])
            _wait_for_api(layout, control_plane, first)
            _start(control_plane, later)
        with step(f"cluster {name}: images and nodes"):
            archives = files.image_archives(layout)
            for node, sandbox in nodes.items():
                _wait_for_runtime(node, sandbox)
                for archive in archives:
                    _import(node, archive)
                _start(sandbox, part_lists.node_parts(node, programs))
            kubectl = Kubectl(layout.kubeconfig)
            kubectl.apply([
                *manifests.dns(layout),
                *(manifests.fake_node(number) for number in range(1, record.fake_node_count + 1)),
            ])  # fmt: skip
            wait_until_ready(record)
    return record


def down(name: str) -> list[str]:
    """End and remove a cluster, whatever is left of it. Returns a line for each thing done.

    Raises:
        ClusterError: something can't be removed.
    """
    with _alone():
        done = _end_sandboxes(name)
        layout = Layout(name, 0, 0)
        if network.remove_host_cable(layout.host_cable):
            done.append(f"removed the interface {layout.host_cable}")
        left = groups.groups_of(name)
        groups.remove_groups(left)
        if left:
            done.append(f"removed {len(left)} control groups")
        if layout.folder.is_dir():
            _remove_folder(layout.folder)
            done.append(f"removed {layout.folder}")
        if not names():
            done += host.restore()
    return done


def names() -> list[str]:
    """Clusters of which anything is left on this machine."""
    found = {record.name for record in all_records() if record.provider == PROVIDER}
    found |= {sandbox.cluster for sandbox in find_sandboxes()}
    prefix = Layout("", 0, 0).host_cable
    if shutil.which("ip") is not None:
        found |= {name.removeprefix(prefix) for name in network.host_interfaces() if name.startswith(prefix)}
    for group in groups.groups_of():
        found.add(group.name.removeprefix(GROUP_PREFIX).rpartition("-node-")[0])
    # A folder whose set-up ended before the cluster had a record.
    found |= {path.parent.name for path in clusters_folder().glob("*/pki")}
    return sorted(found)


def load_image(record: Record, archive: Path) -> None:
    """Import an OCI or Docker archive on every node.

    Raises:
        ClusterError: it isn't one, or a node doesn't run.
    """
    for node in layout_of(record).nodes:
        _import(node, archive)


def layout_of(record: Record) -> Layout:
    return Layout(record.name, record.number, record.node_count)


def part_states(record: Record) -> list[tuple[Part, int | None]]:
    """Every program of the cluster and its process id, None where it doesn't run."""
    layout = layout_of(record)
    programs = assets.programs([*PROGRAMS, *(["kwok"] if record.fake_node_count else [])])
    stages = assets.kwok_stages() if record.fake_node_count else []
    wanted = part_lists.control_plane_parts(layout, programs, stages)
    for node in layout.nodes:
        wanted += [part_lists.runtime_part(node, _containerd()), *part_lists.node_parts(node, programs)]
    running = running_parts(record.name)
    return [(part, running.get((part.name, str(part.program)))) for part in wanted]


def wait_until_ready(record: Record, within_seconds: float = READY_SECONDS) -> None:
    """Wait until all nodes are Ready, pods can be made in `default`, and names resolve.

    Raises:
        ClusterError: a program ended, or it took too long.
    """
    kubectl = Kubectl(Path(record.kubeconfig))
    wanted = {node.name for node in layout_of(record).nodes}
    wanted |= {f"fake-{number}" for number in range(1, record.fake_node_count + 1)}

    def why() -> str | None:
        missing = wanted - ready_nodes(kubectl.get("nodes")["items"])
        if missing:
            return f"not Ready: {', '.join(sorted(missing))}"
        # Pods are refused until the controller manager has made it.
        if not kubectl.get("serviceaccounts", "--namespace=default")["items"]:
            return "the namespace default has no ServiceAccount yet"
        dns = kubectl.get("deployment/coredns", "--namespace=kube-system")["status"]
        return None if dns.get("readyReplicas") else "CoreDNS isn't ready"

    _wait(why, lambda: _check_parts(part_states(record)), within_seconds, f"the cluster {record.name}")


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise ClusterError("a bare cluster needs root: run it as root, or use --provider kind or existing")
    folder = clusters_folder()
    if any(folder.is_relative_to(hidden) for hidden in _HIDDEN):
        raise ClusterError(f"the cache folder {folder} lies where nodes have folders of their own; "
                           "set XDG_CACHE_HOME to another place")  # fmt: skip


def _alone() -> Any:
    return only_one(clusters_folder() / "lock", "or removes a cluster", timeout_seconds=UP_SECONDS)


def _containerd() -> Path:
    return Path(shutil.which("containerd") or "containerd")


def _record(name: str, node_count: int, fake_node_count: int) -> Record:
    known = read_record(name)
    if known is not None and known.provider != PROVIDER:
        raise ClusterError(f"the cluster {name} is of provider {known.provider}: choose another --name")
    if known is not None:
        number = known.number
        node_count = max(node_count, known.node_count)
        fake_node_count = max(fake_node_count, known.fake_node_count)
    else:
        taken = {record.number for record in all_records() if record.provider == PROVIDER}
        chosen = free_number(taken, network.host_routes())
        if chosen is None:
            raise ClusterError(f"none of {MOST_CLUSTERS} networks from 10.130.0.0/16 on is free here")
        number = chosen
    kubeconfig = str(Layout(name, number, node_count).kubeconfig)
    record = Record(name, PROVIDER, kubeconfig, number, node_count, fake_node_count)
    write_record(record)
    return record


def _control_plane(layout: Layout) -> Sandbox:
    found = find_sandbox(layout.name, CONTROL_PLANE)
    if found is not None:
        return found
    # Nodes without it are cut off from one another, and from the machine.
    _end_sandboxes(layout.name)
    made = make_sandbox(layout.name, CONTROL_PLANE, layout.folder / "logs" / "sandboxes.log")
    network.connect_control_plane(layout, made)
    return made


def _node(node: Node, control_plane: Sandbox) -> Sandbox:
    found = find_sandbox(node.cluster.name, node.sandbox)
    if found is not None:
        return found
    groups.remove_groups(group for group in groups.groups_of(node.cluster.name) if group.name == node.group)
    # What containerd knew of its containers is gone with their processes.
    shutil.rmtree(node.folder / "containerd-state", ignore_errors=True)
    groups.make_group(node.group)
    made = make_sandbox(node.cluster.name, node.sandbox, node.cluster.folder / "logs" / "sandboxes.log")
    made.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    for path, own in files.private_folders(node).items():
        own.mkdir(parents=True, exist_ok=True)
        made.run(["mount", "--bind", own, path])
    made.run(["hostname", node.name])
    network.connect_node(node, made, control_plane)
    return made


def _start(sandbox: Sandbox, parts: Sequence[Part]) -> None:
    for part in parts:
        if sandbox.part(part.name, part.program) is None:
            sandbox.start(part.name, part.command, part.log)


def _wait_for_api(layout: Layout, control_plane: Sandbox, parts: Sequence[Part]) -> None:
    trusting = trust((layout.folder / "pki" / "ca.crt").read_bytes())

    def alive() -> None:
        _check_parts([(part, control_plane.part(part.name, part.program)) for part in parts])

    _wait(lambda: why_not_ready(layout.url, trusting), alive, API_SECONDS, "the API server")


def _wait_for_runtime(node: Node, sandbox: Sandbox) -> None:
    part = part_lists.runtime_part(node, _containerd())

    def why() -> str | None:
        try:
            run([*_ctr(node), "version"])
        except ClusterError as error:
            return str(error)
        return None

    def alive() -> None:
        _check_parts([(part, sandbox.part(part.name, part.program))])

    _wait(why, alive, RUNTIME_SECONDS, f"containerd of {node.name}")


def _wait(why: Callable[[], str | None], alive: Callable[[], None], seconds: float, what: str) -> None:
    """Wait until `why` has no reason left. `alive` raises when waiting on makes no sense."""
    deadline = time.monotonic() + seconds
    while (reason := why()) is not None:
        alive()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} isn't ready after {seconds:.0f} s: {reason}")
        time.sleep(POLL_SECONDS)


def _check_parts(states: Sequence[tuple[Part, int | None]]) -> None:
    for part, pid in states:
        if pid is None:
            raise ClusterError(f"{part.name} has ended: {last_line(part.log)}", part.log)


def _import(node: Node, archive: Path) -> None:
    run([*_ctr(node), "images", "import", "--no-unpack=false", archive], timeout_seconds=IMPORT_SECONDS)


def _ctr(node: Node) -> list[str]:
    return ["ctr", f"--address={node.runtime_socket}", "--namespace=k8s.io"]


def ready_nodes(nodes: Sequence[Any]) -> set[str]:
    return {
        node["metadata"]["name"]
        for node in nodes
        if any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node["status"].get("conditions", ())
        )
    }


def _end_sandboxes(name: str) -> list[str]:
    found = find_sandboxes(name)
    for sandbox in found:
        send(sandbox.pid, signal.SIGKILL)
    for sandbox in found:
        sandbox.end()
    return [f"ended the {sandbox.name} of {name} with all that ran there" for sandbox in found]


def _remove_folder(folder: Path) -> None:
    """Remove it. The kernel may still be busy with the mounts of a sandbox that has just ended."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while folder.is_dir():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"{folder} can't be removed: {error}") from error
            time.sleep(POLL_SECONDS)


def _split(parts: list[Part], count: int) -> tuple[list[Part], list[Part]]:
    return parts[:count], parts[count:]
