"""The programs that a cluster runs, where, and with which arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_cluster.bare import settings
from prfaas_cluster.bare.layout import CONTROL_PLANE, Layout, Node


@dataclass(frozen=True)
class Part:
    """One program.

    Attributes:
        sandbox: the sandbox that it runs in, by name.
    """

    name: str
    sandbox: str
    program: Path
    arguments: tuple[str, ...]
    log: Path

    @property
    def command(self) -> list[str]:
        return [str(self.program), *self.arguments]


def control_plane_parts(layout: Layout, programs: Mapping[str, Path], stages: Sequence[Path]) -> list[Part]:
    """etcd and the API server come first; kwok only where there are stages, that is, fake nodes."""
    flags = {
        "etcd": settings.etcd(layout),
        "kube-apiserver": settings.api_server(layout),
        "kube-controller-manager": settings.controller_manager(layout),
        "kube-scheduler": settings.scheduler(layout),
    }
    parts = [
        _part(layout, name, CONTROL_PLANE, programs[name], settings.command(programs[name], chosen)[1:])
        for name, chosen in flags.items()
    ]
    if stages:
        arguments = settings.kwok(layout, list(stages))
        parts.append(_part(layout, "kwok", CONTROL_PLANE, programs["kwok"], arguments))
    return parts


def runtime_part(node: Node, containerd: Path) -> Part:
    arguments = ["--config", str(node.folder / "containerd.toml")]
    return _part(node.cluster, f"{node.sandbox}-containerd", node.sandbox, containerd, arguments)


def node_parts(node: Node, programs: Mapping[str, Path]) -> list[Part]:
    """What makes a node of a sandbox with a running containerd."""
    kubelet = settings.command(programs["kubelet"], settings.kubelet_flags(node))[1:]
    proxy = [f"--config={node.folder / 'kube-proxy.yaml'}"]
    return [
        _part(node.cluster, f"{node.sandbox}-kubelet", node.sandbox, programs["kubelet"], kubelet),
        _part(node.cluster, f"{node.sandbox}-kube-proxy", node.sandbox, programs["kube-proxy"], proxy),
    ]


def _part(layout: Layout, name: str, sandbox: str, program: Path, arguments: Sequence[str]) -> Part:
    return Part(name, sandbox, program, tuple(arguments), layout.folder / "logs" / f"{name}.log")
