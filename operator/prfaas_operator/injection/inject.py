"""From a pool to its pods: the user's template and what prfaas adds. A function of values."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from prfaas.api import keys
from prfaas.api.conditions import Reason
from prfaas.api.keys import PREFILL_POOL
from prfaas.api.v1alpha1 import ChargedTo, Pool, quantity_bytes
from prfaas_operator.injection import checks, containers, names, reach
from prfaas_operator.injection.engines import ADAPTERS, EngineAdapter
from prfaas_operator.injection.quantities import is_guaranteed
from prfaas_operator.injection.results import Injected, InjectionInfo, Refusal, Refusals, Template
from prfaas_operator.injection.settings import Settings
from prfaas_operator.injection.shapes import malformed
from prfaas_operator.injection.sidecar_config import sidecar_config

_ENGINE_PROBES: Mapping[str, Mapping[str, int]] = {
    # A large model is fetched, loaded and compiled for; an hour of that is not yet a failure.
    "startupProbe": {"periodSeconds": 5, "failureThreshold": 720, "timeoutSeconds": 5},
    "readinessProbe": {"periodSeconds": 5, "failureThreshold": 3, "timeoutSeconds": 5},
    # A step with a long prompt answers late; a restart costs minutes.
    "livenessProbe": {"periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 10},
}


def inject(pool: Pool, settings: Settings) -> Injected | Refusals:
    """The pods of a pool without the revision's label, or every reason why there can be none."""
    template = pool.spec.workload.template
    if template is None:
        return Refusals((_no_template(pool),))
    adapter = ADAPTERS.get(pool.spec.engine.type)
    if adapter is None:
        return Refusals((_no_adapter(pool),))
    metadata = {"labels": dict(template.metadata.labels), "annotations": dict(template.metadata.annotations)}
    result: Template = {"metadata": metadata, "spec": copy.deepcopy(dict(template.spec))}
    pod: dict[str, Any] = result["spec"]
    if wrong := malformed(pod):
        return Refusals(wrong)
    engine = checks.engine_of(pool, pod)
    if not engine:
        return Refusals((_no_engine(pool, pod),))
    labels = pod_labels(pool)
    arguments = adapter.arguments(pool, engine, checks.container_field(pool))
    refusals = [
        *checks.conflicts(pool, result, labels),
        *reach.refusals(pool, settings, pod, checks.user_containers(pod)),
    ]
    if isinstance(arguments, tuple):
        return Refusals((*arguments, *refusals))
    if refusals:
        return Refusals(tuple(refusals))
    metadata["labels"].update(labels)
    if not metadata["annotations"]:
        del metadata["annotations"]
    token = drain_token(pool) if pool.spec.drain.timeout_seconds else None
    guaranteed = is_guaranteed([container for _, container in checks.user_containers(pod)])
    for container in pod["containers"]:
        if container["name"] == pool.spec.engine.container:
            _engine(pool, settings, container, arguments, adapter, token)
    config = sidecar_config(pool, settings, token)
    pod["initContainers"] = [
        *containers.init_containers(pool, settings, config, pod, guaranteed=guaranteed),
        *(pod.get("initContainers") or []),
    ]
    pod["volumes"] = [*(pod.get("volumes") or []), *containers.volumes(pool, settings)]
    _pod(pool, settings, pod)
    return Injected(result, _info(pool, settings))


def pod_labels(pool: Pool) -> dict[str, str]:
    """Labels of every pod of the pool, but for the revision."""
    return {
        keys.LABEL_POOL: pool.metadata.name,
        keys.LABEL_POOL_KIND: pool.kind,
        keys.LABEL_MANAGED_BY: keys.MANAGED_BY,
        keys.LABEL_ROLE: keys.role_of(pool.kind),
    }


def drain_token(pool: Pool) -> str:
    """Who knows it may drain the pool's pods: whoever may read them, as the uid cannot be guessed."""
    identity = (pool.kind, pool.metadata.namespace, pool.metadata.name, pool.metadata.uid)
    return hashlib.sha256("\0".join(("prfaas-drain-v1", *identity)).encode()).hexdigest()[:40]


