"""The cluster that `make e2e` brings up, whoever provides it: nodes, images from files, pods, Services."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prfaas_cluster import assets, oci, providers
from prfaas_cluster.bare.cluster import ready_nodes
from prfaas_cluster.errors import ClusterError
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.record import Record
from tests.helpers import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
def kubectl(real_cluster: Record) -> Kubectl:
    return Kubectl(Path(real_cluster.kubeconfig))


@pytest.fixture
def own_namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def test_all_nodes_are_ready(kubectl: Kubectl) -> None:
    nodes = kubectl.get("nodes")["items"]
    assert nodes
    assert len(ready_nodes(nodes)) == len(nodes)


def test_a_pod_with_a_native_sidecar_runs_from_a_loaded_image(
    real_cluster: Record, kubectl: Kubectl, own_namespace: str, tmp_path: Path
) -> None:
    image = f"prfaas.local/test/{own_namespace}:1"
    program = {"pause": oci.File(0o755, source=assets.program("pause"))}
    oci.write_image(tmp_path / "image.tar", image, program, entrypoint=["/pause"], user="65534:65534")
    try:
        providers.load_image(real_cluster.name, tmp_path / "image.tar")
    except ClusterError as error:
        pytest.skip(str(error))
    container: dict[str, Any] = {"name": "main", "image": image, "imagePullPolicy": "Never"}
    sidecar = {**container, "name": "sidecar", "restartPolicy": "Always"}
    metadata = {"name": "p", "namespace": own_namespace, "labels": {"app": "p"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [sidecar],
            "containers": [container],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": "p"}, "ports": [{"port": 80}]},
    }

    def has_account() -> bool:
        return bool(kubectl.get("serviceaccounts", f"--namespace={own_namespace}")["items"])

    eventually(has_account, within_seconds=30.0)
    kubectl.apply([pod, service])
    kubectl("wait", "--for=condition=Ready", "pod/p", f"--namespace={own_namespace}", "--timeout=60s")
    address = kubectl.get("pod/p", f"--namespace={own_namespace}")["status"]["podIP"]

    def endpoints() -> list[str]:
        slices = kubectl.get("endpointslices", f"--namespace={own_namespace}")["items"]
        return [each["addresses"][0] for one in slices for each in one["endpoints"] or ()]

    eventually(lambda: endpoints() == [address], within_seconds=30.0)
