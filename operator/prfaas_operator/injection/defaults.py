"""Pod templates without what the API server would fill in anyway: with it or without, the same pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from prfaas_operator.injection.quantities import amount

_POD: Final[Mapping[str, Any]] = {
    "dnsPolicy": "ClusterFirst",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
    "hostIPC": False,
    "hostNetwork": False,
    "hostPID": False,
    "shareProcessNamespace": False,
}
_CONTAINER: Final[Mapping[str, Any]] = {
    "resources": {},
    "stdin": False,
    "stdinOnce": False,
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "tty": False,
}
_PROBE: Final[Mapping[str, Any]] = {
    "failureThreshold": 3,
    "periodSeconds": 10,
    "successThreshold": 1,
    "timeoutSeconds": 1,
    "initialDelaySeconds": 0,
}
_VOLUME_MODE: Final = 0o644


def without_defaults(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template without fields that say what their absence says; empty ones and null ones among them.

    The grace period of 30 seconds goes too: a pod without one gets the one that its drain needs.
    """
    spec = _without(template.get("spec") or {}, _POD)
    for group in ("initContainers", "containers"):
        if spec.get(group):
            spec[group] = [_container(one) for one in spec[group]]
    if spec.get("volumes"):
        spec["volumes"] = [_volume(one) for one in spec["volumes"]]
    # The old name of the field below, which the server fills in beside it.
    if "serviceAccount" in spec and spec["serviceAccount"] in (spec.get("serviceAccountName"), "default"):
        del spec["serviceAccount"]
    if spec.get("serviceAccountName") == "default":
        spec.pop("serviceAccountName")
    metadata = {
        key: dict(value)
        for key, value in (template.get("metadata") or {}).items()
        if key in ("labels", "annotations") and value
    }
    return ({"metadata": metadata} if metadata else {}) | {"spec": spec}


def canonical(template: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with amounts of resources in one notation (`1000m` is `1`), to be compared as JSON."""
    found = without_defaults(template)
    for group in ("initContainers", "containers"):
        for container in found["spec"].get(group) or []:
            if resources := container.get("resources"):
                container["resources"] = _amounts(resources)
    return found


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    found = _without(container, _CONTAINER)
    found = _without(found, {"imagePullPolicy": _pull_policy(found.get("image"))})
    if isinstance(found.get("lifecycle"), Mapping):
        found["lifecycle"] = {event: _handler(handler) for event, handler in found["lifecycle"].items()}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if isinstance(found.get(probe), Mapping):
            found[probe] = _probe(found[probe])
    if found.get("ports"):
        found["ports"] = [_without(port, {"protocol": "TCP"}) for port in found["ports"]]
    if found.get("volumeMounts"):
        found["volumeMounts"] = [_without(mount, {"readOnly": False}) for mount in found["volumeMounts"]]
    if found.get("env"):
        found["env"] = [_variable(variable) for variable in found["env"]]
    return found


def _variable(variable: Mapping[str, Any]) -> dict[str, Any]:
    found = _without(variable, {"value": ""})
    source = found.get("valueFrom")
    reference = source.get("fieldRef") if isinstance(source, Mapping) else None
    if isinstance(reference, Mapping) and reference.get("apiVersion") == "v1":
        found["valueFrom"] = {"fieldRef": {k: v for k, v in reference.items() if k != "apiVersion"}}
    return found


def _pull_policy(image: Any) -> str:
    """What the server takes: `latest`, written or left out, is pulled always."""
    name = str(image or "").rsplit("/", 1)[-1]
    latest = "@" not in name and (":" not in name or name.endswith(":latest"))
    return "Always" if latest else "IfNotPresent"


def _probe(probe: Mapping[str, Any]) -> Any:
    return _handler(_without(probe, _PROBE))


def _handler(handler: Any) -> Any:
    if not isinstance(handler, Mapping) or not isinstance(handler.get("httpGet"), Mapping):
        return handler
    return {**handler, "httpGet": _without(handler["httpGet"], {"scheme": "HTTP"})}


def _volume(volume: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(volume)
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if isinstance(found.get(source), Mapping):
            found[source] = _without(found[source], {"defaultMode": _VOLUME_MODE})
    if isinstance(found.get("image"), Mapping):
        policy = _pull_policy(found["image"].get("reference"))
        found["image"] = _without(found["image"], {"pullPolicy": policy})
    if isinstance(found.get("hostPath"), Mapping):
        found["hostPath"] = _without(found["hostPath"], {"type": ""})
    if isinstance(found.get("persistentVolumeClaim"), Mapping):
        found["persistentVolumeClaim"] = _without(found["persistentVolumeClaim"], {"readOnly": False})
    return found


def _without(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in fields.items()
        if value is not None and value != [] and not (key in defaults and value == defaults[key])
    }


def _amounts(resources: Mapping[str, Any]) -> dict[str, Any]:
    read: Callable[[Any], str] = lambda value: format(amount(value).normalize(), "f")  # noqa: E731
    return {
        key: {name: read(value) for name, value in amounts.items()}
        if key in ("requests", "limits") and isinstance(amounts, Mapping)
        else amounts
        for key, amounts in resources.items()
    }
