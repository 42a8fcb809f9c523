"""What is kept of an object of the API: a few values instead of its body. Functions of values.

A thousand pools fit in little memory because no body, and nothing of managedFields but a hash, stays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from prfaas.api import keys
from prfaas.kube.resources import Object
from prfaas.pod_troubles import ContainerTrouble, container_troubles, pod_trouble
from prfaas_operator.planning.values import (
    FieldManager,
    ObservedChild,
    ObservedDeployment,
    ObservedPod,
    ObservedRequest,
    PoolKey,
)

T = TypeVar("T")
PREFIX = f"{keys.GROUP}/"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OWN_MANAGERS = frozenset({keys.MANAGER_CHILDREN, keys.MANAGER_SCALE, keys.MANAGER_STATUS})
# In the words of a refusal, different at each try; a message that changes is a status to write.
_MADE_UP_NAME = re.compile(r'(\b[Pp]ods? "[a-z0-9.-]+-)[a-z0-9]{5}"')
MESSAGE_MAX = 300
OTHERS_BY_RIGHT = frozenset({"kube-controller-manager"})


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """An object's name and version, whose it is, and what matters of it.

    Attributes:
        pool: by its labels, None when it belongs to no pool.
        owner_uid: uid of its controller, or "".
        owner_is_of_its_pool: its controller has kind and name of its pool: that pool, or an earlier one
            of the same name.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    pool: PoolKey | None
    owner_uid: str
    value: T
    owner_is_of_its_pool: bool = False


@dataclass(frozen=True, slots=True)
class CustomValue:
    """A pool, route or profile. `spec` and `status` are JSON: they are parsed in a pass and not kept.

    Attributes:
        replicas_in_last_applied: `kubectl apply` without --server-side will write `spec.replicas` again.
        names: the pools that a route names, its decode pool first.
    """

    generation: int
    created_at: datetime
    deleted: bool
    annotations: Mapping[str, str]
    spec: bytes
    status: bytes
    replicas_managers: tuple[FieldManager, ...]
    replicas_in_last_applied: bool = False
    names: tuple[PoolKey, ...] = ()


@dataclass(frozen=True, slots=True)
class PodValue:
    """A pod, before it is known which of its containers is the engine.

    Attributes:
        troubles: of its containers, while it is not ready.
        restarts: by container, where there were any.
        incarnation: changes whenever a container of the pod was started anew.
    """

    observed: ObservedPod
    address: str
    troubles: tuple[ContainerTrouble, ...]
    restarts: tuple[tuple[str, int], ...]
    incarnation: str


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The certificates in a Secret, PEM. Never its key."""

    certificate: bytes
    authority: bytes
    issued_for: str = ""
    """The Certificate of cert-manager's that it belongs to, or ""."""


@dataclass(frozen=True, slots=True)
class BudgetValue:
    """A PodDisruptionBudget: as a child, and as one that a user may have made."""

    child: ObservedChild
    selector: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class RegionValue:
    """A Region, as JSON like `CustomValue`."""

    generation: int
    spec: bytes
    status: bytes
    mirrored: bool


@dataclass(frozen=True, slots=True)
class AutoscalerValue:
    """What a HorizontalPodAutoscaler scales."""

    target_kind: str
    target_name: str


def pool_of(body: Object) -> PoolKey | None:
    """The pool that an object's labels name."""
    about = body["metadata"]
    labels = about.get("labels") or {}
    name, kind = labels.get(keys.LABEL_POOL), labels.get(keys.LABEL_POOL_KIND)
    if not name or kind not in {keys.PREFILL_POOL, keys.DECODE_POOL}:
        return None
    return PoolKey(cast("keys.PoolKind", kind), about.get("namespace", ""), name)


def fact_of(body: Object, value: T) -> Fact[T]:
    about = body["metadata"]
    owner: Mapping[str, Any] = next(
        (ref for ref in about.get("ownerReferences") or () if ref.get("controller")), {}
    )
    pool = pool_of(body)
    return Fact(
        about.get("namespace", ""),
        about["name"],
        about["uid"],
        about["resourceVersion"],
        pool,
        str(owner.get("uid", "")),
        value,
        pool is not None and (owner.get("kind"), owner.get("name")) == (pool.kind, pool.name),
    )


def custom(body: Mapping[str, Any]) -> Fact[CustomValue]:
    about = body["metadata"]
    value = CustomValue(
        generation=int(about.get("generation") or 0),
        created_at=_time(about.get("creationTimestamp")) or EPOCH,
        deleted=about.get("deletionTimestamp") is not None,
        annotations={
            key: text for key, text in (about.get("annotations") or {}).items() if key.startswith(PREFIX)
        },
        spec=json.dumps(body.get("spec") or {}, separators=(",", ":")).encode(),
        status=json.dumps(body.get("status") or {}, separators=(",", ":")).encode(),
        replicas_managers=replicas_managers(about.get("managedFields") or ()),
        replicas_in_last_applied=_replicas_in_last_applied(about.get("annotations") or {}),
        names=_named_pools(about.get("namespace", ""), body.get("spec") or {}),
    )
    return Fact(
        about.get("namespace", ""), about["name"], about["uid"], about["resourceVersion"], None, "", value
    )


