"""A real API server takes what the injection makes, and fills in nothing that would hide a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from prfaas.kube import resources
from prfaas.kube.client import connect
from prfaas_operator.commands.adopt import adopt
from prfaas_operator.commands.render import render
from prfaas_operator.injection.defaults import canonical
from tests.operator.injection.pools import SETTINGS, container, injected, pool, template

pytestmark = pytest.mark.cluster

GOLDEN = Path(__file__).parent / "golden"


def deployment(name: str, namespace: str, pod_template: dict[str, Any]) -> dict[str, Any]:
    labels = pod_template.get("metadata", {}).get("labels") or {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {**pod_template, "metadata": {**pod_template.get("metadata", {}), "labels": labels}},
        },
    }


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
@pytest.mark.parametrize("image_volume", [False, True])
async def test_the_server_takes_the_pods(
    case: str, image_volume: bool, kubeconfig: Path, namespace: str
) -> None:
    written, _ = yaml.safe_load_all((GOLDEN / f"{case}.yaml").read_text())
    spec = dict(written["spec"])
    made = injected(
        pool(written["kind"], spec.pop("workload")["template"], **spec),
        SETTINGS.model_copy(update={"connector_as_image_volume": image_volume}),
    )
    async with await connect(str(kubeconfig)) as client:
        stored = await client.apply(
            resources.DEPLOYMENTS, deployment("made", namespace, made), field_manager="test", dry_run=True
        )
    # Defaults apart, the server stores what was sent: no field was unknown to it and dropped.
    assert canonical(stored["spec"]["template"]) == canonical(made)


async def test_adopting_what_the_server_has_gives_back_what_was_written(
    kubeconfig: Path, namespace: str
) -> None:
    own = template(
        container(
            ports=[{"containerPort": 8000}],
            readinessProbe={"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 3},
            env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            resources={"limits": {"cpu": "8", "memory": "64Gi"}},
        ),
        volumes=[
            {"name": "a", "secret": {"secretName": "s"}},
            {"name": "b", "hostPath": {"path": "/x"}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
        ],
        serviceAccountName="own",
    )
    async with await connect(str(kubeconfig)) as client:
        stored = await client.apply(
            resources.DEPLOYMENTS, deployment("chat", namespace, own), field_manager="test"
        )
    result = CliRunner().invoke(adopt, ["-f", "-"], input=yaml.safe_dump(stored))
    assert result.exit_code == 0, result.output
    written = yaml.safe_load(result.stdout)["spec"]["workload"]["template"]
    # Requests equal to limits are filled in for the pod, not for the template.
    assert written == {"metadata": {"labels": {"app": "chat"}}, **own}
    assert CliRunner().invoke(render, ["-f", "-"], input=result.stdout).exit_code == 0


def test_adopt_reads_the_cluster(kubeconfig: Path, namespace: str) -> None:
    result = CliRunner().invoke(adopt, ["deployment/x", "-n", namespace, "--kubeconfig", str(kubeconfig)])
    assert result.exit_code == 1
    assert "not found" in result.stderr
