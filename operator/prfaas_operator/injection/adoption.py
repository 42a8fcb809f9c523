"""From a Deployment of the user's to the pool that yields the same pods plus the injection."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prfaas.api.keys import (
    ANNOTATION_DELETION_COST,
    API_VERSION,
    DECODE_POOL,
    GROUP,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    LABEL_ROLE,
    POOL_NAME_MAX_CHARACTERS,
    PREFILL_POOL,
    ROLE_PREFILL,
    PoolKind,
)
from prfaas_operator.injection import names
from prfaas_operator.injection.defaults import without_defaults
from prfaas_operator.injection.engines import vllm
from prfaas_operator.injection.shapes import malformed

_DROPPED_LABELS = ("pod-template-hash", LABEL_MANAGED_BY, LABEL_ROLE)
_DROPPED_ANNOTATIONS = ("kubectl.kubernetes.io/restartedAt", ANNOTATION_DELETION_COST)
# Fields of one certain pod, which no two pods of a pool can share.
_DROPPED_FIELDS = ("nodeName", "hostname", "subdomain")
_DRAIN_SECONDS = 120
DEFAULT_PORT = 8000


class AdoptionError(ValueError):
    """The Deployment cannot become a pool; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """
    Attributes:
        pool: as the user would write it, without status.
        notes: what is different, or worth a look before it is applied.
    """

    pool: dict[str, Any]
    notes: tuple[str, ...]


def adopt(
    deployment: Mapping[str, Any], *, kind: PoolKind | None = None, container: str | None = None
) -> Adoption:
    """
    Args:
        kind: None: by the label `llm-d.ai/role` of its pods, else a DecodePool.
        container: name of the engine's; None: the only one, one named `engine`, or the only one that looks
            like an engine.

    Raises:
        AdoptionError: it is no Deployment, is a pool's already, or has no engine that can be recognised.
    """
    if deployment.get("kind") != "Deployment":
        raise AdoptionError(
            f"this is a {deployment.get('kind', 'document')}, and only a Deployment can be adopted"
        )
    template = (deployment.get("spec") or {}).get("template") or {}
    metadata, pod = template.get("metadata") or {}, template.get("spec") or {}
    if wrong := malformed(pod):
        raise AdoptionError(f"the pod template cannot be read: {wrong[0]}")
    labels = metadata.get("labels") or {}
    if LABEL_POOL in labels:
        raise AdoptionError(f"this Deployment belongs to the pool {labels[LABEL_POOL]} already")
    engine = _engine(pod, container)
    notes: list[str] = []
    chosen = kind or (PREFILL_POOL if labels.get(LABEL_ROLE) == ROLE_PREFILL else DECODE_POOL)
    if kind is None and LABEL_ROLE not in labels:
        notes.append(f"nothing says what the engines are for: taken for a {chosen}; --kind says otherwise")
    spec: dict[str, Any] = {
        "replicas": int((deployment.get("spec") or {}).get("replicas", 1)),
        "model": {"name": _model(engine)},
        "engine": _engine_fields(engine),
        "workload": {"template": _template(template, notes)},
        **_drain(pod, engine, notes),
        **_rollout(deployment, notes),
    }
    name = str((deployment.get("metadata") or {}).get("name", ""))
    if len(name) > POOL_NAME_MAX_CHARACTERS:
        notes.append(f"a pool's name has at most {POOL_NAME_MAX_CHARACTERS} characters: choose another")
    notes.append(
        f"the pods of the Deployment {name} stay: scale it to 0 when the pool's are ready, or both need room"
    )
    namespace = (deployment.get("metadata") or {}).get("namespace")
    return Adoption(
        {
            "apiVersion": API_VERSION,
            "kind": chosen,
            "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
            "spec": spec,
        },
        tuple(notes),
    )


def _engine(pod: Mapping[str, Any], wanted: str | None) -> Mapping[str, Any]:
    containers = pod.get("containers") or []
    known = ", ".join(str(one.get("name")) for one in containers) or "none"
    if wanted is not None:
        found = [one for one in containers if one.get("name") == wanted]
    elif len(containers) == 1:
        found = list(containers)
    else:
        found = [one for one in containers if one.get("name") == "engine"] or [
            one for one in containers if vllm.looks_like_it(one)
        ]
    if len(found) != 1:
        raise AdoptionError(f"which container is the engine? Say it with --container (there are: {known})")
    engine: Mapping[str, Any] = found[0]
    return engine


def _model(engine: Mapping[str, Any]) -> str:
    name = vllm.served_model(engine)
    if name is None:
        raise AdoptionError(
            f"the container {engine.get('name')} does not show which model it serves: write the model, or "
            "--served-model-name, into its args"
        )
    return name


def _engine_fields(engine: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": "VLLM"}
    if engine.get("name") != "engine":
        fields["container"] = engine.get("name")
    port = vllm.port(engine)
    if port is not None and port != DEFAULT_PORT:
        fields["port"] = port
    return fields


def _template(template: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    found = without_defaults(copy.deepcopy(dict(template)))
    metadata = found.get("metadata") or {}
    for group, dropped in (("labels", _DROPPED_LABELS), ("annotations", _DROPPED_ANNOTATIONS)):
        values = metadata.get(group) or {}
        gone = [key for key in values if key in dropped or key.split("/", 1)[0] == GROUP]
        kept = {key: value for key, value in values.items() if key not in gone}
        metadata = {**metadata, group: kept} if kept else {k: v for k, v in metadata.items() if k != group}
        notes.extend(
            f"{group[:-1]} {key} is left out: prfaas sets it" for key in gone if key == LABEL_MANAGED_BY
        )
    for field in _DROPPED_FIELDS:
        if field in found["spec"]:
            notes.append(f"spec.{field} is left out: it is one pod's own")
            del found["spec"][field]
    return ({"metadata": metadata} if metadata else {}) | {"spec": found["spec"]}


def _drain(pod: Mapping[str, Any], engine: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    if (engine.get("lifecycle") or {}).get("preStop") is not None:
        notes.append("the engine has a preStop of its own: it stays, and the pool has no drain")
        return {"drain": {"timeoutSeconds": 0}}
    grace = pod.get("terminationGracePeriodSeconds", names.KUBERNETES_GRACE_SECONDS)
    # 30 is what the server fills in, and goes with the other defaults.
    if grace == names.KUBERNETES_GRACE_SECONDS or grace >= _DRAIN_SECONDS + names.SHUTDOWN_SECONDS:
        return {}
    seconds = max(0, int(grace) - names.SHUTDOWN_SECONDS)
    notes.append(f"the drain is {seconds} s, as the grace period of {grace} s holds no longer one")
    return {"drain": {"timeoutSeconds": seconds}}


def _rollout(deployment: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    strategy = (deployment.get("spec") or {}).get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    numbers = {
        key: value
        for key, value in rolling.items()
        if key in ("maxSurge", "maxUnavailable") and isinstance(value, int) and not isinstance(value, bool)
    }
    if any(isinstance(value, str) and value != "25%" for value in rolling.values()):
        notes.append("percentages of the rolling update are left out: a pool takes numbers of instances")
    wanted = {"maxUnavailable": 1, "maxSurge": 0} | numbers
    if not numbers or wanted == {"maxUnavailable": 1, "maxSurge": 0}:
        return {}
    if wanted == {"maxUnavailable": 0, "maxSurge": 0}:
        return {}
    return {"rollout": wanted}
