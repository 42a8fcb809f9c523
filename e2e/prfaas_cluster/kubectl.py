"""Calls kubectl, for what sets a cluster up and looks at it. Tests of the product use a client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prfaas_cluster import assets
from prfaas_cluster.errors import ClusterError

CALL_SECONDS = 60.0


class Kubectl:
    """kubectl with one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def __call__(self, *arguments: str | Path, stdin: str = "", timeout_seconds: float = CALL_SECONDS) -> str:
        """Returns its output.

        Raises:
            ClusterError: it failed or took too long; the text holds what it said.
        """
        command = [str(assets.program("kubectl")), f"--kubeconfig={self._kubeconfig}", *map(str, arguments)]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"no end after {timeout_seconds:.0f} s: kubectl {arguments}") from error
        if done.returncode != 0:
            raise ClusterError(f"`kubectl {' '.join(map(str, arguments))}`: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` finds, as JSON."""
        return json.loads(self("get", *arguments, "--output=json"))

    def apply(self, objects: Sequence[Any], *arguments: str) -> None:
        """Apply objects on the server, taking over their fields."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self(
            "apply", "--server-side", "--force-conflicts", "--field-manager=prfaas-cluster", *arguments,
            "--filename=-", stdin=json.dumps(listed),
        )  # fmt: skip
