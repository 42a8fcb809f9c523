"""The cluster's Lease: renewed in the hub, or in the own API server when that is the hub or there is none."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from prfaas.api import keys
from prfaas.kube import errors
from prfaas.kube.api import KubeApi
from prfaas.kube.resources import LEASES

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
LEASE_SECONDS = 30
CALL_SECONDS = 8.0


async def renew(api: KubeApi, namespace: str, cluster: str, holder: str, *, make: bool) -> None:
    """Renew the cluster's Lease.

    Args:
        make: create it when there is none; in a hub, joining has made it, and nobody else may.

    Raises:
        KubeError: it was not renewed.
    """
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    name = keys.cluster_lease(cluster)
    try:
        await api.patch(
            LEASES,
            namespace,
            name,
            {"spec": spec},
            field_manager=keys.manager_of_cluster(cluster),
            deadline_seconds=CALL_SECONDS,
        )
    except errors.NotFound:
        if not make:
            raise
        metadata = {"namespace": namespace, "name": name, "labels": {keys.LABEL_CLUSTER: cluster}}
        await api.create(LEASES, {"metadata": metadata, "spec": spec}, deadline_seconds=CALL_SECONDS)
