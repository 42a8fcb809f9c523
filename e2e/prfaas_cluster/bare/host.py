"""What a cluster changes on the machine itself, outside its namespaces, and how that is put back."""

from __future__ import annotations

import json
from pathlib import Path

from prfaas_cluster.bare.layout import clusters_folder

# Kubelets set these for the whole machine.
SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
# Paths that kubelet and containerd's CNI have built in. Each node has its own folder in their place.
PRIVATE_FOLDERS = (Path("/var/lib/kubelet"), Path("/var/lib/cni"))


def record_file() -> Path:
    return clusters_folder() / "machine.json"


def remember(proc: Path = Path("/proc/sys"), folders: tuple[Path, ...] = PRIVATE_FOLDERS) -> None:
    """Write down how the machine is, unless a cluster that may have changed it is there already."""
    if record_file().is_file():
        return
    record = {
        "settings": {name: (proc / name).read_text().strip() for name in SETTINGS},
        "made": [str(folder) for folder in folders if not folder.exists()],
    }
    record_file().parent.mkdir(parents=True, exist_ok=True)
    fresh = record_file().with_suffix(".new")
    fresh.write_text(json.dumps(record))
    fresh.replace(record_file())
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def restore(proc: Path = Path("/proc/sys")) -> list[str]:
    """Put everything back; for when the last cluster is gone. Returns a line for each thing done."""
    if not record_file().is_file():
        return []
    record = json.loads(record_file().read_text())
    done = []
    for name, value in record["settings"].items():
        if (proc / name).read_text().strip() != value:
            (proc / name).write_text(value)
            done.append(f"set {name.replace('/', '.')} back to {value}")
    for folder in map(Path, record["made"]):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            done.append(f"removed the empty {folder}")
    record_file().unlink()
    return done
