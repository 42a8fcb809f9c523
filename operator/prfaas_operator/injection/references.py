"""Objects of the same namespace that a pod template names. Pure: whether they exist is for others to see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prfaas_operator.injection.shapes import POD_FIELD, malformed


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
    """Each object once, in the order in which the template names them; required beats optional.

    Nothing of a template that the injection refuses for its shape.
    """
    found: dict[tuple[str, str], TemplateReference] = {}
    pod = _object(template.get("spec"))
    for reference in () if malformed(pod) else _walk(pod):
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
    if name := spec.get("serviceAccountName"):
        yield TemplateReference("ServiceAccount", str(name), f"{POD_FIELD}.serviceAccountName")
    for secret in spec.get("imagePullSecrets") or []:
        # The kubelet starts pods whose pull secrets are missing, if the image needs none.
        if name := secret.get("name"):
            yield TemplateReference("Secret", str(name), f"{POD_FIELD}.imagePullSecrets", optional=True)
    for volume in spec.get("volumes") or []:
        yield from _of_volume(volume, f"{POD_FIELD}.volumes[{volume.get('name')}]")
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or []:
            yield from _of_container(container, f"{POD_FIELD}.{group}[{container.get('name')}]")


def _of_volume(volume: Mapping[str, Any], field: str) -> Iterator[TemplateReference]:
    if claim := _object(volume.get("persistentVolumeClaim")):
        yield TemplateReference(
            "PersistentVolumeClaim",
            str(claim.get("claimName", "")),
            f"{field}.persistentVolumeClaim.claimName",
            writable=not claim.get("readOnly", False),
        )
    if secret := _object(volume.get("secret")):
        yield from _named("Secret", secret, f"{field}.secret.secretName", "secretName")
    if config := _object(volume.get("configMap")):
        yield from _named("ConfigMap", config, f"{field}.configMap.name")
    for index, source in enumerate(_objects(_object(volume.get("projected")).get("sources"))):
        at = f"{field}.projected.sources[{index}]"
        if secret := _object(source.get("secret")):
            yield from _named("Secret", secret, f"{at}.secret.name")
        if config := _object(source.get("configMap")):
            yield from _named("ConfigMap", config, f"{at}.configMap.name")
    if secret := _object(_object(volume.get("csi")).get("nodePublishSecretRef")):
        yield from _named("Secret", secret, f"{field}.csi.nodePublishSecretRef.name")


def _of_container(container: Mapping[str, Any], field: str) -> Iterator[TemplateReference]:
    for index, source in enumerate(container.get("envFrom") or []):
        if secret := _object(source.get("secretRef")):
            yield from _named("Secret", secret, f"{field}.envFrom[{index}].secretRef.name")
        if config := _object(source.get("configMapRef")):
            yield from _named("ConfigMap", config, f"{field}.envFrom[{index}].configMapRef.name")
    for variable in container.get("env") or []:
        source = _object(variable.get("valueFrom"))
        at = f"{field}.env[{variable.get('name')}].valueFrom"
        if secret := _object(source.get("secretKeyRef")):
            yield from _named("Secret", secret, f"{at}.secretKeyRef.name")
        if config := _object(source.get("configMapKeyRef")):
            yield from _named("ConfigMap", config, f"{at}.configMapKeyRef.name")


def _named(
    kind: str, source: Mapping[str, Any], field: str, key: str = "name"
) -> Iterator[TemplateReference]:
    if name := source.get(key):
        yield TemplateReference(kind, str(name), field, optional=bool(source.get("optional", False)))


def _object(value: Any) -> Mapping[str, Any]:
    """What is no object names nothing; the server's dry run says that it is wrong."""
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [_object(one) for one in value] if isinstance(value, list) else []
