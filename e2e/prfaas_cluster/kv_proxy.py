"""The region's proxy for KV in clusters that know no registry: an image of the machine's own HAProxy."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from prfaas_cluster import providers
from prfaas_cluster.bare.cluster import layout_of
from prfaas_cluster.bare.layout import cluster_folder
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.oci import File, host_files, write_image
from prfaas_setup import system

PROXY_IMAGE = "localhost/prfaas-haproxy:1"
_LDD_SECONDS = 20.0


def kv_proxy_values(name: str) -> dict[str, Any]:
    """Load the proxy's image into a bare cluster. Returns the chart's values to run it there.

    What is left to set is `federation.kvProxyAddress`: the address of its Service, once that is there.

    Raises:
        ClusterError: there is no such cluster, or it is not a bare one.
        SetupError: HAProxy is missing and cannot be installed here.
    """
    record = providers.known(name)
    if record.provider != "bare":
        raise ClusterError(f"{name} is of provider {record.provider}, which takes HAProxy from a registry")
    system.ensure(system.PROXY_NEEDS)
    archive = cluster_folder(record.name) / "haproxy-image.tar"
    write_image(
        archive, PROXY_IMAGE, host_files() | _program_files(Path(shutil.which("haproxy") or "haproxy"))
    )
    providers.load_image(record.name, archive)
    return {
        "kvProxy": {
            "enabled": True,
            "image": PROXY_IMAGE,
            "podNetworks": [str(node.pods_network) for node in layout_of(record).nodes],
            "replicas": 1,
            "service": {"type": "ClusterIP"},
        }
    }


def libraries(ldd_output: str) -> list[Path]:
    """The files that `ldd` names, the loader included."""
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", ldd_output)]


def _program_files(program: Path) -> dict[str, File]:
    listed = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, timeout=_LDD_SECONDS, check=True
    ).stdout
    needed = {str(path).removeprefix("/"): File(0o755, source=path) for path in libraries(listed)}
    return {f"usr/bin/{program.name}": File(0o755, source=program), **needed}
