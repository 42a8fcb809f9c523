"""A pod for trying a cluster out: two web servers by the machine's own Python, one as a native sidecar."""

from __future__ import annotations

from typing import Any

from prfaas_cluster.bare.settings import HOST_IMAGE

FOLDERS = ("usr", "lib", "lib64", "bin")
MAIN_PORT = 8000
SIDECAR_PORT = 8001


def web_pod(name: str, **spec: Any) -> dict[str, Any]:
    """The pod, labelled `app` with its name."""
    sidecar = _server("sidecar", SIDECAR_PORT)
    sidecar |= {"restartPolicy": "Always", "startupProbe": _probe(SIDECAR_PORT)}
    main = _server("main", MAIN_PORT)
    main |= {
        "readinessProbe": _probe(MAIN_PORT),
        "resources": {"limits": {"memory": "100Mi", "cpu": "500m"}},
    }
    volumes = [
        {"name": folder, "hostPath": {"path": f"/{folder}", "type": "Directory"}} for folder in FOLDERS
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [sidecar],
            "containers": [main],
            "volumes": volumes,
            **spec,
        },
    }


def service(name: str) -> dict[str, Any]:
    """A Service in front of `web_pod(name)`, on port 80."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": MAIN_PORT}]},
    }


def _server(name: str, port: int) -> dict[str, Any]:
    mounts = [{"name": folder, "mountPath": f"/{folder}", "readOnly": True} for folder in FOLDERS]
    return {
        "name": name,
        "image": HOST_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-m", "http.server", str(port), "--directory", "/tmp"],  # noqa: S108
        "volumeMounts": mounts,
    }


def _probe(port: int) -> dict[str, Any]:
    return {"httpGet": {"path": "/", "port": port}, "periodSeconds": 1}