def region(body: Object) -> Fact[RegionValue]:
    about = body["metadata"]
    value = RegionValue(
        generation=int(about.get("generation") or 0),
        spec=json.dumps(body.get("spec") or {}, separators=(",", ":")).encode(),
        status=json.dumps(body.get("status") or {}, separators=(",", ":")).encode(),
        mirrored=keys.LABEL_MIRRORED in (about.get("labels") or {}),
    )
    return Fact("", about["name"], about["uid"], about["resourceVersion"], None, "", value)


def pod(body: Object) -> Fact[PodValue]:
    about, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    conditions = {item.get("type"): item for item in status.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    scheduled = conditions.get("PodScheduled") or {}
    is_scheduled = scheduled.get("status") == "True"
    states = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    annotations = about.get("annotations") or {}
    observed = ObservedPod(
        name=about["name"],
        uid=about["uid"],
        revision=(about.get("labels") or {}).get(keys.LABEL_REVISION, ""),
        created_at=_time(about.get("creationTimestamp")) or EPOCH,
        phase=status.get("phase") or "Pending",
        ready=ready.get("status") == "True",
        ready_changed_at=_time(ready.get("lastTransitionTime")),
        scheduled_at=_time(scheduled.get("lastTransitionTime")) if is_scheduled else None,
        node=spec.get("nodeName") or "",
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        pending_reason="" if is_scheduled else scheduled.get("reason") or "",
        pending_message="" if is_scheduled else scheduled.get("message") or "",
        deletion_ends_at=_time(about.get("deletionTimestamp")),
        drain_since=_time(annotations.get(keys.ANNOTATION_DRAIN_SINCE)),
        trouble=pod_trouble(body),
    )
    value = PodValue(
        observed=observed,
        address=status.get("podIP") or "",
        troubles=()
        if observed.ready
        else tuple(trouble for trouble in container_troubles(body) if not trouble.over),
        restarts=tuple(
            (state["name"], count) for state in states if (count := int(state.get("restartCount") or 0))
        ),
        incarnation=_hash([about["uid"], *(state.get("containerID") or "" for state in states)]),
    )
    return fact_of(body, value)


def deployment(body: Object) -> Fact[ObservedDeployment]:
    about, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    managed = about.get("managedFields") or ()
    recorded, actual = recorded_owned_fields(body), owned_fields(managed)
    failure = next(
        (
            str(item.get("message") or item.get("reason") or "")
            for item in status.get("conditions") or ()
            if item.get("type") == "ReplicaFailure" and item.get("status") == "True"
        ),
        "",
    )
    value = ObservedDeployment(
        name=about["name"],
        uid=about["uid"],
        resource_version=about["resourceVersion"],
        ours=False,
        revision=_revision_of_pods(spec),
        replicas=int(spec.get("replicas", 1)),
        created_at=_time(about.get("creationTimestamp")) or EPOCH,
        is_current=int(status.get("observedGeneration") or 0) >= int(about.get("generation") or 0),
        deleted=about.get("deletionTimestamp") is not None,
        failure=_MADE_UP_NAME.sub(r'\1…"', failure),
        recorded_owned_fields=recorded,
        actual_owned_fields=actual,
        taken_over_by=other_managers(managed) if recorded != actual else "",
    )
    return fact_of(body, value)


def _revision_of_pods(spec: Mapping[str, Any]) -> str:
    """By the selector, which nobody can change; a label anybody can take off."""
    selected = (spec.get("selector") or {}).get("matchLabels") or {}
    return str(selected.get(keys.LABEL_REVISION, ""))


def child(body: Object, content: str) -> Fact[ObservedChild]:
    """A ConfigMap or PodDisruptionBudget. `content`: the field whose content matters."""
    about = body["metadata"]
    managed = about.get("managedFields") or ()
    recorded, actual = recorded_owned_fields(body), owned_fields(managed)
    value = ObservedChild(
        name=about["name"],
        uid=about["uid"],
        resource_version=about["resourceVersion"],
        ours=False,
        recorded_owned_fields=recorded,
        actual_owned_fields=actual,
        content=body.get(content) or {},
        taken_over_by=other_managers(managed, content) if recorded != actual else "",
    )
    return fact_of(body, value)


def config_map(body: Object) -> Fact[ObservedChild]:
    return child(body, "data")


def budget(body: Object) -> Fact[BudgetValue]:
    fact = child(body, "spec")
    return fact_of(body, BudgetValue(fact.value, (body.get("spec") or {}).get("selector")))


def request(body: Object) -> Fact[ObservedRequest]:
    """A Certificate of cert-manager's."""
    return fact_of(body, ObservedRequest(child(body, "spec").value, *readiness(body)))


def readiness(body: Object) -> tuple[bool | None, str]:
    """Its condition Ready, if it is about this generation, and the words."""
    generation = body["metadata"].get("generation")
    for each in (body.get("status") or {}).get("conditions") or ():
        if each.get("type") == "Ready" and each.get("observedGeneration", generation) == generation:
            return each.get("status") == "True", str(each.get("message") or "")[:MESSAGE_MAX]
    return None, ""


def autoscaler(body: Object) -> Fact[AutoscalerValue]:
    target = (body.get("spec") or {}).get("scaleTargetRef") or {}
    return fact_of(body, AutoscalerValue(target.get("kind", ""), target.get("name", "")))


def recorded_owned_fields(body: Object) -> str:
    """The annotation in which the operator wrote down what it owns."""
    return str((body["metadata"].get("annotations") or {}).get(keys.ANNOTATION_OWNED_FIELDS, ""))


def owned_fields(managed_fields: Iterable[Mapping[str, Any]]) -> str:
    """Hash of the fields that the operator owns by server-side apply, without `spec.replicas`, which is
    scaled.

    Empty when it owns none.
    """
    for entry in managed_fields:
        if _is_own_apply(entry):
            fields = dict(entry.get("fieldsV1") or {})
            if "f:spec" in fields:
                fields["f:spec"] = {k: v for k, v in fields["f:spec"].items() if k != "f:replicas"}
            return _hash(fields)
    return ""


def owned_fields_of(manifest: Mapping[str, Any]) -> str:
    """The same hash for a small child that is to be applied with its annotation, as the server will find it.

    In these kinds every mapping is divided into its keys but a selector, and no list but the owners.
    """
    about = manifest["metadata"]
    metadata: dict[str, Any] = {"f:annotations": {f"f:{keys.ANNOTATION_OWNED_FIELDS}": {}}}
    if about.get("labels"):
        metadata["f:labels"] = {f"f:{name}": {} for name in about["labels"]}
    if about.get("ownerReferences"):
        metadata["f:ownerReferences"] = {
            "k:" + json.dumps({"uid": owner["uid"]}, separators=(",", ":")): {}
            for owner in about["ownerReferences"]
        }
    parts: dict[str, Any] = {
        f"f:{part}": {f"f:{name}": {} for name in manifest[part]}
        for part in ("data", "spec")
        if manifest.get(part)
    }
    return _hash({"f:metadata": metadata, **parts})


def other_managers(managed_fields: Iterable[Mapping[str, Any]], part: str = "spec") -> str:
    """Who else, apart from Kubernetes itself, owns something of this part."""
    names = {
        str(entry.get("manager"))
        for entry in managed_fields
        if entry.get("manager") not in OWN_MANAGERS | OTHERS_BY_RIGHT
        and not entry.get("subresource")
        and f"f:{part}" in (entry.get("fieldsV1") or {})
    }
    return ", ".join(sorted(names))


def replicas_managers(managed_fields: Iterable[Mapping[str, Any]]) -> tuple[FieldManager, ...]:
    """Who owns `spec.replicas`."""
    return tuple(
        FieldManager(
            str(entry.get("manager", "")), str(entry.get("operation", "")), str(entry.get("subresource", ""))
        )
        for entry in managed_fields
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    )


def _replicas_in_last_applied(annotations: Mapping[str, str]) -> bool:
    """Whether the manifest that `kubectl apply` wrote down has `spec.replicas`."""
    try:
        spec = json.loads(annotations.get(LAST_APPLIED, "{}"))["spec"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(spec, dict) and spec.get("replicas") is not None


def is_newer(version: str, than: str) -> bool:
    """Whether a resource version is newer. Those of one collection are ordered numbers."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


def _named_pools(namespace: str, spec: Mapping[str, Any]) -> tuple[PoolKey, ...]:
    decode = (spec.get("decodePoolRef") or {}).get("name")
    if not decode:
        return ()
    prefill = (ref.get("name") for ref in spec.get("prefillPoolRefs") or ())
    return (
        PoolKey(keys.DECODE_POOL, namespace, decode),
        *(PoolKey(keys.PREFILL_POOL, namespace, name) for name in prefill if name),
    )


def _is_own_apply(entry: Mapping[str, Any]) -> bool:
    return (
        entry.get("manager") == keys.MANAGER_CHILDREN
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    )


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
