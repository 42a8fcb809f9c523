"""Writes kubeconfig files."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml

from prfaas_cluster.pki import Pair, write_secret


def kubeconfig(name: str, server: str, ca_pem: bytes, user: str, client: Pair) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user by certificate, and one context, all in the file itself."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": _text(ca_pem)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _text(client.certificate),
                    "client-key-data": _text(client.key),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }


def write_kubeconfig(path: Path, content: dict[str, Any]) -> Path:
    """Write it for its owner only."""
    return write_secret(path, yaml.safe_dump(content, sort_keys=False).encode())


def _text(content: bytes) -> str:
    return b64encode(content).decode()
