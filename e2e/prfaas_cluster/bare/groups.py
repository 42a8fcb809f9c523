"""Control groups below which kubelets make those of pods; version 1 (a tree per controller) and 2."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from prfaas_cluster.bare.layout import GROUP_PREFIX
from prfaas_cluster.errors import ClusterError

ROOT = Path("/sys/fs/cgroup")
END_SECONDS = 15.0
POLL_SECONDS = 0.05
# What a kubelet counts or limits.
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def hierarchies(root: Path = ROOT, mounts: str | None = None) -> list[Path]:
    """The trees that groups are made in.

    Args:
        mounts: the text of /proc/mounts.
    """
    return [root] if is_unified(root) else _mounted("cgroup", mounts)


def is_unified(root: Path = ROOT) -> bool:
    """Whether the machine has control groups version 2 alone."""
    return (root / "cgroup.controllers").is_file()


def make_group(name: str, root: Path = ROOT, mounts: str | None = None) -> None:
    """Make a group in every tree, with the controllers that pods need.

    Raises:
        ClusterError: this machine doesn't let us.
    """
    try:
        for tree in hierarchies(root, mounts):
            (tree / name).mkdir(exist_ok=True)
            # A cpuset of version 1 starts without CPUs, and nothing can enter it.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not is_unified(root) and (tree / name / file).is_file():
                    (tree / name / file).write_text((tree / file).read_text())
        if is_unified(root):
            offered = (root / "cgroup.controllers").read_text().split()
            for each in (name for name in CONTROLLERS if name in offered):
                (root / "cgroup.subtree_control").write_text(f"+{each}")
                (root / name / "cgroup.subtree_control").write_text(f"+{each}")
    except OSError as error:
        raise ClusterError(f"control groups for pods can't be made: {error}") from error


def groups_of(cluster: str | None = None, root: Path = ROOT, mounts: str | None = None) -> list[Path]:
    """Groups of a cluster's nodes, or of all clusters' nodes, in every tree."""
    prefix = GROUP_PREFIX if cluster is None else f"{GROUP_PREFIX}{cluster}-node-"
    # Beside trees of version 1 there can be one of version 2, where runc makes groups too.
    trees = {*hierarchies(root, mounts), *_mounted("cgroup2", mounts)}
    return sorted(
        path for tree in trees for path in tree.glob(f"{prefix}*") if path.is_dir() and "-node-" in path.name
    )


def remove_groups(groups: Iterable[Path], within_seconds: float = END_SECONDS) -> None:
    """Remove groups whose processes have ended, with all groups below them.

    Raises:
        ClusterError: one still has processes.
    """
    deadline = time.monotonic() + within_seconds
    for group in groups:
        while not _removed(group):
            if time.monotonic() > deadline:
                raise ClusterError(f"the control group {group} still has processes")
            time.sleep(POLL_SECONDS)


def _mounted(kind: str, mounts: str | None) -> list[Path]:
    lines = (mounts if mounts is not None else Path("/proc/mounts").read_text()).splitlines()
    return sorted(Path(words[1]) for line in lines if (words := line.split())[2] == kind)


def _removed(group: Path) -> bool:
    below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, group):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            # Its last process has not been collected yet.
            return False
    return True
