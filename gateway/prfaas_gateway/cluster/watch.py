"""The edge to the API server: the snapshot's ConfigMap and the pods of pools, as they change.

Read access only: ``get``, ``list`` and ``watch`` of pods, and of the one ConfigMap by its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prfaas.api.keys import GATEWAY_POLICY_KEY, LABEL_POOL
from prfaas.kube.api import KubeApi
from prfaas.kube.client import connect
from prfaas.kube.connect import NoCluster
from prfaas.kube.reflect import Change, Contact, reflect
from prfaas.kube.resources import CONFIG_MAPS, PODS
from prfaas_gateway.cluster.pods import Pod, slim_pod
from prfaas_gateway.config import Cluster
from prfaas_gateway.errors import ClusterUnusableError


@asynccontextmanager
async def connected(settings: Cluster) -> AsyncIterator[KubeApi]:
    """A client of the cluster. Nothing is sent, so it works while the API server is away.

    Raises:
        ClusterUnusableError: there is no cluster to be found, or its credentials cannot be loaded.
    """
    kubeconfig = str(settings.kubeconfig) if settings.kubeconfig is not None else None
    try:
        client = await connect(kubeconfig, user_agent="prfaas-gateway")
    except NoCluster as error:
        raise ClusterUnusableError(str(error)) from error
    async with client:
        yield client


def snapshots(api: KubeApi, settings: Cluster, contact: Contact) -> AsyncIterator[Change[str | None]]:
    """The snapshot's text, as it changes; None when the ConfigMap has none."""
    return reflect(
        api,
        CONFIG_MAPS,
        slim=_snapshot_text,
        namespace=settings.namespace,
        field_selector=f"metadata.name={settings.snapshot}",
        contact=contact,
    )


def pods(api: KubeApi, namespace: str | None, contact: Contact) -> AsyncIterator[Change[Pod]]:
    """Pods of pools in a namespace, or in all."""
    return reflect(api, PODS, slim=slim_pod, namespace=namespace, label_selector=LABEL_POOL, contact=contact)


def _snapshot_text(found: Mapping[str, Any]) -> str | None:
    text = (found.get("data") or {}).get(GATEWAY_POLICY_KEY)
    return text if isinstance(text, str) else None
