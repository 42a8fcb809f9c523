"""Renders the chart with the real helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prfaas_cluster import assets

CHECKOUT = Path(__file__).parents[2]
CHART = CHECKOUT / "charts" / "prfaas"
VALUES_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "prfaas-system"
MONITORING, GATEWAY_API = "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"
HELM_SECONDS = 45.0

Document = dict[str, Any]


class HelmError(Exception):
    """Helm refused; the text is what it wrote."""


@dataclass(frozen=True)
class Rendered:
    """The documents of one render, and its text."""

    text: str
    documents: list[Document]

    def of_kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str) -> Document:
        (found,) = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        return found

    def kinds(self) -> set[str]:
        return {document["kind"] for document in self.documents}

    def pod_specs(self) -> Iterator[tuple[str, Document]]:
        for deployment in self.of_kind("Deployment"):
            yield deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]


def render(
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    api_versions: Sequence[str] = (),
    namespace: str = NAMESPACE,
    release: str = "prfaas",
) -> Rendered:
    """`helm template`, as a cluster with these API versions would get it.

    Raises:
        HelmError: a value was refused.
    """
    command = ["template", release, str(CHART), "--namespace", namespace, "--kube-version", "v1.37.2"]
    for path in files:
        command += ["--values", str(path)]
    for version in api_versions:
        command += ["--api-versions", version]
    for key, value in (values or {}).items():
        command += ["--set-json", f"{key}={json.dumps(value)}"]
    text = helm(*command)
    documents = [document for document in yaml.safe_load_all(text) if document]
    return Rendered(text, documents)


def helm(*arguments: str) -> str:
    """Run helm without a cluster and without the user's own settings.

    Raises:
        HelmError: it failed.
    """
    done = subprocess.run(
        [assets.program("helm"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=HELM_SECONDS,
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "KUBECONFIG": "/dev/null"},
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout
