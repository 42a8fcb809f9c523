"""An operator in this process against a real API server, with a small planner and a stand-in for kubelets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prfaas.api import keys
from prfaas.api.snapshot import Snapshot
from prfaas.api.v1alpha1 import Condition, ConditionStatus, PoolStatus, PrefillRouteStatus
from prfaas.kube import errors
from prfaas.kube.client import KubeClient, connect
from prfaas.kube.resources import DEPLOYMENTS, PODS, PREFILL_POOLS, Object
from prfaas_operator.config import OperatorConfig
from prfaas_operator.planning.actions import (
    Action,
    ApplyChild,
    Event,
    EventType,
    FailedAction,
    IssueCertificate,
    Plan,
    ScaleChild,
)
from prfaas_operator.planning.geography import Geography
from prfaas_operator.planning.snapshot import SnapshotPool, SnapshotRoute
from prfaas_operator.planning.values import (
    ChildKind,
    ObservedPool,
    ObservedRoute,
    PartnerPool,
    PoolKey,
    Reference,
    RoutedPool,
)
from prfaas_operator.runtime.app import Operator
from prfaas_operator.runtime.fence import WriteHook

REVISION = "r1"


def pool_body(namespace: str, name: str = "long", replicas: int = 1, **spec: Any) -> Object:
    return {
        "apiVersion": keys.API_VERSION,
        "kind": "PrefillPool",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "annotations": {"example.org/note": "the user's own"},
        },
        "spec": {
            "model": {"name": "chat"},
            "engine": {"type": "VLLM"},
            "replicas": replicas,
            "workload": {
                "template": {"spec": {"containers": [{"name": "engine", "image": "example.org/e:1"}]}}
            },
            **spec,
        },
    }


class SmallPlanner:
    """A certificate, a list of peers and a Deployment per pool, scaled as the pool says; put back when it
    drifts.
    """

    def __init__(self) -> None:
        self.pool_passes = 0
        self.deployment_patch: dict[str, Any] = {}
        self.failures: list[FailedAction] = []

    def references(self, pool: ObservedPool) -> tuple[Reference, ...]:
        return ()

    def partner(self, pool: ObservedPool) -> PartnerPool:
        return PartnerPool(pool.key, identity(pool.key), False, False, 0, 0)

    def routed(self, pool: ObservedPool) -> RoutedPool:
        return RoutedPool(pool.key, "chat", sum(pod.ready for pod in pool.pods), {})

    def pool(self, pool: ObservedPool, now: datetime) -> Plan[Any]:
        self.pool_passes += 1
        if pool.deleted or pool.spec is None:
            return Plan()
        actions: list[Action] = []
        certificate = pool.certificate
        if pool.authority_id and (certificate is None or certificate.identity != identity(pool.key)):
            manifest = self._child(pool, keys.tls_secret(pool.key.kind, pool.key.name), "v1", "Secret")
            version = None if certificate is None else certificate.resource_version
            actions.append(IssueCertificate(manifest, identity(pool.key), version, "there is none"))
        if pool.peers is None or pool.peers.recorded_owned_fields != pool.peers.actual_owned_fields:
            manifest = self._child(
                pool, keys.peers_config_map(pool.key.kind, pool.key.name), "v1", "ConfigMap"
            )
            manifest["data"] = {"peers.yaml": "accept: []\n"}
            version = None if pool.peers is None else pool.peers.resource_version
            actions.append(ApplyChild(ChildKind.CONFIG_MAP, manifest, version, "missing or drifted"))
        deployment = next((each for each in pool.deployments if each.revision == REVISION), None)
        wanted = pool.spec.replicas
        if deployment is None:
            actions.append(
                ApplyChild(ChildKind.DEPLOYMENT, self._deployment(pool, wanted), None, "the revision is new")
            )
        elif deployment.replicas != wanted:
            actions.append(
                ScaleChild(
                    deployment.name,
                    deployment.uid,
                    deployment.resource_version,
                    deployment.replicas,
                    wanted,
                    "the pool says so",
                )
            )
        return self._finish(pool, actions, now)

    def _finish(self, pool: ObservedPool, actions: list[Action], now: datetime) -> Plan[Any]:
        ready = sum(pod.ready for pod in pool.pods)
        good = ready >= pool.spec.replicas
        before = next((each for each in pool.status.conditions if each.type == "Ready"), None)
        state = ConditionStatus.TRUE if good else ConditionStatus.FALSE
        moved = before is None or before.status != state
        condition = Condition(
            type="Ready",
            status=state,
            observed_generation=pool.generation,
            last_transition_time=now if moved or before is None else before.last_transition_time,
            reason="Serving" if good else "Starting",
            message=f"{ready} of {pool.spec.replicas} instances are ready.",
        )
        status = PoolStatus(
            observed_generation=pool.generation,
            replicas=len(pool.pods),
            ready_replicas=ready,
            desired_replicas=pool.spec.replicas,
            selector=f"{keys.LABEL_POOL}={pool.key.name}",
            conditions=(condition,),
        )
        events = (Event(EventType.NORMAL, condition.reason, condition.message),) if moved else ()
        return Plan(tuple(actions), None if status == pool.status else status, events)

    def _child(self, pool: ObservedPool, name: str, api_version: str, kind: str) -> dict[str, Any]:
        return {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": pool.key.namespace,
                "labels": labels(pool.key),
                "ownerReferences": [
                    {
                        "apiVersion": keys.API_VERSION,
                        "kind": pool.key.kind,
                        "name": pool.key.name,
                        "uid": pool.uid,
                        "controller": True,
                    }
                ],
            },
        }

    def _deployment(self, pool: ObservedPool, replicas: int) -> dict[str, Any]:
        manifest = self._child(pool, f"{pool.key.name}-{REVISION}", "apps/v1", "Deployment")
        pod_labels = {**labels(pool.key), keys.LABEL_REVISION: REVISION}
        manifest["metadata"]["labels"] = pod_labels
        manifest["spec"] = {
            "replicas": replicas,
            "selector": {"matchLabels": pod_labels},
            "template": {"metadata": {"labels": pod_labels}, "spec": pool.spec.workload.template.spec},
            **self.deployment_patch,
        }
        return manifest

    def route(self, route: ObservedRoute, now: datetime) -> Plan[Any]:
        status = PrefillRouteStatus(observed_generation=route.generation)
        return Plan(status=None if status == route.status else status)

    def after_failure(
        self, plan: Plan[Any], pool: ObservedPool, failed: FailedAction, now: datetime
    ) -> Plan[Any]:
        self.failures.append(failed)
        return Plan(events=(Event(EventType.WARNING, failed.code, failed.message[:200]),))

    def snapshot(
        self,
        pools: Iterable[SnapshotPool],
        routes: Iterable[SnapshotRoute],
        now: datetime,
        geography: Geography,
    ) -> Snapshot:
        return Snapshot.sealed(region="eu", trust_domain="example.org", models=())

    def gateway_identity(self) -> str:
        return "spiffe://example.org/region/eu/ns/own/gateway/prfaas-gateway"


def identity(key: PoolKey) -> str:
    return f"spiffe://example.org/region/eu/ns/{key.namespace}/pool/{key.kind}/{key.name}"


def labels(key: PoolKey) -> dict[str, str]:
    return {
        keys.LABEL_POOL: key.name,
        keys.LABEL_POOL_KIND: key.kind,
        keys.LABEL_MANAGED_BY: keys.MANAGED_BY,
    }


@dataclass
class Running:
    """An operator that runs; `kill` ends it as a crash would, `stop` in good order."""

    operator: Operator
    task: asyncio.Task[None]
    stopping: asyncio.Event

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self) -> None:
        self.stopping.set()
        await self.task

    def writes(self) -> float:
        """Attempts to write so far, without Leases and dry runs."""
        return sum(
            sample.value
            for metric in self.operator.metrics.writes.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    async def quiet(self) -> None:
        """Wait until nothing is to be done and nothing comes of what was done."""
        core = self.operator.queue.core
        loop = asyncio.get_running_loop()
        since, before = loop.time(), self.writes()
        async with asyncio.timeout(20):
            while loop.time() - since < 0.8:
                if core.oldest_seconds(loop.time()) > 0 or self.writes() != before:
                    since, before = loop.time(), self.writes()
                await asyncio.sleep(0.02)


def config_for(kubeconfig: Path, namespace: str, **changes: Any) -> OperatorConfig:
    return OperatorConfig.model_validate(
        {
            "region": "eu",
            "trust_domain": "example.org",
            "own_namespace": namespace,
            "watch_namespaces": [namespace],
            "images": {"sidecar": "registry.example.org/s:1", "connector": "registry.example.org/c:1"},
            "kubeconfig": str(kubeconfig),
            "health_listen": "127.0.0.1:0",
            "leader_election": {
                "identity": "operator-0",
                "lease_seconds": 2,
                "renew_deadline_seconds": 1.5,
                "retry_seconds": 0.2,
            },
            "queue": {"first_retry_seconds": 0.05, "longest_retry_seconds": 0.5},
            "health": {"audit_seconds": 0.5},
            **changes,
        }
    )


@asynccontextmanager
async def running(
    config: OperatorConfig, planner: Any, *, hook: WriteHook | None = None, report_port: int = 7402
) -> AsyncIterator[Running]:
    operator = Operator(config, planner, hook=hook, report_port=report_port)
    stopping = asyncio.Event()
    task = asyncio.create_task(operator.run(stopping))
    world = Running(operator, task, stopping)
    try:
        yield world
    finally:
        if not task.done():
            await world.kill()


@dataclass
class Kubelets:
    """Makes pods for Deployments and marks them ready, as controllers and kubelets would."""

    client: KubeClient
    namespace: str
    ready: bool = True
    hold: set[str] = field(default_factory=set)

    async def run(self) -> None:
        while True:
            try:
                await self.step()
            except errors.KubeError:
                # The API server may be away on purpose.
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)

    async def step(self) -> None:
        deployments = await self.client.list(DEPLOYMENTS, self.namespace)
        pods = await self.client.list(PODS, self.namespace)
        names = {pod["metadata"]["name"] for pod in pods}
        wanted = set()
        for each in deployments:
            for number in range(each["spec"]["replicas"]):
                name = f"{each['metadata']['name']}-{number}"
                wanted.add(name)
                if name not in names:
                    await self._make(each, name)
        for name in names - wanted:
            await self.client.delete(PODS, self.namespace, name)

    async def _make(self, deployment: Object, name: str) -> None:
        template = deployment["spec"]["template"]
        metadata = {**template["metadata"], "namespace": self.namespace, "name": name}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        await self.client.create(PODS, body)
        if self.ready:
            await self.client.patch(
                PODS,
                self.namespace,
                name,
                {"status": ready_status()},
                field_manager="kubelet",
                subresource="status",
            )


def ready_status(address: str = "127.0.0.1") -> Object:
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"},
        ],
    }


@asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    client = await connect(str(kubeconfig))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def kubelets(client: KubeClient, namespace: str) -> AsyncIterator[Kubelets]:
    world = Kubelets(client, namespace)
    task = asyncio.create_task(world.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pool_serves(
    client: KubeClient, namespace: str, name: str, ready: int
) -> Callable[[], Coroutine[Any, Any, bool]]:
    """Whether the pool's status says that so many instances are ready, for its newest generation."""
    return lambda: _serves(client, namespace, name, ready)


async def _serves(client: KubeClient, namespace: str, name: str, ready: int) -> bool:
    body = await client.get(PREFILL_POOLS, namespace, name)
    status = body.get("status") or {}
    return (
        status.get("readyReplicas") == ready
        and status.get("observedGeneration") == body["metadata"]["generation"]
        and any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])
    )


def essence(body: Object) -> str:
    """An object without what differs from run to run."""
    metadata = {key: body["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
    rest = {key: body.get(key) for key in ("spec", "type")}
    data = sorted((body.get("data") or {}).keys())
    return json.dumps([metadata, rest, data], sort_keys=True)
