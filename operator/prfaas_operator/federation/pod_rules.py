"""What pods of a mirrored pool may not have: a hub must not gain the nodes of its members.

The chart ships the same as a ValidatingAdmissionPolicy, for hubs that are stronger than an operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_CAPABILITIES = frozenset({"ALL", "SYS_ADMIN"})
DEFAULT_ACCOUNT = "default"


def forbidden(
    pool_spec: Mapping[str, Any],
    namespace: str,
    allowed_service_accounts: frozenset[str],
    allowed_host_paths: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """What is against the rules in a pool's pods, each with its field."""
    found: list[str] = []
    for path, template in _templates(pool_spec):
        spec = _mapping(template.get("spec"))
        found += _of_pod(f"{path}.spec", spec, namespace, allowed_service_accounts)
        found += _host_paths(f"{path}.spec", spec, allowed_host_paths)
    return tuple(found)


def _of_pod(path: str, spec: Mapping[str, Any], namespace: str, allowed: frozenset[str]) -> Iterator[str]:
    for name in _HOST_FIELDS:
        if spec.get(name):
            yield f"{path}.{name}: not in a mirrored pool"
    # The deprecated name of the field works as the other does.
    for field in ("serviceAccountName", "serviceAccount"):
        account = spec.get(field) or DEFAULT_ACCOUNT
        if account != DEFAULT_ACCOUNT and not {account, f"{namespace}/{account}"} & allowed:
            yield (
                f"{path}.{field}: ServiceAccount {account} is not allowed here: add it to "
                "federation.allowedServiceAccounts"
            )
    if _windows_host_process(spec):
        yield f"{path}.securityContext.windowsOptions.hostProcess: not in a mirrored pool"
    for field in _CONTAINERS:
        for container in _list(spec.get(field)):
            where = f"{path}.{field}[{container.get('name')}].securityContext"
            context = _mapping(container.get("securityContext"))
            if context.get("privileged"):
                yield f"{where}.privileged: not in a mirrored pool"
            if _windows_host_process(container):
                yield f"{where}.windowsOptions.hostProcess: not in a mirrored pool"
            added = {str(each) for each in _mapping(context.get("capabilities")).get("add") or ()}
            for capability in sorted(added & _CAPABILITIES):
                yield f"{where}.capabilities.add: {capability} not in a mirrored pool"


def _host_paths(path: str, spec: Mapping[str, Any], allowed: tuple[str, ...]) -> Iterator[str]:
    """Folders of nodes: those that are allowed, read-only."""
    names = set()
    for volume in _list(spec.get("volumes")):
        if "hostPath" not in volume:
            continue
        names.add(volume.get("name"))
        folder = str(_mapping(volume["hostPath"]).get("path"))
        if not any(_is_below(folder, each) for each in allowed):
            yield (
                f"{path}.volumes[{volume.get('name')}].hostPath: {folder} is not in "
                "federation.allowedHostPaths here"
            )
    for field in _CONTAINERS:
        for container in _list(spec.get(field)):
            for mount in _list(container.get("volumeMounts")):
                if mount.get("name") in names and mount.get("readOnly") is not True:
                    where = f"{path}.{field}[{container.get('name')}].volumeMounts[{mount.get('name')}]"
                    yield f"{where}: a folder of the node has to be readOnly in a mirrored pool"


def _is_below(folder: str, allowed: str) -> bool:
    return ".." not in folder and f"{folder}/".startswith(f"{allowed.rstrip('/')}/")


def _windows_host_process(holder: Mapping[str, Any]) -> bool:
    context = _mapping(holder.get("securityContext"))
    return bool(_mapping(context.get("windowsOptions")).get("hostProcess"))


def _templates(pool_spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    workload = _mapping(pool_spec.get("workload"))
    group = _mapping(workload.get("leaderWorkerTemplate"))
    for path, template in (
        ("spec.workload.template", workload.get("template")),
        ("spec.workload.leaderWorkerTemplate.leaderTemplate", group.get("leaderTemplate")),
        ("spec.workload.leaderWorkerTemplate.workerTemplate", group.get("workerTemplate")),
    ):
        if isinstance(template, Mapping):
            yield path, template


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Iterator[Mapping[str, Any]]:
    return (each for each in (value if isinstance(value, list) else ()) if isinstance(each, Mapping))
