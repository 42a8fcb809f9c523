"""What is told of pods in trouble, on pods that a real kubelet and container runtime have brought into it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prfaas.pod_troubles import PodCause, container_troubles, pod_trouble
from prfaas_cluster.bare.settings import HOST_IMAGE
from prfaas_cluster.kubectl import Kubectl
from prfaas_cluster.record import Record
from tests.cluster.pods import FOLDERS
from tests.helpers import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SLEEPS = "import time; time.sleep(100000)"
SAYS_AND_ENDS = "open('/dev/termination-log', 'w').write({what}); raise SystemExit(3)"
MOUNTS = [{"name": folder, "mountPath": f"/{folder}", "readOnly": True} for folder in FOLDERS]
VOLUMES = [{"name": folder, "hostPath": {"path": f"/{folder}", "type": "Directory"}} for folder in FOLDERS]


def container(code: str, name: str = "engine", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": HOST_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-c", code],
        "volumeMounts": MOUNTS,
        **more,
    }


def pod(engine: dict[str, Any], *first: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": 1,
        "initContainers": list(first),
        "containers": [engine],
        "volumes": VOLUMES,
        **spec,
    }


def variable(reference: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": "TOKEN", "valueFrom": {"secretKeyRef": reference}}]


# Name of the pod, what it is made of, and how what is told begins. {again}: however often it was.
CASES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "out-of-memory": (
        pod(container("x = bytearray(400 << 20)", resources={"limits": {"memory": "40Mi"}})),
        "container `engine` OOMKilled (limit 40Mi), restarted {again} times",
        True,
    ),
    "crash": (
        pod(container(SAYS_AND_ENDS.format(what="'no license'"))),
        "container `engine` ended with exit code 3: no license, restarted {again} times",
        True,
    ),
    "crash-with-log": (
        pod(
            container(
                "print('prompt: a secret'); raise SystemExit(4)",
                terminationMessagePolicy="FallbackToLogsOnError",
            )
        ),
        "container `engine` ended with exit code 4, restarted {again} times",
        True,
    ),
    "no-such-command": (
        pod({**container(""), "command": ["/nonexistent"]}),
        'container `engine`: RunContainerError: exec: "/nonexistent"',
        True,
    ),
    "no-such-key": (
        pod(container(SLEEPS, env=variable({"name": "hub", "key": "token"}))),
        "container `engine`: CreateContainerConfigError: couldn't find key token in Secret",
        True,
    ),
    "no-such-image": (
        pod({"name": "engine", "image": "registry.invalid/vllm:1"}),
        "container `engine`: image registry.invalid/vllm:1 cannot be pulled (ErrImagePull",
        True,
    ),
    "sidecar-crash": (
        pod(container(SLEEPS), container("raise SystemExit(5)", "prfaas-sidecar", restartPolicy="Always")),
        "container `prfaas-sidecar` ended with exit code 5, restarted {again} times",
        True,
    ),
    "sidecar-not-ready": (
        pod(
            container(SLEEPS),
            container(
                SLEEPS,
                "prfaas-sidecar",
                restartPolicy="Always",
                readinessProbe={"tcpSocket": {"port": 7402}, "periodSeconds": 1},
            ),
        ),
        "container `prfaas-sidecar` is not ready, the others are",
        False,
    ),
    # The kubelet puts what a source brings in the place of $(PYTHONPATH), which keeps a user's own in force.
    "pythonpath": (
        pod(
            container(
                SAYS_AND_ENDS.format(what="__import__('os').environ['PYTHONPATH']"),
                env=[{"name": "PYTHONPATH", "value": "/opt/prfaas:$(PYTHONPATH)"}],
                envFrom=[{"configMapRef": {"name": "settings"}}],
            )
        ),
        "container `engine` ended with exit code 3: /opt/prfaas:/from/config, restarted {again} times",
        True,
    ),
}
MOUNT_MISSING = pod(
    container(SLEEPS, volumeMounts=[*MOUNTS, {"name": "weights", "mountPath": "/weights"}]),
    volumes=[*VOLUMES, {"name": "weights", "secret": {"secretName": "missing"}}],
)
REFUSED = pod(container(SLEEPS, resources={"requests": {"cpu": "9000"}}))


@pytest.fixture(scope="module")
def kubectl(real_cluster: Record) -> Kubectl:
    if real_cluster.provider != "bare":
        pytest.skip(f"pods of the machine's own programs need the provider bare, not {real_cluster.provider}")
    return Kubectl(Path(real_cluster.kubeconfig))


@pytest.fixture(scope="module")
def place(kubectl: Kubectl) -> Iterator[str]:
    """A namespace with a pod for each trouble."""
    name = f"test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    node = kubectl.get("nodes")["items"][0]["metadata"]["name"]
    eventually(
        lambda: kubectl.get("serviceaccounts", f"--namespace={name}")["items"],
        within_seconds=30.0,
    )
    specs = {case: spec for case, (spec, _, _) in CASES.items()}
    specs |= {"mount-missing": MOUNT_MISSING, "refused": {**REFUSED, "nodeName": node}}
    kubectl.apply(
        [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": name}},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "settings", "namespace": name},
                "data": {"PYTHONPATH": "/from/config"},
            },
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": case, "namespace": name},
                    "spec": spec,
                }
                for case, spec in specs.items()
            ),
        ]
    )
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("case", CASES)
def test_a_container_in_trouble(case: str, kubectl: Kubectl, place: str) -> None:
    _, text, lasting = CASES[case]

    def told() -> bool:
        troubles = container_troubles(kubectl.get(f"pod/{case}", f"--namespace={place}"))
        return any(
            each.text.startswith(text.format(again=each.restarts)) and each.lasting is lasting
            for each in troubles
        )

    eventually(told, within_seconds=120.0)


def test_a_volume_that_is_missing(kubectl: Kubectl, place: str) -> None:
    def told() -> bool:
        found = pod_trouble(kubectl.get("pod/mount-missing", f"--namespace={place}"))
        return found is not None and (found.cause, "(it mounts Secret missing, " in found.text) == (
            PodCause.NOT_PREPARED,
            True,
        )

    eventually(told, within_seconds=60.0)


def test_a_pod_that_its_node_refuses(kubectl: Kubectl, place: str) -> None:
    def told() -> bool:
        found = pod_trouble(kubectl.get("pod/refused", f"--namespace={place}"))
        return found is not None and "was refused by its node" in found.text and "OutOfcpu" in found.text

    eventually(told, within_seconds=60.0)
