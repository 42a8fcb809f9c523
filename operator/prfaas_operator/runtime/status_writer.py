"""Writes a status once per pass, and only when it differs from what is stored."""

from __future__ import annotations

import json
from typing import Any

from prfaas.api import keys
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import Object, Resource
from prfaas_operator.runtime import facts
from prfaas_operator.runtime.facts import CustomValue, Fact

# Fields that the aggregator of the hub writes (docs/federation.md).
_OTHERS = ("clusters", "placed")


async def write_status(
    api: KubeApi, resource: Resource, fact: Fact[CustomValue], status: dict[str, Any]
) -> Fact[CustomValue] | None:
    """Apply the status to `/status`; the object as it is then, or None when nothing was to be written.

    Raises:
        KubeError: NotFound when the object is gone.
    """
    stored = _own(json.loads(fact.value.status))
    status = _own(status)
    if stored == status:
        return None
    body: Object = {
        # The uid makes sure that a status is never put on a new object of the same name.
        "metadata": {"namespace": fact.namespace, "name": fact.name, "uid": fact.uid},
        "status": status,
    }
    return facts.custom(await api.apply_status(resource, body, field_manager=keys.MANAGER_STATUS))


def _own(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in _OTHERS}
