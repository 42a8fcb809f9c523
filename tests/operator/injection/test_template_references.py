"""Which other objects a template names."""

from __future__ import annotations

from prfaas_operator.injection import TemplateReference, template_references
from tests.operator.injection.pools import container, template

POD = "spec.workload.template.spec"


def test_every_place_that_names_an_object_is_found_once() -> None:
    made = template(
        container(
            env=[
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k", "optional": True}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            envFrom=[{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}],
        ),
        initContainers=[{"name": "i", "envFrom": [{"configMapRef": {"name": "c1"}}]}],
        serviceAccountName="sa",
        imagePullSecrets=[{"name": "pull"}],
        volumes=[
            {"name": "v1", "persistentVolumeClaim": {"claimName": "p1"}},
            {"name": "v2", "persistentVolumeClaim": {"claimName": "p2", "readOnly": True}},
            {"name": "v3", "secret": {"secretName": "s1"}},
            {"name": "v4", "configMap": {"name": "c3", "optional": True}},
            {
                "name": "v5",
                "projected": {"sources": [{"secret": {"name": "s3"}}, {"configMap": {"name": "c4"}}]},
            },
            {"name": "v6", "emptyDir": {}},
        ],
    )
    found = {(one.kind, one.name): one for one in template_references(made)}
    assert {name for kind, name in found if kind == "Secret"} == {"s1", "s2", "s3", "pull"}
    assert {name for kind, name in found if kind == "ConfigMap"} == {"c1", "c2", "c3", "c4"}
    assert found["PersistentVolumeClaim", "p1"].writable
    assert not found["PersistentVolumeClaim", "p2"].writable
    assert found["ServiceAccount", "sa"].field == f"{POD}.serviceAccountName"
    assert found["Secret", "pull"].optional
    assert found["ConfigMap", "c3"].optional
    # Optional in one place and needed in another is needed.
    assert not found["ConfigMap", "c1"].optional
    assert found["Secret", "s1"] == TemplateReference("Secret", "s1", f"{POD}.volumes[v3].secret.secretName")
    assert len(template_references(made)) == len(found)


def test_a_template_without_references() -> None:
    assert template_references(template()) == ()
