"""What the user set wins or is refused with its field and a remedy; it is never dropped."""

from __future__ import annotations

from typing import Any

import pytest

from tests.operator.injection.pools import container, injected, pool, refused, template

ENGINE = "spec.workload.template.spec.containers[engine]"
POD = "spec.workload.template.spec"


def with_other(**fields: Any) -> dict[str, Any]:
    made = template()
    made["spec"]["containers"].append({"name": "exporter", "image": "x", **fields})
    return made


TEMPLATES = [
    (
        "volume",
        template(volumes=[{"name": "prfaas-run", "emptyDir": {}}]),
        f"{POD}.volumes[prfaas-run]",
        "rename",
    ),
    (
        "container",
        template(initContainers=[{"name": "prfaas-sidecar", "image": "x"}]),
        f"{POD}.initContainers[prfaas-sidecar]",
        "rename",
    ),
    (
        "other's port",
        with_other(ports=[{"containerPort": 7401}]),
        f"{POD}.containers[exporter].ports",
        "7401",
    ),
    (
        "engine's port elsewhere",
        with_other(ports=[{"containerPort": 8000}]),
        f"{POD}.containers[exporter].ports",
        "spec.engine.port",
    ),
    (
        "port name",
        with_other(ports=[{"containerPort": 1, "name": "prfaas-peer"}]),
        f"{POD}.containers[exporter].ports",
        "rename",
    ),
    (
        "mount",
        template(container(volumeMounts=[{"name": "x", "mountPath": "/opt/prfaas"}])),
        f"{ENGINE}.volumeMounts[/opt/prfaas]",
        "elsewhere",
    ),
    (
        "mount inside",
        template(container(volumeMounts=[{"name": "x", "mountPath": "/run/prfaas/x/"}])),
        f"{ENGINE}.volumeMounts[/run/prfaas/x]",
        "elsewhere",
    ),
    (
        "read-only mount above",
        template(container(volumeMounts=[{"name": "x", "mountPath": "/opt", "readOnly": True}])),
        f"{ENGINE}.volumeMounts[/opt]",
        "elsewhere",
    ),
    (
        "PYTHONPATH from elsewhere",
        template(
            container(
                env=[{"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]
            )
        ),
        f"{ENGINE}.env[PYTHONPATH]",
        "literal",
    ),
    (
        "preStop",
        template(container(lifecycle={"preStop": {"exec": {"command": ["true"]}}})),
        f"{ENGINE}.lifecycle.preStop",
        "spec.drain.timeoutSeconds: 0",
    ),
    ("pod resources", template(resources={"limits": {"cpu": "8"}}), f"{POD}.resources", "per container"),
    (
        "label",
        {"metadata": {"labels": {"prfaas.io/pool": "other"}}, **template()},
        "spec.workload.template.metadata.labels[prfaas.io/pool]",
        "remove",
    ),
    (
        "managed by",
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}, **template()},
        "spec.workload.template.metadata.labels[app.kubernetes.io/managed-by]",
        "remove",
    ),
    (
        "annotation",
        {"metadata": {"annotations": {"prfaas.io/drain-since": "x"}}, **template()},
        "spec.workload.template.metadata.annotations[prfaas.io/drain-since]",
        "remove",
    ),
    (
        "deletion cost",
        {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "5"}}, **template()},
        "spec.workload.template.metadata.annotations[controller.kubernetes.io/pod-deletion-cost]",
        "remove",
    ),
]


@pytest.mark.parametrize(("what", "made", "field", "remedy"), TEMPLATES, ids=[case[0] for case in TEMPLATES])
def test_conflicts_name_field_and_remedy(what: str, made: dict[str, Any], field: str, remedy: str) -> None:
    ((where, reason, message),) = refused(pool(pod_template=made))
    assert (where, reason) == (field, "FieldConflict")
    assert remedy in message


def test_what_is_like_a_conflict_and_is_none() -> None:
    made = template(
        container(
            volumeMounts=[{"name": "x", "mountPath": "/opt"}, {"name": "y", "mountPath": "/opt/prfaas-x"}],
            ports=[{"containerPort": 7400, "protocol": "UDP"}, {"containerPort": 8000}],
        ),
        hostNetwork=True,
    )
    made["metadata"] = {"labels": {"llm-d.ai/role": "prefill", "app": "x"}}
    assert injected(pool(pod_template=made))["metadata"]["labels"]["llm-d.ai/role"] == "prefill"


@pytest.mark.parametrize(
    ("grace", "drain", "remedy"),
    [
        (60, 120, "raise it to 150, or lower spec.drain.timeoutSeconds to 30"),
        (30, 120, "raise it to 150, or set spec.drain.timeoutSeconds: 0"),
        (149, 120, "lower spec.drain.timeoutSeconds to 119"),
        (0, 1, "raise it to 31, or set spec.drain.timeoutSeconds: 0"),
    ],
)
def test_a_grace_period_too_short_is_refused_with_the_numbers(grace: int, drain: int, remedy: str) -> None:
    made = pool(pod_template=template(terminationGracePeriodSeconds=grace), drain={"timeoutSeconds": drain})
    ((field, reason, message),) = refused(made)
    assert (field, reason) == (f"{POD}.terminationGracePeriodSeconds", "GracePeriodTooShort")
    assert remedy in message


