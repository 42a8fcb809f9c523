"""Which revision a pool is to run, and whether it can be made."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Protocol

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.v1alpha1 import POOL_CLASSES, ConditionStatus, EngineType, ObjectMeta, Pool, PoolSpec
from prfaas_operator.injection import Injected, Refusals, Settings, inject, revision_hash
from prfaas_operator.planning.children import deployment_name, is_drifted, may_not_repair
from prfaas_operator.planning.values import ChildKind, ObservedDeployment, ObservedPool

HASHES_REMEMBERED_MAX = 20_000


class Injector(Protocol):
    """What makes a pool's pods out of its template."""

    def revision(self, pool: Pool) -> str:
        """Hash of what the pods are made from."""

    def inject(self, pool: Pool) -> Injected | Refusals: ...


class Injection:
    """The project's own, which remembers each pool's hash until its spec changes.

    Make another one when the settings change.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hashes: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def revision(self, pool: Pool) -> str:
        uid, generation = pool.metadata.uid, pool.metadata.generation
        known = self._hashes.get(uid)
        if known is not None and known[0] == generation:
            self._hashes.move_to_end(uid)
            return known[1]
        revision = revision_hash(pool, self._settings)
        self._hashes[uid] = (generation, revision)
        if len(self._hashes) > HASHES_REMEMBERED_MAX:
            self._hashes.popitem(last=False)
        return revision

    def inject(self, pool: Pool) -> Injected | Refusals:
        return inject(pool, self._settings)


@dataclass(frozen=True, slots=True)
class Target:
    """The revision to run.

    Attributes:
        accepted: whether it can be made.
        revision: None while it cannot be.
        deployment: the one that runs it already.
        injected: for a Deployment that is to be made, or made anew because somebody changed it.
        leftover: a child of an earlier pool of the same name, whose end is waited for: nothing is done.
    """

    accepted: Finding
    revision: str | None = None
    deployment: ObservedDeployment | None = None
    injected: Injected | None = None
    leftover: str = ""


def choose_target(pool: ObservedPool, spec: PoolSpec, injector: Injector) -> Target:
    """What the spec asks for now."""
    if pool.leftovers:
        return Target(_ACCEPTED, leftover=pool.leftovers[0])
    unsupported = _unsupported(spec) or _foreign_child(pool)
    if unsupported is not None:
        return Target(unsupported)
    model = _as_model(pool, spec)
    revision = injector.revision(model)
    name = deployment_name(pool.key, revision)
    existing = next((each for each in pool.deployments if each.name == name), None)
    if existing is None:
        injected = injector.inject(model)
        if isinstance(injected, Refusals):
            return Target(_refused(injected.reason, injected.message))
        return Target(_ACCEPTED, revision, injected=injected)
    if not existing.ours:
        return Target(_not_ours(f"Deployment {name}"))
    if not is_drifted(existing.recorded_owned_fields, existing.actual_owned_fields):
        return Target(_ACCEPTED, revision, existing)
    if may_not_repair(pool, ChildKind.DEPLOYMENT, name):
        return Target(_ACCEPTED, revision, existing)
    anew = injector.inject(model)
    if isinstance(anew, Refusals) or anew.info.annotation() != existing.injection:
        return Target(_with_kept_drift(existing), revision, existing)
    return Target(_ACCEPTED, revision, existing, injected=anew)


_ACCEPTED = Finding(
    ConditionType.ACCEPTED, ConditionStatus.TRUE, Reason.ACCEPTED, "The pool makes sense and is carried out."
)


def _with_kept_drift(existing: ObservedDeployment) -> Finding:
    by = existing.taken_over_by or "Somebody else"
    text = (
        f"{by} changed Deployment {existing.name}. It stays so until the next rollout: putting it back now "
        "would bring another sidecar into running pods."
    )
    return replace(_ACCEPTED, message=text)


def _refused(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, reason, message)


def _unsupported(spec: PoolSpec) -> Finding | None:
    if spec.workload.template is None:
        return _refused(
            Reason.NOT_IMPLEMENTED,
            "spec.workload.leaderWorkerTemplate is not implemented yet: use spec.workload.template, one pod "
            "per engine instance.",
        )
    if spec.engine.type is not EngineType.VLLM:
        return _refused(
            Reason.ENGINE_NOT_SUPPORTED,
            f"spec.engine.type {spec.engine.type} is not supported yet: use VLLM.",
        )
    return None


def _foreign_child(pool: ObservedPool) -> Finding | None:
    for kind, child in (
        ("Secret", pool.certificate),
        ("ConfigMap", pool.peers),
        ("PodDisruptionBudget", pool.budget),
        ("Certificate", pool.request.child if pool.request is not None else None),
    ):
        if child is not None and not child.ours:
            return _not_ours(f"{kind} {child.name}")
    return None


def _not_ours(what: str) -> Finding:
    return _refused(
        Reason.CHILD_NOT_OWNED,
        f"{what} has a name that the pool needs and does not belong to it: rename or delete it, or give "
        "the pool another name.",
    )


def _as_model(pool: ObservedPool, spec: PoolSpec) -> Pool:
    metadata = ObjectMeta(
        name=pool.key.name, namespace=pool.key.namespace, uid=pool.uid, generation=pool.generation
    )
    return POOL_CLASSES[pool.key.kind](metadata=metadata, spec=spec)
