"""Objects of the same namespace that a pod template names. Pure: whether they exist is for others to see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TEMPLATE_FIELD = "spec.workload.template"


@dataclass(frozen=True, slots=True, order=True)
class TemplateReference:
    """
    Attributes:
        kind: Secret, ConfigMap, PersistentVolumeClaim or ServiceAccount.
        field: path of the first place in the pool that names it.
        optional: pods start without it.
        writable: a PersistentVolumeClaim that is not mounted read-only everywhere: with the access mode
            ReadWriteOnce or ReadWriteOncePod it cannot serve pods on several nodes.
    """

    kind: str
    name: str
    field: str
    optional: bool = False
    writable: bool = False


def template_references(template: Mapping[str, Any]) -> tuple[TemplateReference, ...]:
    """Each object once, in the order in which the template names them; required beats optional."""
    found: dict[tuple[str, str], TemplateReference] = {}
    for reference in _walk(template.get("spec") or {}):
        key = (reference.kind, reference.name)
        known = found.get(key)
        if known is None:
            found[key] = reference
        else:
            found[key] = TemplateReference(
                known.kind,
                known.name,
                known.field if not known.optional or reference.optional else reference.field,
                known.optional and reference.optional,
                known.writable or reference.writable,
            )
    return tuple(found.values())


def _walk(spec: Mapping[str, Any]) -> Iterator[TemplateReference]:
    base = f"{TEMPLATE_FIELD}.spec"
    if name := spec.get("serviceAccountName"):
        yield TemplateReference("ServiceAccount", name, f"{base}.serviceAccountName")
    for secret in spec.get("imagePullSecrets") or []:
        # The kubelet starts pods whose pull secrets are missing, if the image needs none.
        if name := secret.get("name"):
            yield TemplateReference("Secret", name, f"{base}.imagePullSecrets", optional=True)
    for volume in spec.get("volumes") or []:
        yield from _of_volume(volume, f"{base}.volumes[{volume.get('name')}]")
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or []:
            yield from _of_container(container, f"{base}.{group}[{container.get('name')}]")


def _of_volume(volume: Mapping[str, Any], field: str) -> Iterator[TemplateReference]:
    if claim := volume.get("persistentVolumeClaim"):
        yield TemplateReference(
            "PersistentVolumeClaim",
            claim.get("claimName", ""),
            f"{field}.persistentVolumeClaim.claimName",
            writable=not claim.get("readOnly", False),
        )
    if secret := volume.get("secret"):
        yield from _named("Secret", secret, f"{field}.secret.secretName", "secretName")
    if config := volume.get("configMap"):
        yield from _named("ConfigMap", config, f"{field}.configMap.name")
    for index, source in enumerate((volume.get("projected") or {}).get("sources") or []):
        at = f"{field}.projected.sources[{index}]"
        if secret := source.get("secret"):
            yield from _named("Secret", secret, f"{at}.secret.name")
        if config := source.get("configMap"):
            yield from _named("ConfigMap", config, f"{at}.configMap.name")
    if secret := (volume.get("csi") or {}).get("nodePublishSecretRef"):
        yield from _named("Secret", secret, f"{field}.csi.nodePublishSecretRef.name")


def _of_container(container: Mapping[str, Any], field: str) -> Iterator[TemplateReference]:
    for index, source in enumerate(container.get("envFrom") or []):
        if secret := source.get("secretRef"):
            yield from _named("Secret", secret, f"{field}.envFrom[{index}].secretRef.name")
        if config := source.get("configMapRef"):
            yield from _named("ConfigMap", config, f"{field}.envFrom[{index}].configMapRef.name")
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        at = f"{field}.env[{variable.get('name')}].valueFrom"
        if secret := source.get("secretKeyRef"):
            yield from _named("Secret", secret, f"{at}.secretKeyRef.name")
        if config := source.get("configMapKeyRef"):
            yield from _named("ConfigMap", config, f"{at}.configMapKeyRef.name")


def _named(
    kind: str, source: Mapping[str, Any], field: str, key: str = "name"
) -> Iterator[TemplateReference]:
    if name := source.get(key):
        yield TemplateReference(kind, name, field, optional=bool(source.get("optional", False)))
