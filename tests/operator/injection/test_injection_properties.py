"""For any template: nothing of the user's changes but what is listed here, and adopting gives it back."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_operator.injection import Injected, Refusals, inject, revision_hash, template_references
from prfaas_operator.injection.adoption import adopt
from prfaas_operator.injection.defaults import canonical, without_defaults
from tests.operator.injection.pools import SETTINGS, pool

# Fields of the engine's container and of the pod that the injection may add to.
ENGINE_GROWS = {
    "args", "env", "ports", "volumeMounts", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe"
}  # fmt: skip
POD_GROWS = {"initContainers", "volumes", "containers", "terminationGracePeriodSeconds", "imagePullSecrets"}

NAMES = st.sampled_from(["a", "b", "c", "prfaas-run", "prfaas-sidecar"])
AMOUNTS = st.sampled_from(["1", "500m", "4Gi", "64Gi", 2])
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        key: st.dictionaries(st.sampled_from(["cpu", "memory"]), AMOUNTS) for key in ("requests", "limits")
    },
)
ENV = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["PYTHONPATH", "A"]), "value": st.sampled_from(["", "/x"])}
    ),
    max_size=2,
    unique_by=lambda one: one["name"],
)
MOUNTS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "mountPath": st.sampled_from(["/a", "/run", "/opt/prfaas", "/opt"])}
    ),
    max_size=2,
)
PORTS = st.lists(
    st.fixed_dictionaries({"containerPort": st.sampled_from([80, 8000, 7401])}), max_size=2, unique_by=str
)
ARGS = st.lists(
    st.sampled_from(["org/model", "--enforce-eager", "--port=8000", "--block-size", "32", "--port", "9000"]),
    max_size=4,
)
PROBE = st.just({"httpGet": {"path": "/own", "port": 1}})


def containers(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"name": st.just(name), "image": st.sampled_from(["x", "vllm:1"])},
        optional={
            "args": ARGS,
            "env": ENV,
            "ports": PORTS,
            "resources": RESOURCES,
            "volumeMounts": MOUNTS,
            "livenessProbe": PROBE,
            "startupProbe": PROBE,
            "lifecycle": st.just({"postStart": {"exec": {"command": ["true"]}}}),
            "securityContext": st.just({"runAsUser": 0}),
            "workingDir": st.just("/"),
        },
    )


PODS = st.fixed_dictionaries(
    {"containers": st.tuples(containers("engine"), containers("other")).map(list)},
    optional={
        "initContainers": st.lists(NAMES.flatmap(containers), max_size=2, unique_by=lambda one: one["name"]),
        "volumes": st.lists(
            st.fixed_dictionaries({"name": NAMES, "emptyDir": st.just({})}),
            max_size=2,
            unique_by=lambda v: v["name"],
        ),
        "terminationGracePeriodSeconds": st.sampled_from([10, 150, 3600]),
        "nodeSelector": st.just({"gpu": "h100"}),
        "tolerations": st.just([{"operator": "Exists"}]),
        "priorityClassName": st.just("high"),
        "schedulingGates": st.just([{"name": "kueue"}]),
        "securityContext": st.sampled_from([{"runAsUser": 0}, {"fsGroup": 1}, {}]),
        "imagePullSecrets": st.just([{"name": "own"}]),
    },
)
KINDS = st.sampled_from(["PrefillPool", "DecodePool"])


def is_within(own: Any, after: Any) -> bool:
    """Every item of the user's list is still there, in its order."""
    rest = iter(after)
    return all(any(one == item for item in rest) for one in own)