@pytest.mark.parametrize("limit", ["4Gi", "4608Mi", "4607.999Mi", "4.4999999G", "4e9", 4831838207])
def test_a_prefill_engine_whose_limit_cannot_hold_the_arena_is_refused(limit: str | int) -> None:
    made = template(container(resources={"limits": {"memory": limit}}))
    if limit == "4608Mi":
        injected(pool(pod_template=made))
        return
    ((field, reason, message),) = refused(pool(pod_template=made))
    assert (field, reason) == (f"{ENGINE}.resources.limits.memory", "MemoryLimitTooSmall")
    assert "4Gi" in message
    injected(pool("DecodePool", made))


@pytest.mark.parametrize("limit", ["4831838208", "4.9G", "5e9", "5Gi", "1Ti", "4831838208000m"])
def test_a_limit_that_holds_arena_and_engine_is_taken(limit: str) -> None:
    injected(pool(pod_template=template(container(resources={"limits": {"memory": limit}}))))


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"limits": {"memory": "100Mi"}}, "spec.sidecar.resources.limits.memory"),
        ({"limits": {"cpu": "500m", "memory": "1Gi"}}, "spec.sidecar.resources"),
        ({"limits": {"cpu": "1"}}, "spec.sidecar.resources"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "spec.sidecar.resources"),
    ],
)
@pytest.mark.parametrize("kind", ["PrefillPool", "DecodePool"])
def test_sidecar_resources_that_harm_a_guaranteed_pod_are_refused(
    kind: str, resources: dict[str, Any], field: str
) -> None:
    guaranteed = template(container(resources={"limits": {"cpu": "8", "memory": "64Gi"}}))
    found = refused(pool(kind, guaranteed, sidecar={"resources": resources}))
    assert field in {where for where, _, _ in found}
    if field == "spec.sidecar.resources":
        injected(pool(kind, template(), sidecar={"resources": resources}))


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"engine": {"type": "SGLang"}}, "spec.engine.type", "EngineNotSupported"),
        ({"engine": {"type": "TensorRTLLM"}}, "spec.engine.type", "EngineNotSupported"),
        (
            {"engine": {"type": "VLLM", "container": "main"}},
            "spec.engine.container",
            "EngineContainerMissing",
        ),
        ({"engine": {"type": "VLLM", "port": 7402}}, "spec.engine.port", "FieldConflict"),
        (
            {"workload": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": template()}}},
            "spec.workload.leaderWorkerTemplate",
            "NotImplemented",
        ),
        ({"workload": {}}, "spec.workload.template", "TemplateRejected"),
    ],
)
def test_pools_that_cannot_be_made(fields: dict[str, Any], field: str, reason: str) -> None:
    ((where, why, message),) = refused(pool(**fields))
    assert (where, why) == (field, reason)
    assert ":" in message


@pytest.mark.parametrize(
    ("made", "field"),
    [
        ({"spec": {"containers": "x"}}, f"{POD}.containers"),
        ({"spec": {"containers": [1]}}, f"{POD}.containers"),
        (template(container(args=["--tensor-parallel-size", 2])), f"{ENGINE}.args"),
        (template(container(args="--x")), f"{ENGINE}.args"),
        (template(container(env={"A": "1"})), f"{ENGINE}.env"),
        (template(container(resources={"limits": []})), None),
        (template(container(resources={"limits": ["x"]})), f"{ENGINE}.resources.limits"),
        (template(volumes={"a": 1}), f"{POD}.volumes"),
        (template(terminationGracePeriodSeconds="60"), f"{POD}.terminationGracePeriodSeconds"),
        (template(container(resources={"limits": {"cpu": "1", "memory": "lots"}})), f"{POD}.containers"),
        (template(container(resources={"limits": {"memory": "4Gi "}})), None),
    ],
)
def test_a_template_of_another_shape_is_refused_and_not_stumbled_over(
    made: dict[str, Any], field: str | None
) -> None:
    made_pool = pool("DecodePool", made)
    if field is None:
        injected(made_pool)
        return
    assert field in {where for where, _, _ in refused(made_pool)}


def test_all_refusals_come_at_once() -> None:
    made = template(
        container(args=["m", "--kv-transfer-config", "{}"], lifecycle={"preStop": {}}),
        volumes=[{"name": "prfaas-tls"}],
    )
    assert len(refused(pool(pod_template=made))) == 3


def test_an_injected_template_is_refused() -> None:
    fields = {field for field, _, _ in refused(pool(pod_template=injected(pool())))}
    assert f"{POD}.initContainers[prfaas-sidecar]" in fields
    assert f"{POD}.volumes[prfaas-run]" in fields
