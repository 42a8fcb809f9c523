"""Names, addresses, flags and files of clusters, which are functions of values."""

from __future__ import annotations

import itertools
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from prfaas_cluster import assets, existing, kind, kv_proxy
from prfaas_cluster.bare import manifests, network, parts, settings
from prfaas_cluster.bare.cluster import PROGRAMS
from prfaas_cluster.bare.layout import (
    LONGEST_NAME,
    MOST_CLUSTERS,
    MOST_NODES,
    Layout,
    check_name,
    free_number,
)
from prfaas_cluster.command import environment, table
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.record import Record

LAYOUT = Layout("demo", 3, 2)
FIRST, SECOND = LAYOUT.nodes
LONGEST_INTERFACE = 15


def test_addresses_of_a_cluster() -> None:
    assert str(LAYOUT.network) == "10.133.0.0/16"
    assert LAYOUT.url == "https://10.133.0.1:6443"
    assert str(LAYOUT.host_address) == "10.133.0.2"
    assert [str(node.address) for node in LAYOUT.nodes] == ["10.133.0.11", "10.133.0.12"]
    assert [str(node.pods_network) for node in LAYOUT.nodes] == ["10.133.17.0/24", "10.133.18.0/24"]
    assert str(LAYOUT.services_network) == "10.133.240.0/20"
    assert str(LAYOUT.api_service_address) == "10.133.240.1"
    assert str(LAYOUT.dns_address) == "10.133.240.10"


def test_networks_of_the_largest_fleet_never_overlap() -> None:
    clusters = [Layout("x" * LONGEST_NAME, number, MOST_NODES) for number in range(MOST_CLUSTERS)]
    for one, other in itertools.combinations(clusters, 2):
        assert not one.network.overlaps(other.network)
    largest = clusters[0]
    inside = [largest.nodes_network, largest.services_network, *(n.pods_network for n in largest.nodes)]
    for network_, other_ in itertools.combinations(inside, 2):
        assert not network_.overlaps(other_)
    assert all(each.subnet_of(largest.network) for each in inside)
    assert all(node.pods_network.subnet_of(largest.pods_network) for node in largest.nodes)
    assert all(node.address in largest.nodes_network for node in largest.nodes)
    # Who is outside of the pods' network is masqueraded by kube-proxy, so that answers find back.
    assert not largest.pods_network.overlaps(largest.nodes_network)
    cables = [largest.host_cable, *(node.cable for node in largest.nodes)]
    assert max(map(len, cables)) <= LONGEST_INTERFACE


@pytest.mark.parametrize(
    ("taken", "routes", "number"),
    [
        (set(), [], 0),
        ({0, 1}, [], 2),
        ({1}, ["10.130.4.0/24"], 2),
        (set(), ["10.128.0.0/13"], 6),
        (set(), ["10.0.0.0/8"], None),
        (set(range(MOST_CLUSTERS)), [], None),
    ],
)
def test_a_new_cluster_takes_a_network_that_nobody_has(
    taken: set[int], routes: list[str], number: int | None
) -> None:
    assert free_number(taken, [IPv4Network(route) for route in routes]) == number


@pytest.mark.parametrize("name", ["a", "prfaas", "eu-west-1", "x" * LONGEST_NAME])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "1a", "Upper", "a/b", "..", "x" * (LONGEST_NAME + 1), "a b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a cluster's name"):
        check_name(name)


def test_everybody_has_a_route_to_all_pods_that_are_not_his_own() -> None:
    outside = [" ".join(command) for command in network.routes(LAYOUT, seen_from=None)]
    assert outside == [
        "ip route replace 10.133.17.0/24 via 10.133.0.11",
        "ip route replace 10.133.18.0/24 via 10.133.0.12",
        "ip route replace 10.133.240.0/20 via 10.133.0.11",
    ]
    at_first = [" ".join(command) for command in network.routes(LAYOUT, seen_from=FIRST)]
    assert at_first == ["ip route replace 10.133.18.0/24 via 10.133.0.12"]


def test_kubelet_never_evicts_for_the_disk_nor_collects_images_and_accepts_version_1_groups() -> None:
    configuration = settings.kubelet(SECOND)
    assert configuration["imageGCHighThresholdPercent"] == 100
    assert configuration["evictionHard"]["nodefs.available"] == "0%"
    assert configuration["failCgroupV1"] is False
    assert configuration["cgroupRoot"] == "/prfaas-demo-node-2"
    assert configuration["clusterDNS"] == ["10.133.240.10"]
    assert configuration["authentication"]["anonymous"]["enabled"] is False


def test_containerd_has_everything_of_a_node_in_the_nodes_own_folder() -> None:
    configuration = tomllib.loads(settings.containerd(SECOND, Path("/programs/cni")))
    runtime = configuration["plugins"]["io.containerd.grpc.v1.cri"]
    assert runtime["sandbox_image"] == settings.PAUSE_IMAGE
    # Elsewhere, namespaces of pods would outlive the node.
    assert runtime["netns_mounts_under_state_dir"] is True
    paths = [configuration["root"], configuration["state"], configuration["grpc"]["address"],
             runtime["cni"]["conf_dir"]]  # fmt: skip
    assert all(Path(path).is_relative_to(SECOND.folder) for path in paths)
    assert runtime["cni"]["bin_dir"] == "/programs/cni"


def test_pods_have_addresses_of_their_nodes_network_and_no_bridge() -> None:
    cable, ports = settings.cni(SECOND)["plugins"]
    assert cable["type"] == "ptp"
    assert cable["ipam"]["ranges"] == [[{"subnet": "10.133.18.0/24"}]]
    # Without the capability the runtime tells nobody of hostPort.
    assert (ports["type"], ports["capabilities"]) == ("portmap", {"portMappings": True})


