"""A real cluster of this machine: it works, it mends itself, and it leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from prfaas_cluster import oci
from prfaas_cluster.bare import cluster, groups, host, network
from prfaas_cluster.bare.layout import cluster_folder
from prfaas_cluster.bare.sandbox import find_sandbox, find_sandboxes, process_ids
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.record import Record
from tests.cluster.pods import SIDECAR_PORT, service, web_pod
from tests.helpers import eventually, kill

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]

FAKE_NODES = 5
READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Record]:
    name = f"t{secrets.token_hex(3)}"
    try:
        yield cluster.up(name, node_count=2, fake_node_count=FAKE_NODES)
    finally:
        cluster.down(name)


@pytest.fixture
def kubectl(two_nodes: Record) -> Kubectl:
    return Kubectl(Path(two_nodes.kubeconfig))


def test_nodes_and_fake_nodes_are_ready_and_fake_pods_run_there(two_nodes: Record, kubectl: Kubectl) -> None:
    nodes = kubectl.get("nodes")["items"]
    assert len(cluster.ready_nodes(nodes)) == len(nodes) == 2 + FAKE_NODES
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pretended"},
        "spec": {
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "containers": [{"name": "c", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
    }
    kubectl.apply([pod])
    wait_for_pods(kubectl, "pretended")


def test_pods_on_two_nodes_reach_one_another_by_name_and_the_machine_reaches_them(
    two_nodes: Record, kubectl: Kubectl
) -> None:
    names = {f"web-{number}": f"{two_nodes.name}-node-{number}" for number in (1, 2)}
    for name, node in names.items():
        kubectl.apply([web_pod(name, nodeName=node), service(name)])
    wait_for_pods(kubectl, *names)
    for caller in names:
        for called in names:
            program = (
                "import urllib.request as r; "
                f"print(r.urlopen('http://{called}.default.svc.cluster.local', timeout=5).status)"
            )
            asked = ("exec", caller, "--container=main", "--", "/usr/bin/python3", "-c", program)
            eventually(lambda asked=asked: says_200(kubectl, *asked), what=f"{caller} reaches {called}")
    for name in names:
        address = kubectl.get(f"service/{name}")["spec"]["clusterIP"]
        pod = kubectl.get(f"pod/{name}")
        for url in (f"http://{address}/", f"http://{pod['status']['podIP']}:{SIDECAR_PORT}/"):
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                assert answer.status == 200
        assert "GET / HTTP" in kubectl("logs", name, "--container=main")


def test_an_image_is_there_on_every_node_after_it_was_loaded(
    two_nodes: Record, kubectl: Kubectl, tmp_path: Path
) -> None:
    files = {**oci.host_files(), "etc/marker": oci.File(content=b"loaded")}
    oci.write_image(tmp_path / "image.tar", "registry.example/team/thing:7", files)
    cluster.load_image(two_nodes, tmp_path / "image.tar")
    for number in (1, 2):
        pod = web_pod(f"own-{number}", nodeName=f"{two_nodes.name}-node-{number}")
        for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
            container["image"] = "registry.example/team/thing:7"
        kubectl.apply([pod])
    wait_for_pods(kubectl, "own-1", "own-2")
    (tmp_path / "not-an-image.tar").write_bytes(b"no tar")
    with pytest.raises(ClusterError, match=r"ctr.*not-an-image"):
        cluster.load_image(two_nodes, tmp_path / "not-an-image.tar")


@pytest.mark.restarts_processes
def test_up_mends_a_cluster_whose_node_or_program_died(two_nodes: Record, kubectl: Kubectl) -> None:
    kubectl.apply([web_pod("phoenix", nodeName=f"{two_nodes.name}-node-2")])
    wait_for_pods(kubectl, "phoenix")
    node = find_sandbox(two_nodes.name, "node-2")
    assert node is not None
    node.end()
    kill(next(pid for part, pid in cluster.part_states(two_nodes) if part.name == "kube-scheduler" and pid))
    ended = {part.name for part, pid in cluster.part_states(two_nodes) if pid is None}
    assert ended == {"kube-scheduler", "node-2-containerd", "node-2-kubelet", "node-2-kube-proxy"}
    running = {part.name: pid for part, pid in cluster.part_states(two_nodes) if pid}
    assert cluster.up(two_nodes.name) == two_nodes
    now = {part.name: pid for part, pid in cluster.part_states(two_nodes)}
    assert all(now.values())
    assert {name: now[name] for name in running} == running

    def restarted() -> bool:
        statuses = kubectl.get("pod/phoenix")["status"].get("containerStatuses", [])
        return bool(statuses) and all(each["restartCount"] and each["ready"] for each in statuses)

    eventually(restarted, within_seconds=READY_SECONDS)


@pytest.mark.parametrize("killed", ["nothing", "the first processes", "every process"])
def test_down_leaves_nothing_also_after_everything_was_killed(killed: str) -> None:
    before = traces()
    name = f"t{secrets.token_hex(3)}"
    try:
        record = cluster.up(name)
        kubectl = Kubectl(Path(record.kubeconfig))
        kubectl.apply([web_pod("web")])
        wait_for_pods(kubectl, "web")
        assert traces() != before
        inside = processes_of(name)
        assert len(inside) > 10
        if killed == "every process":
            for pid in inside:
                kill(pid)
        if killed == "the first processes":
            for sandbox in find_sandboxes(name):
                os.kill(sandbox.pid, signal.SIGKILL)
        assert name in cluster.names()
    finally:
        cluster.down(name)
    assert processes_of(name) == []
    assert name not in cluster.names()
    assert not cluster_folder(name).exists()
    eventually(lambda: traces() == before, what="the machine is as it was before")
    assert cluster.down(name) == []


def wait_for_pods(kubectl: Kubectl, *names: str) -> None:
    pods = [f"pod/{name}" for name in names]
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", *pods, timeout_seconds=90.0)


def says_200(kubectl: Kubectl, *arguments: str) -> bool:
    try:
        return kubectl(*arguments).strip() == "200"
    except ClusterError:
        # Rules for a new Service reach a node a moment after its pod is Ready.
        return False


def processes_of(name: str) -> list[int]:
    """All processes in namespaces of the cluster, and those that hold its folder's programs."""
    namespaces = {Path(f"/proc/{sandbox.pid}/ns/net").stat().st_ino for sandbox in find_sandboxes(name)}
    found = []
    for pid in process_ids():
        try:
            network_namespace = Path(f"/proc/{pid}/ns/net").stat().st_ino
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if network_namespace in namespaces or str(cluster_folder(name)).encode() in arguments:
            found.append(pid)
    return found


def traces() -> dict[str, object]:
    """What of the machine a cluster could change."""
    folder = cluster_folder("x").parent
    return {
        "interfaces": network.host_interfaces(),
        "routes": sorted(map(str, network.host_routes())),
        "groups": groups.groups_of(),
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()),
        "settings": {name: Path("/proc/sys", name).read_text() for name in host.SETTINGS},
        "folders": [path.exists() for path in (*host.PRIVATE_FOLDERS, host.record_file())],
        "clusters": sorted(path.name for path in folder.glob("*/")) if folder.is_dir() else [],
        "tables": network.run(["nft", "list", "tables"]) if shutil.which("nft") else "",
    }
