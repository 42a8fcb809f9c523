"""Gives the prefill engine more of the shared CPU, by the best means that this system allows.

This stands for better prefill hardware in the other region. The two engines still use the same cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
ROLES = ("prefill", "decode")
PREFILL_SHARES = 4096
DECODE_SHARES = 1024
PREFILL_WEIGHT = 400
DECODE_WEIGHT = 100
DECODE_NICE = 5
# The kernel's table of weights: each step of niceness is a factor of about 1.25.
_NICE_FACTOR = 1.25


@dataclass(frozen=True)
class CpuShares:
    """How the CPU is divided.

    Attributes:
        means: "cgroup v1", "cgroup v2" or "nice".
        ratio: the prefill engine's part over the decode engine's while both compute.
        folders: control groups to move processes into, by "prefill" and "decode"; empty with "nice".
    """

    means: str
    ratio: float
    folders: Mapping[str, Path] = field(default_factory=dict)

    def apply(self, role: str, pid: int) -> None:
        """Put a process that has just been started under its share. One that has ended needs none."""
        with suppress(ProcessLookupError):
            if self.folders:
                (self.folders[role] / "cgroup.procs").write_text(str(pid))
            elif role == "decode":
                os.setpriority(os.PRIO_PROCESS, pid, DECODE_NICE)

    def describe(self) -> str:
        """One sentence for the user."""
        how = {
            "cgroup v1": f"cpu.shares {PREFILL_SHARES} : {DECODE_SHARES}",
            "cgroup v2": f"cpu.weight {PREFILL_WEIGHT} : {DECODE_WEIGHT}",
            "nice": f"the decode engine at niceness {DECODE_NICE}, since control groups cannot be made here",
        }[self.means]
        return f"while both compute, prefill gets about {self.ratio:.0f} times the CPU of decode ({how})"


def claim(name: str, root: Path = CGROUPS) -> CpuShares:
    """Make control groups called after `name` where that is allowed. `remove` takes them away again."""
    for means, parent, setting, values in (
        ("cgroup v1", _own_group_v1(root), "cpu.shares", (PREFILL_SHARES, DECODE_SHARES)),
        ("cgroup v2", _own_group_v2(root), "cpu.weight", (PREFILL_WEIGHT, DECODE_WEIGHT)),
    ):
        if parent is None:
            continue
        folders = {role: parent / f"{name}-{role}" for role in ROLES}
        try:
            for folder, value in zip(folders.values(), values, strict=True):
                folder.mkdir()
                (folder / setting).write_text(str(value))
        except OSError:
            remove(folders.values())
            continue
        return CpuShares(means, values[0] / values[1], folders)
    return CpuShares("nice", _NICE_FACTOR**DECODE_NICE)


def possible_folders(name: str, root: Path = CGROUPS) -> list[Path]:
    """Every control group that `claim` can have made for `name`."""
    parents = [parent for parent in (_own_group_v1(root), _own_group_v2(root)) if parent is not None]
    return [parent / f"{name}-{role}" for parent in parents for role in ROLES]


def remove(folders: Iterable[Path]) -> None:
    """Remove control groups; those that still hold a process stay."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _own_group_v1(root: Path) -> Path | None:
    return _own_group(root / "cpu", "cpu") or _own_group(root / "cpu,cpuacct", "cpu")


def _own_group_v2(root: Path) -> Path | None:
    own = _own_group(root, "")
    if own is None:
        return None
    try:
        offered = (own / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    return own if "cpu" in offered else None


def _own_group(mount: Path, controller: str) -> Path | None:
    """The control group of this process in the hierarchy of a controller ("" for version 2)."""
    if not mount.is_dir():
        return None
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else controllers == "":
            folder = mount / path.lstrip("/")
            # In a container the path may be the host's, which is not mounted here.
            return folder if folder.is_dir() else mount
    return None
