"""Flags and configuration files of every component, as functions of the cluster's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prfaas_cluster.bare.layout import (
    API_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    Layout,
    Node,
)

PAUSE_IMAGE = "prfaas.local/pause:1"
HOST_IMAGE = "prfaas.local/host:1"
DNS_IMAGE = "prfaas.local/coredns:1"
CLUSTER_DOMAIN = "cluster.local"
FAKE_NODE_ANNOTATION = "kwok.x-k8s.io/node"
MOST_PODS = 110

# They need kernel modules or tools, look for them at start, and warn.
_UNUSED_PLUGINS = (
    "internal.v1.opt",
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.devmapper",
    "snapshotter.v1.zfs",
    "tracing.processor.v1.otlp",
)

Flags = dict[str, str]


def command(program: Path, flags: Mapping[str, str]) -> list[str]:
    """A command line with long flags."""
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]


def etcd(layout: Layout) -> Flags:
    """Its ports are in the control plane's own network, where nobody else takes any."""
    return {
        "data-dir": str(layout.folder / "etcd"),
        "listen-client-urls": f"http://127.0.0.1:{ETCD_PORT}",
        "advertise-client-urls": f"http://127.0.0.1:{ETCD_PORT}",
        "listen-peer-urls": f"http://127.0.0.1:{ETCD_PEER_PORT}",
        "initial-advertise-peer-urls": f"http://127.0.0.1:{ETCD_PEER_PORT}",
        "initial-cluster": f"default=http://127.0.0.1:{ETCD_PEER_PORT}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }


def api_server(layout: Layout) -> Flags:
    keys = layout.folder / "pki"
    return {
        "etcd-servers": f"http://127.0.0.1:{ETCD_PORT}",
        "advertise-address": str(layout.control_plane_address),
        "secure-port": str(API_PORT),
        "cert-dir": str(keys),
        "tls-cert-file": str(keys / "api-server.crt"),
        "tls-private-key-file": str(keys / "api-server.key"),
        "client-ca-file": str(keys / "ca.crt"),
        "kubelet-certificate-authority": str(keys / "ca.crt"),
        "kubelet-client-certificate": str(keys / "api-server-to-kubelet.crt"),
        "kubelet-client-key": str(keys / "api-server-to-kubelet.key"),
        # Nodes are known by name in no DNS.
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "service-account-key-file": str(keys / "service-accounts.key"),
        "service-account-signing-key-file": str(keys / "service-accounts.key"),
        "service-cluster-ip-range": str(layout.services_network),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        # Servers behind an APIService, such as one for metrics.
        "requestheader-client-ca-file": str(keys / "front-proxy-ca.crt"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": str(keys / "front-proxy-client.crt"),
        "proxy-client-key-file": str(keys / "front-proxy-client.key"),
        "profiling": "false",
    }


def controller_manager(layout: Layout) -> Flags:
    keys = layout.folder / "pki"
    return {
        **_with_kubeconfig(layout, "controller-manager"),
        "cert-dir": str(keys / "controller-manager"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": str(keys / "service-accounts.key"),
        "root-ca-file": str(keys / "ca.crt"),
        "cluster-signing-cert-file": str(keys / "ca.crt"),
        "cluster-signing-key-file": str(keys / "ca.key"),
        # Addresses of pods are the nodes' own matter here.
        "allocate-node-cidrs": "false",
        "leader-elect": "false",
        # 15 s by default, which tests of autoscaling would spend waiting.
        "horizontal-pod-autoscaler-sync-period": "3s",
        "profiling": "false",
    }


def scheduler(layout: Layout) -> Flags:
    return {
        **_with_kubeconfig(layout, "scheduler"),
        "cert-dir": str(layout.folder / "pki" / "scheduler"),
        "leader-elect": "false",
        "profiling": "false",
    }


def kwok(layout: Layout, stages: list[Path]) -> list[str]:
    """Arguments of kwok, which takes its configuration flag several times."""
    flags = {
        "kubeconfig": str(layout.folder / "kwok.kubeconfig"),
        "manage-all-nodes": "false",
        "manage-nodes-with-annotation-selector": f"{FAKE_NODE_ANNOTATION}=fake",
        "node-lease-duration-seconds": "40",
        "cidr": "10.0.0.1/24",
    }
    configured = [f"--config={stage}" for stage in stages]
    return [*(f"--{name}={value}" for name, value in flags.items()), *configured]


def kubelet_flags(node: Node) -> Flags:
    return {
        "config": str(node.folder / "kubelet.yaml"),
        "kubeconfig": str(node.folder / "kubelet.kubeconfig"),
        "hostname-override": node.name,
        "node-ip": str(node.address),
        "node-labels": f"kubernetes.io/hostname={node.name}",
    }


def kubelet(node: Node) -> dict[str, Any]:
    """A KubeletConfiguration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.cluster.folder / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(node.folder / "kubelet.crt"),
        "tlsPrivateKeyFile": str(node.folder / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{node.runtime_socket}",
        "clusterDNS": [str(node.cluster.dns_address)],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(node.folder / "resolv.conf"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.group}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "maxPods": MOST_PODS,
        # How soon a changed Secret is in the pods; a minute by default, which tests would wait for.
        "syncFrequency": "10s",
        # Images come from files and not from a registry: one that was collected would not come back.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "24h",
        # The disk is a developer's, and its state says nothing about the pods.
        "evictionHard": {
            "imagefs.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "memory.available": "100Mi",
        },
    }


def containerd(node: Node, network_programs: Path) -> str:
    """containerd's configuration, version 2 of its format. The folder has the programs that `cni` names."""
    disabled = ", ".join(f'"io.containerd.{name}"' for name in _UNUSED_PLUGINS)
    return f"""version = 2
root = "{node.folder}/containerd"
state = "{node.folder}/containerd-state"
oom_score = 0
disabled_plugins = [{disabled}]

[grpc]
  address = "{node.runtime_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root in a container or a restricted machine may not lower the score of its processes.
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{network_programs}"
    conf_dir = "{node.folder}/cni"
"""


def cni(node: Node) -> dict[str, Any]:
    """A cable for every pod and no bridge: packets to Services are routed, and kube-proxy sees them all.

    Ports of the node (`hostPort`) are translated by nftables, as Services are: kernels without the modules
    of iptables have that alone.
    """
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.folder / "addresses"),
                    "ranges": [[{"subnet": str(node.pods_network)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": True}},
        ],
    }


def kube_proxy(node: Node) -> dict[str, Any]:
    """A KubeProxyConfiguration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(node.cluster.folder / "kube-proxy.kubeconfig")},
        "hostnameOverride": node.name,
        "mode": "nftables",
        "clusterCIDR": str(node.cluster.pods_network),
        # The machine's limits of connection tracking are not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nodePortAddresses": ["primary"],
    }


def _with_kubeconfig(layout: Layout, name: str) -> Flags:
    path = str(layout.folder / f"{name}.kubeconfig")
    return {
        "kubeconfig": path,
        "authentication-kubeconfig": path,
        "authorization-kubeconfig": path,
    }
