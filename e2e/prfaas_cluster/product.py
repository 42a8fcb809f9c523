"""This checkout's own images in a cluster, and an example fleet on the project's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prfaas_cluster import engine_pods, providers
from prfaas_cluster.bare.layout import cluster_folder
from prfaas_cluster.oci import File, write_image
from prfaas_setup.images import ensure_images

HOST_IMAGE = "localhost/prfaas-host:1"
_PASSWD = b"root:x:0:0:root:/scratch:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_MOUNT_POINTS = ("tmp", "scratch")
_VALUES_OF_PARTS = {
    "operator": ("operator", "image"),
    "gateway": ("gateway", "image"),
    "sidecar": ("pools", "sidecar"),
    "connector": ("pools", "connector"),
}


def load_product(name: str) -> dict[str, Any]:
    """Build the project's images, load them into a cluster, and say which values the chart needs for them.

    Raises:
        ClusterError: there is no such cluster, or it does not take an image.
        SetupError: an image cannot be built here.
    """
    record = providers.known(name)
    values: dict[str, Any] = {}
    for part, image in ensure_images().items():
        providers.load_image(record.name, image.archive)
        section, field = _VALUES_OF_PARTS[part]
        repository, _, tag = image.reference.rpartition(":")
        registry, _, short_name = repository.rpartition("/")
        values.setdefault("image", {})["registry"] = registry
        values.setdefault(section, {})[field] = {"repository": short_name, "tag": tag}
    return values


def load_host_image(name: str) -> str:
    """Load the almost empty image in which the machine's own programs run. Returns its reference."""
    record = providers.known(name)
    archive: Path = cluster_folder(record.name) / "host-image.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = {"etc/passwd": File(content=_PASSWD), "etc/group": File(content=b"root:x:0:\n")}
    folders = {f"{point}/.keep": File(content=b"") for point in _MOUNT_POINTS}
    write_image(archive, HOST_IMAGE, files | folders)
    providers.load_image(record.name, archive)
    return HOST_IMAGE


def federation_values(name: str, namespace: str) -> dict[str, Any]:
    """The chart's values with which a hub may place the example's pods in this cluster."""
    host = engine_pods.EngineHost.of_this_machine(load_host_image(name))
    return {
        "federation": {
            "allowedNamespaces": [namespace],
            "allowedHostPaths": [str(folder) for folder in host.folders()],
        }
    }


def example_fleet(
    name: str, namespace: str, *, prefill_in: str | None = None, decode_in: str | None = None
) -> list[dict[str, Any]]:
    """The namespace, a pool of each kind and a route, on this machine's own engine."""
    host = engine_pods.EngineHost.of_this_machine(load_host_image(name))
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        *engine_pods.example(host, namespace, prefill_in=prefill_in, decode_in=decode_in),
    ]
