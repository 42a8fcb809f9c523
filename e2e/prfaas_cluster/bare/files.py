"""Writes a cluster's certificates, kubeconfigs and component configurations."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from prfaas_cluster import assets, oci, pki
from prfaas_cluster.bare import settings
from prfaas_cluster.bare.layout import Layout, Node
from prfaas_cluster.kubeconfig import kubeconfig, write_kubeconfig

_ADMIN_GROUP = "system:masters"
_CLIENTS = {
    "controller-manager": "system:kube-controller-manager",
    "scheduler": "system:kube-scheduler",
    "kube-proxy": "system:kube-proxy",
}


def write_cluster_files(layout: Layout) -> pki.Authority:
    """Certificates and kubeconfigs of the control plane. A cluster that has them keeps them."""
    keys = layout.folder / "pki"
    if (keys / "complete").is_file():
        pair = pki.Pair((keys / "ca.crt").read_bytes(), (keys / "ca.key").read_bytes())
        return pki.Authority.restore(pair)
    for folder in (keys, layout.folder / "etcd", layout.folder / "logs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = pki.Authority.new(f"prfaas {layout.name}")
    authority.pair.write(keys, "ca")
    names = [
        str(layout.control_plane_address), str(layout.api_service_address), "127.0.0.1", "localhost",
        "kubernetes", "kubernetes.default", "kubernetes.default.svc",
        f"kubernetes.default.svc.{settings.CLUSTER_DOMAIN}",
    ]  # fmt: skip
    authority.server("kube-apiserver", names).write(keys, "api-server")
    authority.client("api-server-to-kubelet", [_ADMIN_GROUP]).write(keys, "api-server-to-kubelet")
    front_proxy = pki.Authority.new(f"prfaas {layout.name} front proxy")
    (keys / "front-proxy-ca.crt").write_bytes(front_proxy.pem)
    front_proxy.client("front-proxy-client").write(keys, "front-proxy-client")
    pki.write_secret(keys / "service-accounts.key", pki.signing_key())
    for name, user in _CLIENTS.items():
        _write_client(layout, authority, layout.folder / f"{name}.kubeconfig", user)
    _write_client(layout, authority, layout.folder / "kwok.kubeconfig", "kwok", _ADMIN_GROUP)
    _write_client(layout, authority, layout.kubeconfig, "admin", _ADMIN_GROUP)
    (keys / "complete").touch()
    return authority


def write_node_files(node: Node, authority: pki.Authority) -> None:
    """Certificates and configurations of one node."""
    own = ("cni", "containerd", "containerd-state", "volume-plugins")
    for folder in (*(node.folder / name for name in own), *private_folders(node).values()):
        folder.mkdir(parents=True, exist_ok=True)
    if not (node.folder / "kubelet.crt").is_file():
        user, names = f"system:node:{node.name}", [node.name, str(node.address)]
        authority.server(user, names, ["system:nodes"]).write(node.folder, "kubelet")
        _write_client(node.cluster, authority, node.folder / "kubelet.kubeconfig", user, "system:nodes")
    texts = {
        "kubelet.yaml": yaml.safe_dump(settings.kubelet(node)),
        "kube-proxy.yaml": yaml.safe_dump(settings.kube_proxy(node)),
        "containerd.toml": settings.containerd(node, assets.program("ptp").parent),
        "cni/10-pods.conflist": json.dumps(settings.cni(node)),
        "resolv.conf": "# Nothing leads out of this cluster.\n",
    }
    for name, text in texts.items():
        path = node.folder / name
        # kube-proxy ends when its file is touched.
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def private_folders(node: Node) -> dict[str, Path]:
    """Paths that programs have built in, and the node's own folder that lies there inside its sandbox."""
    return {
        "/var/lib/kubelet": node.folder / "kubelet",
        "/var/lib/cni": node.folder / "cni-cache",
        "/var/log": node.folder / "log",
    }


def image_archives(layout: Layout) -> list[Path]:
    """Images that every node has: pause, DNS, and one for programs of the machine."""
    folder = layout.folder / "images"
    folder.mkdir(exist_ok=True)
    pause = {"pause": oci.File(0o755, source=assets.program("pause"))}
    oci.write_image(
        folder / "pause.tar", settings.PAUSE_IMAGE, pause, entrypoint=["/pause"], user="65534:65534"
    )
    oci.write_image(folder / "host.tar", settings.HOST_IMAGE, oci.host_files())
    coredns = assets.program("coredns")
    # Large, and the same for every cluster.
    dns = coredns.with_name("coredns.tar")
    if not dns.is_file():
        files = {"coredns": oci.File(0o755, source=coredns)}
        oci.write_image(dns, settings.DNS_IMAGE, files, entrypoint=["/coredns"])
    return [folder / "pause.tar", folder / "host.tar", dns]


def _write_client(layout: Layout, authority: pki.Authority, path: Path, user: str, *groups: str) -> None:
    client = authority.client(user, groups)
    write_kubeconfig(path, kubeconfig(layout.name, layout.url, authority.pem, user, client))
