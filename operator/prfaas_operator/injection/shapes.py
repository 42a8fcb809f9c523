"""The shapes that the injection relies on: a pool's schema lets a pod be nearly anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prfaas.api.conditions import Reason
from prfaas_operator.injection.results import Refusal

TEMPLATE_FIELD = "spec.workload.template"
POD_FIELD = f"{TEMPLATE_FIELD}.spec"

_KEYS = {"name": str, "mountPath": str, "protocol": str, "containerPort": int}


def malformed(pod: Mapping[str, Any]) -> tuple[Refusal, ...]:
    """What could not be walked. Everything else is for the server's dry run to find."""
    return tuple(_walk(pod))


def _walk(pod: Mapping[str, Any]) -> Iterator[Refusal]:
    for group in ("containers", "initContainers", "volumes", "imagePullSecrets"):
        if not _list_of_objects(pod.get(group)):
            yield _shape(
                f"{POD_FIELD}.{group}",
                "a list of objects, with names that are texts and ports that are numbers",
            )
    for field in ("securityContext", "resources"):
        if not isinstance(pod.get(field) or {}, Mapping):
            yield _shape(f"{POD_FIELD}.{field}", "an object")
    grace = pod.get("terminationGracePeriodSeconds")
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int)):
        yield _shape(f"{POD_FIELD}.terminationGracePeriodSeconds", "a whole number")
    for group in ("containers", "initContainers"):
        for container in pod.get(group) or [] if _list_of_objects(pod.get(group)) else []:
            yield from _malformed_container(container, f"{POD_FIELD}.{group}[{container.get('name')}]")


def _malformed_container(container: Mapping[str, Any], field: str) -> Iterator[Refusal]:
    for name in ("env", "envFrom", "ports", "volumeMounts"):
        if not _list_of_objects(container.get(name)):
            yield _shape(
                f"{field}.{name}", "a list of objects, with names that are texts and ports that are numbers"
            )
    for name in ("command", "args"):
        tokens = container.get(name) or []
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            yield _shape(f"{field}.{name}", "a list of texts (put numbers in quotes)")
    for name in ("resources", "lifecycle"):
        if not isinstance(container.get(name) or {}, Mapping):
            yield _shape(f"{field}.{name}", "an object")
    resources = container.get("resources") or {}
    for name in ("requests", "limits") if isinstance(resources, Mapping) else ():
        if not isinstance(resources.get(name) or {}, Mapping):
            yield _shape(f"{field}.resources.{name}", "an object")


def _list_of_objects(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_item, value)))


def _is_item(value: Any) -> bool:
    """An object whose keys by which lists are searched are of their types."""
    return isinstance(value, Mapping) and all(
        value.get(key) is None or (isinstance(value[key], kind) and not isinstance(value[key], bool))
        for key, kind in _KEYS.items()
    )


def _shape(field: str, wanted: str) -> Refusal:
    return Refusal(field, Reason.TEMPLATE_REJECTED, f"this has to be {wanted}")