def _engine(
    pool: Pool,
    settings: Settings,
    container: dict[str, Any],
    arguments: list[str],
    adapter: EngineAdapter,
    token: str | None,
) -> None:
    container["args"] = [*(container.get("args") or []), *arguments]
    container["env"] = _environment(container.get("env") or [], has_sources=bool(container.get("envFrom")))
    ports = container.get("ports") or []
    port = pool.spec.engine.port
    if not any(one.get("containerPort") == port and one.get("protocol", "TCP") == "TCP" for one in ports):
        ports = [*ports, {"name": names.ENGINE_PORT_NAME, "containerPort": port, "protocol": "TCP"}]
    container["ports"] = [*ports, *containers.node_ports(pool)]
    container["volumeMounts"] = [
        *(container.get("volumeMounts") or []),
        *containers.engine_mounts(settings),
    ]
    # Beside a liveness probe of the user's own, a startup probe would put that off.
    unwanted = {"startupProbe"} if container.get("livenessProbe") is not None else set()
    for probe, timing in _ENGINE_PROBES.items():
        if container.get(probe) is None and probe not in unwanted:
            container[probe] = {"httpGet": {"path": adapter.health_path, "port": port}, **timing}
    if token is not None:
        container["lifecycle"] = {
            **(container.get("lifecycle") or {}),
            "preStop": {"httpGet": {"path": drain_path(pool, token), "port": names.HEALTH_PORT}},
        }


def drain_path(pool: Pool, token: str) -> str:
    """What the kubelet calls before it ends the engine."""
    return f"/drain?seconds={pool.spec.drain.timeout_seconds}&token={token}"


def _environment(variables: list[dict[str, Any]], *, has_sources: bool) -> list[dict[str, Any]]:
    """The variables with the connector's folder first in PYTHONPATH.

    Args:
        has_sources: there is an `envFrom`, which may bring a PYTHONPATH that ours would hide. The kubelet
            puts its value in the place of `$(PYTHONPATH)`; without one these letters stay, a folder that is
            not there.
    """
    own = next((one for one in variables if one.get("name") == "PYTHONPATH"), None)
    # An empty entry would be the working directory.
    before = f":{own['value']}" if own is not None and own.get("value") else ""
    if own is None and has_sources:
        before = ":$(PYTHONPATH)"
    ours = {"name": "PYTHONPATH", "value": f"{names.CONNECTOR_PATH}{before}"}
    return [*variables, ours] if own is None else [ours if one is own else one for one in variables]


def _pod(pool: Pool, settings: Settings, pod: dict[str, Any]) -> None:
    if pool.spec.drain.timeout_seconds and pod.get("terminationGracePeriodSeconds") is None:
        pod["terminationGracePeriodSeconds"] = max(checks.grace_seconds(pool), names.KUBERNETES_GRACE_SECONDS)
    secrets = pod.get("imagePullSecrets") or []
    known = {secret.get("name") for secret in secrets}
    added = [{"name": name} for name in settings.image_pull_secrets if name not in known]
    if added:
        pod["imagePullSecrets"] = [*secrets, *added]


def _info(pool: Pool, settings: Settings) -> InjectionInfo:
    return InjectionInfo(
        version=settings.version,
        sidecar_image=settings.sidecar_image,
        connector_image=settings.connector_image,
        arena_bytes=quantity_bytes(pool.spec.kv.arena),
        charged_to=ChargedTo.ENGINE if pool.kind == PREFILL_POOL else ChargedTo.SIDECAR,
    )


def _no_template(pool: Pool) -> Refusal:
    if pool.spec.workload.leader_worker_template is not None:
        return Refusal(
            "spec.workload.leaderWorkerTemplate",
            Reason.NOT_IMPLEMENTED,
            "engine instances of several pods are not implemented yet: use spec.workload.template",
        )
    return Refusal("spec.workload.template", Reason.TEMPLATE_REJECTED, "a pod template is missing: add it")


def _no_adapter(pool: Pool) -> Refusal:
    known = ", ".join(sorted(ADAPTERS))
    return Refusal(
        "spec.engine.type",
        Reason.ENGINE_NOT_SUPPORTED,
        f"{pool.spec.engine.type} has no connector yet: use {known}, in a new pool as the type is immutable",
    )


def _no_engine(pool: Pool, pod: Mapping[str, Any]) -> Refusal:
    known = ", ".join(str(container.get("name")) for container in pod.get("containers") or []) or "none"
    return Refusal(
        "spec.engine.container",
        Reason.ENGINE_CONTAINER_MISSING,
        f"the template has no container {pool.spec.engine.container!r} (it has: {known}): name the engine's "
        "container here, or rename it",
    )