@given(KINDS, PODS, st.sampled_from([0, 120]))
def test_the_users_fields_stay(kind: str, pod: dict[str, Any], drain: int) -> None:
    before = copy.deepcopy(pod)
    made = pool(kind, {"spec": pod}, drain={"timeoutSeconds": drain})
    result = inject(made, SETTINGS)
    assert result == inject(made, SETTINGS)
    if isinstance(result, Refusals):
        assert result.refusals
        assert all(one.field.startswith("spec.") and one.message for one in result.refusals)
        return
    after = result.template["spec"]
    for field in set(before) - POD_GROWS:
        assert after[field] == before[field]
    assert set(after) - set(before) <= POD_GROWS
    for field in ("initContainers", "volumes", "imagePullSecrets"):
        assert is_within(before.get(field, []), after.get(field, []))
    if "terminationGracePeriodSeconds" in before:
        assert after["terminationGracePeriodSeconds"] == before["terminationGracePeriodSeconds"]
    engine_before, other_before = before["containers"]
    engine, other = after["containers"]
    assert other == other_before
    for field in set(engine_before) - ENGINE_GROWS:
        assert engine[field] == engine_before[field]
    assert engine["args"][: len(engine_before.get("args", []))] == engine_before.get("args", [])
    for field in ("ports", "volumeMounts"):
        assert is_within(engine_before.get(field, []), engine[field])
    for field in ("livenessProbe", "startupProbe"):
        if field in engine_before:
            assert engine[field] == engine_before[field]
    if "lifecycle" in engine_before:
        assert engine["lifecycle"]["postStart"] == engine_before["lifecycle"]["postStart"]
    for variable in engine_before.get("env", []):
        now = next(one for one in engine["env"] if one["name"] == variable["name"])
        assert now["value"].endswith(variable["value"])
    assert isinstance(inject(pool(kind, result.template), SETTINGS), Refusals)


@given(KINDS, PODS)
def test_adopting_a_deployment_and_injecting_keeps_every_container(kind: str, pod: dict[str, Any]) -> None:
    pod["containers"][0]["args"] = ["org/model"]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": "n", "uid": "u"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "x"}}, "spec": pod}},
        "status": {"readyReplicas": 2},
    }
    before = copy.deepcopy(deployment)
    adopted = adopt(deployment, kind=kind).pool  # type: ignore[arg-type]  # one of the two
    assert deployment == before
    assert "status" not in adopted
    template = adopted["spec"].pop("workload")["template"]
    assert canonical(template) == canonical({"metadata": {"labels": {"app": "x"}}, "spec": pod})
    result = inject(pool(kind, template, **adopted["spec"]), SETTINGS)
    if not isinstance(result, Injected):
        return
    after = without_defaults(result.template)["spec"]
    for own, now in zip(
        without_defaults({"spec": pod})["spec"]["containers"], after["containers"], strict=True
    ):
        for field in set(own) - ENGINE_GROWS:
            assert now[field] == own[field]
        for field in set(own) & {"args", "ports", "volumeMounts"}:
            assert is_within(own[field], now[field])


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 9)
    | st.sampled_from(["", "engine", "vllm", "PYTHONPATH", "4Gi", "²"])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "value",
                    "valueFrom",
                    "fieldRef",
                    "httpGet",
                    "limits",
                    "memory",
                    "cpu",
                    "secret",
                    "image",
                    "preStop",
                    "mountPath",
                    "containerPort",
                    "sources",
                    "projected",
                    "persistentVolumeClaim",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)
POD_FIELDS = [
    "initContainers",
    "volumes",
    "imagePullSecrets",
    "securityContext",
    "resources",
    "terminationGracePeriodSeconds",
    "serviceAccountName",
    "serviceAccount",
]
CONTAINER_FIELDS = [
    "command",
    "args",
    "env",
    "envFrom",
    "ports",
    "volumeMounts",
    "resources",
    "lifecycle",
    "image",
    "livenessProbe",
    "securityContext",
]


@settings(max_examples=300)
@given(
    KINDS,
    st.dictionaries(st.sampled_from(POD_FIELDS), ANYTHING, max_size=3),
    st.dictionaries(st.sampled_from(CONTAINER_FIELDS), ANYTHING, max_size=3) | ANYTHING,
)
def test_no_template_makes_the_operator_stumble(kind: str, pod: dict[str, Any], engine: Any) -> None:
    one = {"name": "engine", **engine} if isinstance(engine, dict) else engine
    made = pool(kind, {"spec": {"containers": [one], **pod}})
    assert isinstance(inject(made, SETTINGS), Injected | Refusals)
    assert len(revision_hash(made, SETTINGS)) == 8
    template_references({"spec": {"containers": [one], **pod}})
