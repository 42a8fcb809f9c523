"""`prfaas render` and `prfaas adopt` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from prfaas_operator.commands.adopt import adopt
from prfaas_operator.commands.render import render
from prfaas_operator.injection import revision_hash
from tests.operator.injection.pools import SETTINGS, container, pool, template


def manifest(kind: str = "PrefillPool", name: str = "long", **spec: Any) -> dict[str, Any]:
    made = pool(kind, **spec).to_api()
    return {**{key: made[key] for key in ("apiVersion", "kind", "spec")},
            "metadata": {"name": name, "namespace": "serving"}}  # fmt: skip


def deployment(engine: dict[str, Any] | None = None, **pod: Any) -> dict[str, Any]:
    """As `kubectl get -o yaml` shows it, with what the server has added."""
    one = {
        "imagePullPolicy": "IfNotPresent",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        **(engine or container(ports=[{"containerPort": 8000, "protocol": "TCP"}])),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": "serving", "resourceVersion": "7", "managedFields": []},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "chat"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            "template": {
                "metadata": {
                    "creationTimestamp": None,
                    "labels": {"app": "chat", "pod-template-hash": "x"},
                    "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z", "own": "1"},
                },
                "spec": {
                    "containers": [one],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "terminationGracePeriodSeconds": 30,
                    **pod,
                },
            },
        },
        "status": {"readyReplicas": 3},
    }


def run(command: Any, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin)


def documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def test_render_prints_the_children_of_each_pool_and_whose_limit_holds_the_arena() -> None:
    text = yaml.safe_dump_all([manifest(replicas=3), manifest("DecodePool", "chat")])
    result = run(render, "-f", "-", stdin=text)
    assert result.exit_code == 0, result.output
    found = [(each["kind"], each["metadata"]["name"]) for each in documents(result.stdout)]
    revisions = [revision_hash(pool(kind), SETTINGS) for kind in ("PrefillPool", "DecodePool")]
    assert found == [
        ("ConfigMap", "long-prefill-peers"),
        ("Deployment", f"long-{revisions[0]}"),
        ("PodDisruptionBudget", "long-prefill"),
        ("ConfigMap", "chat-decode-peers"),
        ("Deployment", f"chat-{revisions[1]}"),
    ]
    assert "arena 4Gi per pod, charged to the engine's memory limit" in result.stdout
    assert "arena 4Gi per pod, charged to the sidecar's memory limit" in result.stdout
    made = documents(result.stdout)[1]
    assert made["spec"]["replicas"] == 3
    assert (
        made["spec"]["selector"]["matchLabels"].items()
        <= made["spec"]["template"]["metadata"]["labels"].items()
    )
    assert "ownerReferences" not in made["metadata"]


def test_render_as_json_and_the_revision_alone(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(manifest()))
    content = json.loads(run(render, "-f", str(path), "-o", "json").stdout)
    assert [each["kind"] for each in content["items"]] == ["ConfigMap", "Deployment"]
    result = run(render, "-f", str(path), "--revision")
    assert result.stdout == f"PrefillPool/long {revision_hash(pool(), SETTINGS)}\n"


def test_render_takes_images_from_the_operators_configuration(tmp_path: Path) -> None:
    path = tmp_path / "operator.yaml"
    path.write_text(
        "region: eu\ntrust_domain: example.org\nwatch_namespaces: []\n"
        "images: {sidecar: example/s:1, connector: example/c:1}\n"
    )
    result = run(render, "-f", "-", "--settings", str(path), stdin=yaml.safe_dump(manifest()))
    (made,) = [each for each in documents(result.stdout) if each["kind"] == "Deployment"]
    images = [each["image"] for each in made["spec"]["template"]["spec"]["initContainers"]]
    assert images == ["example/s:1", "example/c:1"]
    path.write_text("region: eu\n")
    result = run(render, "-f", "-", "--settings", str(path), stdin=yaml.safe_dump(manifest()))
    assert result.exit_code == 1
    assert "sidecar_image" in result.stderr


def test_render_refuses_with_file_field_and_remedy_and_renders_the_others(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    bad = manifest(name="bad", pod_template=template(terminationGracePeriodSeconds=30))
    unreadable = manifest(name="worse")
    del unreadable["spec"]["model"]["name"]
    path.write_text(yaml.safe_dump_all([bad, unreadable, manifest(name="good"), {"kind": "Service"}]))
    result = run(render, "-f", str(path))
    assert result.exit_code == 1
    assert (
        f"{path}: PrefillPool bad: spec.workload.template.spec.terminationGracePeriodSeconds" in result.stderr
    )
    assert "set spec.drain.timeoutSeconds: 0" in result.stderr
    assert f"{path}: PrefillPool worse: spec.model.name: Field required" in result.stderr
    assert "Service ?: has no pods, left out" in result.stderr
    assert any(each["metadata"]["name"].startswith("good-") for each in documents(result.stdout))


@pytest.mark.parametrize("text", ["", "kind: Service", "a: [", "- 1", "x"])
def test_render_of_what_is_no_pool_fails(text: str) -> None:
    result = run(render, "-f", "-", stdin=text)
    assert result.exit_code == 1
    assert result.stderr
    assert isinstance(result.exception, SystemExit)


def test_adopt_prints_a_pool_that_renders_and_keeps_what_the_user_wrote() -> None:
    result = run(adopt, "deployment/chat", "-f", "-", stdin=yaml.safe_dump(deployment()))
    assert result.exit_code == 0, result.output
    (made,) = documents(result.stdout)
    assert made == {
        "apiVersion": "prfaas.io/v1alpha1",
        "kind": "DecodePool",
        "metadata": {"name": "chat", "namespace": "serving"},
        "spec": {
            "replicas": 3,
            "model": {"name": "org/model"},
            "engine": {"type": "VLLM"},
            "workload": {
                "template": {
                    "metadata": {"labels": {"app": "chat"}, "annotations": {"own": "1"}},
                    "spec": {"containers": [container(ports=[{"containerPort": 8000}])]},
                }
            },
        },
    }
    assert "--kind says otherwise" in result.stderr
    assert run(render, "-f", "-", stdin=result.stdout).exit_code == 0


def test_adopt_says_what_would_be_refused() -> None:
    engine = container(args=["m", "--kv-transfer-config", "{}"])
    result = run(adopt, "-f", "-", stdin=yaml.safe_dump(deployment(engine)))
    assert result.exit_code == 1
    assert "would be refused" in result.stderr
    assert "--kv-transfer-config" in result.stderr
    assert documents(result.stdout)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"terminationGracePeriodSeconds": 90}, {"timeoutSeconds": 60}),
        ({"terminationGracePeriodSeconds": 10}, {"timeoutSeconds": 0}),
        ({"terminationGracePeriodSeconds": 600}, None),
        ({}, None),
    ],
)
def test_adopt_fits_the_drain_into_the_grace_period(
    fields: dict[str, Any], expected: dict[str, int] | None
) -> None:
    result = run(adopt, "-f", "-", stdin=yaml.safe_dump(deployment(**fields)))
    assert result.exit_code == 0, result.output
    assert documents(result.stdout)[0]["spec"].get("drain") == expected


def test_adopt_of_another_name_port_container_and_kind() -> None:
    engine = container(name="main", args=["m", "--port", "9000", "--served-model-name", "chat", "x"])
    made = deployment(engine, nodeName="node-1")
    made["spec"]["template"]["metadata"]["labels"]["llm-d.ai/role"] = "prefill"
    made["spec"]["template"]["spec"]["containers"].append({"name": "exporter", "image": "x"})
    result = run(adopt, "-f", "-", stdin=yaml.safe_dump(made))
    (adopted,) = documents(result.stdout)
    assert adopted["kind"] == "PrefillPool"
    assert adopted["spec"]["engine"] == {"type": "VLLM", "container": "main", "port": 9000}
    assert adopted["spec"]["model"] == {"name": "chat"}
    assert "nodeName" not in adopted["spec"]["workload"]["template"]["spec"]
    assert "spec.nodeName is left out" in result.stderr
    result = run(adopt, "-f", "-", "--kind", "DecodePool", stdin=yaml.safe_dump(made))
    assert documents(result.stdout)[0]["kind"] == "DecodePool"


@pytest.mark.parametrize(
    ("arguments", "text", "word"),
    [
        (["service/x", "-f", "-"], "", "deployment/NAME"),
        ([], "", "name a Deployment"),
        (["other", "-f", "-"], yaml.safe_dump(deployment()), "0 objects"),
        (["-f", "-"], yaml.safe_dump_all([deployment(), deployment()]), "2 objects"),
        (["-f", "-", "--container", "x"], yaml.safe_dump(deployment()), "--container"),
        (["-f", "-"], yaml.safe_dump(deployment(container(command=["sh", "-c", "x"]))), "which model"),
    ],
)
def test_adopt_says_what_it_needs(arguments: list[str], text: str, word: str) -> None:
    result = run(adopt, *arguments, stdin=text)
    assert result.exit_code in (1, 2)
    assert word in result.stderr


def test_adopt_refuses_what_a_pool_has_made() -> None:
    rendered = run(render, "-f", "-", stdin=yaml.safe_dump(manifest())).stdout
    result = run(adopt, "-f", "-", stdin=rendered)
    assert result.exit_code == 1
    assert "belongs to the pool long already" in result.stderr
