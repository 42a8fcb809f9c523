"""What gateways can say of their cluster to other regions when there is no hub: a report of its pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.fleet import Decoder, Prefiller

MAX_POOLS = 256


def report_of(
    cluster: str, version: str, pods: Iterable[Pod], engines: Mapping[str, Decoder | Prefiller]
) -> dict[str, Any]:
    """The report, in the shape of `status.clusters[]` of a Region, with what gateways see: pods that are
    ready, and requests that wait. ``engines`` are by uid of the pod."""
    pools: dict[tuple[str, str, str], dict[str, Any]] = {}
    for pod in pods:
        entry = pools.setdefault(
            (pod.namespace, pod.kind, pod.pool),
            {
                "namespace": pod.namespace,
                "kind": pod.kind,
                "name": pod.pool,
                "readyReplicas": 0,
                "pendingReplicas": 0,
                "queuedRequests": 0,
            },
        )
        entry["readyReplicas" if pod.ready and not pod.deleting else "pendingReplicas"] += 1
        engine = engines.get(pod.uid)
        if engine is not None:
            entry["queuedRequests"] += engine.queued_requests
    # Those in trouble first: the rest is what a report that is too long leaves out.
    listed = sorted(
        pools.values(), key=lambda pool: (pool["readyReplicas"] > 0, pool["namespace"], pool["name"])
    )
    return {
        "name": cluster,
        "version": version,
        "pools": listed[:MAX_POOLS],
        "omittedPools": max(0, len(listed) - MAX_POOLS),
    }
