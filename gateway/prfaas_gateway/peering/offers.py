"""The own prefill pods as other regions are told of them, and who may use which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from prfaas.api.snapshot import OwnPool
from prfaas.api.v1alpha1.pools import Reach
from prfaas.server_names import pod_name
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.engine_report import EngineReport
from prfaas_gateway.fleet import Prefiller
from prfaas_gateway.peering.wire import PeerPod

_UNKNOWN = EngineReport()


@dataclass(frozen=True, slots=True)
class Offers:
    """What this cluster offers.

    Attributes:
        pods: by uid. What has not changed since the last time is the same object.
        regions: who may use a pod, by uid.
    """

    pods: Mapping[str, PeerPod] = field(default_factory=dict)
    regions: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def for_region(self, region: str) -> dict[str, PeerPod]:
        """What a region may know of."""
        return {uid: pod for uid, pod in self.pods.items() if region in self.regions[uid]}

    def with_loads(self, engines: Iterable[Prefiller]) -> Offers:
        """The same pods as busy as they are now."""
        changed = {}
        for engine in engines:
            pod = self.pods.get(engine.uid)
            if pod is None:
                continue
            load = (
                engine.queued_requests,
                max(engine.running_requests, engine.in_flight),
                engine.in_flight_tokens,
            )
            if load != (pod.queued_requests, pod.running_requests, pod.queued_tokens):
                changed[pod.uid] = replace(
                    pod, queued_requests=load[0], running_requests=load[1], queued_tokens=load[2]
                )
        return Offers({**self.pods, **changed}, self.regions) if changed else self


def offers(
    pools: Iterable[OwnPool],
    pods: Iterable[Pod],
    reports: Mapping[str, EngineReport],
    trust_domain: str,
    before: Offers,
) -> Offers:
    """What is offered now. Loads are those of ``before``."""
    by_name = {(str(pool.kind), f"{pool.namespace}/{pool.name}"): pool for pool in pools}
    made: dict[str, PeerPod] = {}
    regions: dict[str, frozenset[str]] = {}
    for pod in pods:
        pool = by_name.get((pod.kind, pod.pool_name))
        address = kv_address(pool, pod) if pool is not None else None
        if pool is None or address is None:
            continue
        report, old = reports.get(pod.uid, _UNKNOWN), before.pods.get(pod.uid)
        told = PeerPod(
            uid=pod.uid,
            namespace=pod.namespace,
            name=pod.name,
            pool=pod.pool,
            kind=pod.kind,
            fingerprint=report.fingerprint,
            block_tokens=report.block_tokens,
            max_model_tokens=report.max_model_tokens,
            kv_address=address,
            kv_server_name=pod_name(pod.ip, trust_domain),
            ready=pod.ready and not pod.deleting and report.engine_connected,
            draining=pod.draining or pod.deleting or report.draining,
            queued_requests=old.queued_requests if old else 0,
            running_requests=old.running_requests if old else 0,
            queued_tokens=old.queued_tokens if old else 0,
            incarnation=(report.incarnation or str(pod.restarts))[:64],
        )
        made[pod.uid] = old if old == told else told
        regions[pod.uid] = frozenset(pool.offered_to)
    return Offers(made, regions)


def kv_address(pool: OwnPool, pod: Pod) -> str | None:
    """Where other regions pull KV from a pod; None while that is not known."""
    if not pod.ip:
        return None
    if pool.kv_reach is Reach.PASSTHROUGH:
        return pool.kv_proxy
    host = pod.host_ip if pool.kv_reach is Reach.HOST_PORT else pod.ip
    if not host:
        return None
    return f"[{host}]:{pool.kv_port}" if ":" in host else f"{host}:{pool.kv_port}"
