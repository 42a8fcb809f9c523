"""What a pool's spec names, and whether it is there and can be used so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prfaas.api.conditions import ConditionType, Finding, Reason
from prfaas.api.keys import MODEL_KV_PROFILE
from prfaas.api.v1alpha1 import ConditionStatus, PoolSpec
from prfaas_operator.injection.references import template_references
from prfaas_operator.planning.values import FoundReference, Reference

NAMED_MAX = 5
_SINGLE_NODE_MODES = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})
_MISSING: Mapping[str, Reason] = {
    MODEL_KV_PROFILE: Reason.PROFILE_NOT_FOUND,
    "Secret": Reason.SECRET_NOT_FOUND,
    "ConfigMap": Reason.CONFIG_MAP_NOT_FOUND,
    "PersistentVolumeClaim": Reason.VOLUME_CLAIM_NOT_FOUND,
    "ServiceAccount": Reason.SERVICE_ACCOUNT_NOT_FOUND,
}


def wanted(spec: PoolSpec) -> tuple[Reference, ...]:
    """Everything that has to be there for the pool's pods to start, each object once."""
    references: list[Reference] = []
    if spec.model.profile_ref is not None:
        name = spec.model.profile_ref.name
        references.append(Reference(MODEL_KV_PROFILE, name, "spec.model.profileRef.name"))
    if spec.workload.template is not None:
        template = {"spec": spec.workload.template.spec}
        references += [
            Reference(each.kind, each.name, each.field, each.writable)
            for each in template_references(template)
            if not each.optional
        ]
    return tuple(references)


def resolve(spec: PoolSpec, found: Sequence[FoundReference], instances: int) -> Finding:
    """ResolvedRefs of a pool that is to have so many instances, surge included.

    A volume that one node alone can write is as bad as a missing one for the second instance.
    """
    there = {(each.kind, each.name): each for each in found}
    references = wanted(spec)
    missing = [each for each in references if (each.kind, each.name) not in there]
    if missing:
        return _missing(missing)
    for each in references:
        modes = there[each.kind, each.name].access_modes
        if each.writable and instances > 1 and modes and _SINGLE_NODE_MODES.issuperset(modes):
            return _unresolved(
                Reason.VOLUME_NOT_SHAREABLE,
                f"PersistentVolumeClaim {each.name} ({each.field}) is {'/'.join(modes)}, and {instances} "
                "instances would need it at once: mount it read-only, use a claim that is ReadWriteMany, or "
                "have one instance with rollout.maxSurge 0.",
            )
    return Finding(
        ConditionType.RESOLVED_REFS,
        ConditionStatus.TRUE,
        Reason.RESOLVED,
        "All that the pool names is there.",
    )


def _missing(missing: Sequence[Reference]) -> Finding:
    named = [f"{each.kind} {each.name} is not there ({each.field})" for each in missing[:NAMED_MAX]]
    if len(missing) > NAMED_MAX:
        named.append(f"and {len(missing) - NAMED_MAX} more")
    return _unresolved(
        _MISSING[missing[0].kind],
        f"{'; '.join(named)}. Create it in this namespace, or correct the field.",
    )


def _unresolved(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.RESOLVED_REFS, ConditionStatus.FALSE, reason, message)