def test_every_network_program_that_nodes_name_is_built() -> None:
    plugins = settings.cni(SECOND)["plugins"]
    named = {plugin["type"] for plugin in plugins} | {plugins[0]["ipam"]["type"], "loopback"}
    (module,) = [module for module in assets.MODULES if "portmap" in module.programs]
    assert named == set(module.programs)
    assert named <= set(PROGRAMS)


def test_programs_of_a_cluster_with_and_without_fake_nodes() -> None:
    programs = {
        name: Path("/programs") / name
        for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet",
                     "kube-proxy", "kwok")
    }  # fmt: skip
    plain = parts.control_plane_parts(LAYOUT, programs, [])
    assert [part.name for part in plain] == [
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
    ]  # fmt: skip
    server = plain[1]
    assert server.command[0] == "/programs/kube-apiserver"
    assert "--service-cluster-ip-range=10.133.240.0/20" in server.arguments
    assert "--authorization-mode=Node,RBAC" in server.arguments
    *_, kwok = parts.control_plane_parts(LAYOUT, programs, [Path("/s/a.yaml"), Path("/s/b.yaml")])
    assert kwok.arguments[-2:] == ("--config=/s/a.yaml", "--config=/s/b.yaml")
    assert "--manage-all-nodes=false" in kwok.arguments
    kubelet, proxy = parts.node_parts(SECOND, programs)
    assert (kubelet.name, kubelet.sandbox) == ("node-2-kubelet", "node-2")
    assert "--hostname-override=demo-node-2" in kubelet.arguments
    assert proxy.arguments == (f"--config={SECOND.folder}/kube-proxy.yaml",)


def test_the_dns_service_has_the_address_that_kubelets_give_to_pods() -> None:
    objects = {(each["kind"], each["metadata"]["name"]): each for each in manifests.dns(LAYOUT)}
    service, deployment = objects["Service", "kube-dns"], objects["Deployment", "coredns"]
    assert [service["spec"]["clusterIP"]] == settings.kubelet(FIRST)["clusterDNS"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels


def test_only_pods_that_tolerate_it_come_to_a_fake_node() -> None:
    node = manifests.fake_node(7)
    assert node["metadata"]["annotations"] == {settings.FAKE_NODE_ANNOTATION: "fake"}
    assert [taint["effect"] for taint in node["spec"]["taints"]] == ["NoSchedule"]


@pytest.mark.parametrize(
    ("count", "roles"), [(1, ["control-plane"]), (3, ["control-plane", "worker", "worker"])]
)
def test_nodes_that_kind_is_asked_for(count: int, roles: list[str]) -> None:
    configuration = yaml.safe_load(kind.configuration(count))
    assert [node["role"] for node in configuration["nodes"]] == roles


def test_command_lines_of_kind() -> None:
    assert kind.create_command("a", Path("/k")) == [
        "kind", "create", "cluster", "--name", "a", "--kubeconfig", "/k", "--wait", "180s", "--config", "-",
    ]  # fmt: skip
    assert kind.load_command("a", Path("/i.tar")) == [
        "kind",
        "load",
        "image-archive",
        "/i.tar",
        "--name",
        "a",
    ]
    assert kind.export_command("a", Path("/k"))[:3] == ["kind", "export", "kubeconfig"]


def test_an_existing_cluster_is_the_first_one_that_kubeconfig_names(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.touch()
    assert existing.kubeconfig_of_user({"KUBECONFIG": f"{config}:/elsewhere"}) == config
    with pytest.raises(ClusterError, match="there is no kubeconfig /elsewhere: set KUBECONFIG"):
        existing.kubeconfig_of_user({"KUBECONFIG": "/elsewhere"})
    with pytest.raises(ClusterError, match="push it to a registry"):
        existing.load_image(Record("a", "existing", str(config)), Path("image.tar"))


def test_a_shell_gets_what_it_needs_with_any_path() -> None:
    record = Record("demo", "bare", "/home/a b/kubeconfig")
    assert environment(record, Path("/pro grams")) == [
        "export KUBECONFIG='/home/a b/kubeconfig'",
        "export PRFAAS_CLUSTER_NAME=demo",
        "export PATH='/pro grams':\"$PATH\"",
    ]


def test_status_names_what_ended_and_how_to_mend_it() -> None:
    seen = {
        "name": "demo",
        "provider": "bare",
        "kubeconfig": "/k",
        "problem": None,
        "nodes": [{"name": "n1", "ready": True}, {"name": "n2", "ready": False}],
        "programs": [
            {"name": "etcd", "pid": 5, "log": "/l/etcd.log"},
            {"name": "kwok", "pid": None, "log": "/l/kwok.log"},
        ],
    }
    lines = table(seen)
    assert "nodes       1 of 2 Ready" in lines
    assert "  not Ready n2" in lines
    assert "program     kwok: ENDED; see /l/kwok.log" in lines
    assert lines[-1] == "mend it     prfaas cluster up --name demo"


def test_the_libraries_of_a_program_are_files_and_not_what_the_kernel_gives() -> None:
    listed = (
        "\tlinux-vdso.so.1 (0x00007f3f9db69000)\n"
        "\tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f3f9da73000)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f3f9db6b000)\n"
    )
    assert [str(path) for path in kv_proxy.libraries(listed)] == [
        "/lib/x86_64-linux-gnu/libssl.so.3",
        "/lib64/ld-linux-x86-64.so.2",
    ]
