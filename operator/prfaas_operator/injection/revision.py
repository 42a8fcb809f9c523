"""The hash that names a revision: what makes other pods, and nothing else.

In it, each in a canonical form (key order, defaults written or left out, notations of amounts do not count):

- `workload`: the pod template;
- `engine`: type, container, port and extraArgs;
- `model.name`, and `model.revision` where the template names no model itself, so that prfaas does;
- `kv.arena`, `transport.streams`, a port of the node (reach HostPort), `drain.timeoutSeconds` and
  `sidecar.resources`.

Not in it: replicas, scaling, rollout, the profile, anything of the pool's metadata. What prfaas injects
(images, its version, what a newer version adds) is in it only with `sidecar.upgrade: Rolling`; so with
OnNextRollout an upgrade of the operator changes no hash, and no pod. Changing from one to the other is a new
revision.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from prfaas.api.v1alpha1 import Pool, SidecarUpgrade, quantity_bytes
from prfaas_operator.injection.checks import engine_of, grace_seconds
from prfaas_operator.injection.defaults import canonical
from prfaas_operator.injection.engines import ADAPTERS
from prfaas_operator.injection.inject import inject
from prfaas_operator.injection.names import KUBERNETES_GRACE_SECONDS
from prfaas_operator.injection.reach import host_port
from prfaas_operator.injection.results import Injected
from prfaas_operator.injection.settings import Settings
from prfaas_operator.injection.shapes import malformed

HASH_CHARACTERS = 8
_SCHEME = "prfaas-revision-v1"


def revision_hash(pool: Pool, settings: Settings) -> str:
    """Lowercase hexadecimal digits. Defined for pools that are refused too."""
    content: dict[str, Any] = {"user": user_part(pool)}
    if pool.spec.sidecar.upgrade == SidecarUpgrade.ROLLING:
        # The drain's token comes from the uid, which a pool that is made anew does not keep.
        injected = inject(_without_uid(pool), settings)
        if isinstance(injected, Injected):
            content["injected"] = {**injected.template, "version": settings.version}
    text = json.dumps([_SCHEME, content], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


def user_part(pool: Pool) -> dict[str, Any]:
    """What the user says about the pods, in one form for all ways to say it."""
    spec = pool.spec
    resources = spec.sidecar.resources
    return {
        "kind": pool.kind,
        "workload": _workload(pool),
        "engine": spec.engine.to_api(),
        "model": [spec.model.name, None if _names_model(pool) else spec.model.revision],
        "arena": quantity_bytes(spec.kv.arena),
        "streams": spec.transport.streams,
        # Not there without one: pools of earlier versions keep their hash.
        **({} if (port := host_port(pool)) is None else {"node_port": port}),
        "drain": spec.drain.timeout_seconds,
        "sidecar": None if resources is None else _canonical_resources(resources.to_api()),
    }


def _without_uid(pool: Pool) -> Pool:
    return pool.model_copy(update={"metadata": pool.metadata.model_copy(update={"uid": ""})})


def _names_model(pool: Pool) -> bool:
    template, adapter = pool.spec.workload.template, ADAPTERS.get(pool.spec.engine.type)
    if template is None or adapter is None or malformed(template.spec):
        return True
    return adapter.names_model(pool, engine_of(pool, template.spec))


def _workload(pool: Pool) -> Any:
    workload = pool.spec.workload
    if workload.template is None:
        return workload.to_api()
    template = workload.template.to_api()
    if malformed(workload.template.spec):
        return template
    try:
        return canonical(template) | _short_grace(pool, template)
    except (ValueError, ArithmeticError):
        # An amount that cannot be read, which is refused; it still has a name of its own.
        return template


def _short_grace(pool: Pool, template: dict[str, Any]) -> dict[str, Any]:
    """30 seconds that are written down are no default where a drain needs more: they are refused, which only
    a new revision brings to light.
    """
    given = template["spec"].get("terminationGracePeriodSeconds")
    is_default = given == KUBERNETES_GRACE_SECONDS and grace_seconds(pool) > KUBERNETES_GRACE_SECONDS
    return {"grace": given} if is_default and pool.spec.drain.timeout_seconds else {}


def _canonical_resources(resources: dict[str, Any]) -> Any:
    wrapped = {"spec": {"containers": [{"name": "sidecar", "resources": resources}]}}
    return canonical(wrapped)["spec"]["containers"][0].get("resources")
