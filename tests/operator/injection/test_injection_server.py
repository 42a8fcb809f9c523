"""A real API server takes what the injection makes, and fills in nothing that would hide a difference."""

from __future__ import annotations

import asyncio
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


async def _apply(kubeconfig: Path, resource: resources.Resource, body: dict[str, Any]) -> dict[str, Any]:
    async with await connect(str(kubeconfig)) as client:
        stored: dict[str, Any] = await client.apply(resource, body, field_manager="test")
        return stored


def test_a_deployment_of_a_cluster_becomes_a_pool_that_the_server_takes(
    kubeconfig: Path, namespace: str
) -> None:
    own = template(container(env=[{"name": "HF_HOME", "value": "/models"}]), nodeSelector={"gpu": "h100"})
    written = deployment("chat", namespace, own)
    written["spec"]["replicas"] = 3
    asyncio.run(_apply(kubeconfig, resources.DEPLOYMENTS, written))
    result = CliRunner().invoke(
        adopt,
        ["deploy/chat", "-n", namespace, "--kubeconfig", str(kubeconfig), "--kind", "PrefillPool"],
    )
    assert result.exit_code == 0, result.output
    adopted = yaml.safe_load(result.stdout)
    assert (adopted["kind"], adopted["metadata"]) == (
        "PrefillPool",
        {"name": "chat", "namespace": namespace},
    )
    assert adopted["spec"]["replicas"] == 3
    assert adopted["spec"]["workload"]["template"] == {"metadata": {"labels": {"app": "chat"}}, **own}
    assert "scale it to 0 when the pool's are ready" in result.stderr
    stored = asyncio.run(_apply(kubeconfig, resources.PREFILL_POOLS, adopted))
    # As a user goes on: what is stored is what would be rendered of the file.
    of_file, of_server = (
        CliRunner().invoke(render, ["-f", "-", "--revision"], input=yaml.safe_dump(each))
        for each in (adopted, stored)
    )
    assert of_file.exit_code == of_server.exit_code == 0, of_server.output
    assert of_file.stdout == of_server.stdout


def test_adopt_takes_the_namespace_of_the_context_and_leaves_pools_alone(
    kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    for each in config["contexts"]:
        each["context"]["namespace"] = namespace
    mine = tmp_path / "kubeconfig"
    mine.write_text(yaml.safe_dump(config))
    labels = {"prfaas.io/pool": "long", "prfaas.io/pool-kind": "PrefillPool"}
    child = deployment("long-1a2b", namespace, {**template(), "metadata": {"labels": labels}})
    asyncio.run(_apply(kubeconfig, resources.DEPLOYMENTS, child))
    result = CliRunner(env={"KUBECONFIG": str(mine)}).invoke(adopt, ["deployment/long-1a2b"])
    assert result.exit_code == 1
    assert "belongs to the pool long already" in result.stderr
    assert result.stdout == ""


def test_adopt_reads_the_cluster(kubeconfig: Path, namespace: str) -> None:
    result = CliRunner().invoke(adopt, ["deployment/x", "-n", namespace, "--kubeconfig", str(kubeconfig)])
    assert result.exit_code == 1
    assert "not found" in result.stderr
