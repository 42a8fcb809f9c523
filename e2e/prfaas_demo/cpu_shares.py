"""Gives the prefill engine more of the shared CPU, by the best means that this system allows.

This stands for better prefill hardware in the other region. The two engines still use the same cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prfaas_wan.processes import process_ids

CGROUPS = Path("/sys/fs/cgroup")
NAME_PREFIX = "prfaas-demo-"
ROLES = ("prefill", "decode")
_SETTINGS = {
    "cgroup v1": ("cpu.shares", {"prefill": 4096, "decode": 1024}),
    "cgroup v2": ("cpu.weight", {"prefill": 400, "decode": 100}),
}
DECODE_NICE = 5
# The kernel's table of weights: each step of niceness is a factor of about 1.25.
_NICE_FACTOR = 1.25


@dataclass(frozen=True)
class CpuShares:
    """How the CPU is divided.

    Attributes:
        means: "cgroup v1", "cgroup v2" or "nice".
        ratio: the prefill engine's part over the decode engine's while both compute.
        folders: control groups by "prefill" and "decode"; empty with "nice".
    """

    means: str
    ratio: float
    folders: Mapping[str, Path] = field(default_factory=dict)

    def enter(self, role: str, pid: int) -> None:
        """Put a process that has just been started where its share will be. One that has ended needs none."""
        if self.folders:
            with suppress(ProcessLookupError):
                (self.folders[role] / "cgroup.procs").write_text(str(pid))

    def divide(self, decode_pid: int) -> None:
        """From now on the shares are unequal; before, both engines started at the same pace.

        Args:
            decode_pid: the decode engine's first process, for where there are no control groups.
        """
        for role, folder in self.folders.items():
            setting, values = _SETTINGS[self.means]
            (folder / setting).write_text(str(values[role]))
        if not self.folders:
            for pid in [decode_pid, *descendants(decode_pid)]:
                for thread in _threads(pid):
                    with suppress(ProcessLookupError):
                        os.setpriority(os.PRIO_PROCESS, thread, DECODE_NICE)

    def describe(self) -> str:
        """One sentence for the user."""
        if not self.folders:
            how = f"the decode engine at niceness {DECODE_NICE}, since control groups cannot be made here"
        else:
            setting, values = _SETTINGS[self.means]
            how = f"{setting} {values['prefill']} : {values['decode']}"
        return f"while both compute, prefill gets about {self.ratio:.0f} times the CPU of decode ({how})"


def claim(name: str, root: Path = CGROUPS) -> CpuShares:
    """Make control groups called after `name` where that is allowed. `remove` takes them away again."""
    for means, parent in (("cgroup v1", _own_group_v1(root)), ("cgroup v2", _own_group_v2(root))):
        if parent is None:
            continue
        _remove_forgotten(parent)
        setting, values = _SETTINGS[means]
        folders = {role: parent / f"{name}-{role}" for role in ROLES}
        try:
            for folder in folders.values():
                folder.mkdir()
                # Rather now than when the engines run.
                (folder / setting).write_text(str(values["decode"]))
        except OSError:
            remove(folders.values())
            continue
        return CpuShares(means, values["prefill"] / values["decode"], folders)
    return CpuShares("nice", _NICE_FACTOR**DECODE_NICE)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for each in process_ids():
        with suppress(OSError):
            parent = int(Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(each)
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, ())]
        found += new
    return found


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def possible_folders(name: str, root: Path = CGROUPS) -> list[Path]:
    """Every control group that `claim` can have made for `name`."""
    parents = [parent for parent in (_own_group_v1(root), _own_group_v2(root)) if parent is not None]
    return [parent / f"{name}-{role}" for parent in parents for role in ROLES]


def remove(folders: Iterable[Path]) -> None:
    """Remove control groups; those that still hold a process stay."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _remove_forgotten(parent: Path) -> None:
    """Control groups of demos that were killed with their janitor; names hold the demo's process id."""
    for folder in parent.glob(f"{NAME_PREFIX}*-*-*"):
        pid = folder.name.removeprefix(NAME_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove([folder])


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
