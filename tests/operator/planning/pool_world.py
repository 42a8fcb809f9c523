"""Builders of observed pools, and an executor that carries plans out on values, for tests of whole passes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prfaas.api.keys import ANNOTATION_INJECTION, LABEL_REVISION, PoolKind
from prfaas.api.v1alpha1 import ChargedTo, Pool, PoolSpec, PoolStatus
from prfaas.pod_troubles import Cause, ContainerTrouble
from prfaas_operator.injection.results import Injected, InjectionInfo, Refusals
from prfaas_operator.injection.settings import Settings
from prfaas_operator.planning.actions import (
    Action,
    ApplyChild,
    DeleteChild,
    IssueCertificate,
    MarkPods,
    PoolPlan,
    ScaleChild,
    ScalePool,
)
from prfaas_operator.planning.pool import plan_pool
from prfaas_operator.planning.values import (
    ChildKind,
    EngineReport,
    ObservedCertificate,
    ObservedChild,
    ObservedDeployment,
    ObservedPod,
    ObservedPool,
    PoolKey,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(
    region="eu",
    trust_domain="example.org",
    sidecar_image="registry/sidecar",
    connector_image="registry/connector",
)
AUTHORITY = "a" * 64
CRASHING = ContainerTrouble(
    "engine", Cause.ENDED, "container `engine` ended with exit code 1, restarted 4 times", True, 4
)


def spec(**changes: Any) -> PoolSpec:
    """A spec in the API's own words; `image` sets the engine's image."""
    image = changes.pop("image", "engine:1")
    body: dict[str, Any] = {
        "replicas": 2,
        "model": {"name": "chat"},
        "engine": {"type": "VLLM"},
        "workload": {"template": {"spec": {"containers": [{"name": "engine", "image": image}]}}},
    }
    return PoolSpec.model_validate({**body, **changes})


class StubInjector:
    """The revision is the engine's image; nothing is injected."""

    def __init__(self) -> None:
        self.version = "1"
        self.refusals: Refusals | None = None
        self.injections = 0

    def revision(self, pool: Pool) -> str:
        assert pool.spec.workload.template is not None
        return str(pool.spec.workload.template.spec["containers"][0]["image"]).replace(":", "-")

    def inject(self, pool: Pool) -> Injected | Refusals:
        self.injections += 1
        if self.refusals is not None:
            return self.refusals
        assert pool.spec.workload.template is not None
        template = {"metadata": {}, "spec": dict(pool.spec.workload.template.spec)}
        return Injected(
            template, InjectionInfo(self.version, "sidecar", "connector", 4 << 30, ChargedTo.ENGINE)
        )


def observed(kind: PoolKind = "PrefillPool", name: str = "long", **changes: Any) -> ObservedPool:
    """A pool that was just created."""
    values: dict[str, Any] = {
        "key": PoolKey(kind, "serving", name),
        "uid": f"uid-{name}",
        "generation": 1,
        "resource_version": "1",
        "created_at": NOW,
        "deleted": False,
        "annotations": {},
        "spec": spec(),
        "problems": (),
        "status": PoolStatus(),
        "authority_id": AUTHORITY,
    }
    return ObservedPool(**{**values, **changes})


@dataclass
class World:
    """A pool with what the cluster does about it. `step` is a pass of the operator, the rest is the
    cluster.
    """

    pool: ObservedPool
    injector: StubInjector = field(default_factory=StubInjector)
    now: datetime = NOW
    accelerators: int = 1000
    failing_images: set[str] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def plan(self) -> PoolPlan:
        return plan_pool(self.pool, SETTINGS, self.now, self.injector)

    def step(self) -> PoolPlan:
        plan = self.plan()
        for action in plan.actions:
            self._carry_out(action)
        if plan.status is not None:
            self.pool = replace(self.pool, status=plan.status)
        self.events += [event.reason for event in plan.events]
        return plan

    def settle(self, *, limit: int = 300) -> None:
        """Passes and cluster in turn until a pass is empty and nothing moves."""
        for _ in range(limit):
            plan = self.step()
            moved = self.cluster()
            if plan.is_empty and not moved:
                if plan.requeue_after_seconds is None or plan.requeue_after_seconds > 3600:
                    return
                self.now += timedelta(seconds=plan.requeue_after_seconds)
            else:
                self.now += timedelta(seconds=1)
        raise AssertionError(f"still moving: {self.pool}")

    def cluster(self) -> bool:
        """ReplicaSet controller, scheduler and kubelet: everything that can happen at once."""
        before = self.pool.pods
        pods = [pod for pod in self.pool.pods if pod.deletion_ends_at is None]
        for deployment in self.pool.deployments:
            mine = [pod for pod in pods if pod.revision == deployment.revision]
            mine.sort(
                key=lambda pod: (
                    bool(pod.node),
                    pod.ready,
                    pod.drain_since is None,
                    -pod.created_at.timestamp(),
                )
            )
            excess = len(mine) - deployment.replicas
            for pod in mine[: max(0, excess)]:
                pods.remove(pod)
                if pod.node:
                    pods.append(replace(pod, deletion_ends_at=self.now + timedelta(seconds=150)))
            for _ in range(max(0, -excess)):
                number = next(self.ids)
                name = f"{deployment.name}-{number:03}"
                pods.append(ObservedPod(name, f"uid-{name}", deployment.revision, self.now))
        held = sum(bool(pod.node) for pod in pods)
        for index, pod in enumerate(pods):
            if pod.deletion_ends_at is not None:
                continue
            if not pod.node and held < self.accelerators:
                held += 1
                pods[index] = replace(
                    pod, node="n", scheduled_at=self.now, pending_reason="", pending_message=""
                )
            elif not pod.node:
                pods[index] = replace(
                    pod,
                    pending_reason="Unschedulable",
                    pending_message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 "
                    "nodes are available: 3 No preemption victims found for incoming pod.",
                )
            elif not pod.ready and pod.revision in self.failing_images:
                pods[index] = replace(pod, troubles=(CRASHING,), restarts=4, phase="Running")
            elif not pod.ready:
                pods[index] = replace(pod, ready=True, phase="Running", ready_changed_at=self.now)
        self.pool = replace(self.pool, pods=tuple(pods))
        return before != self.pool.pods

    def report(self, fingerprint: str) -> None:
        reports = {pod.name: EngineReport(True, fingerprint) for pod in self.pool.pods if pod.ready}
        self.pool = replace(self.pool, reports=reports)

    def change(self, **changes: Any) -> None:
        """The user changes the spec."""
        self.pool = replace(self.pool, spec=spec(**changes), generation=self.pool.generation + 1)

    @property
    def ready(self) -> int:
        return sum(pod.ready and pod.deletion_ends_at is None for pod in self.pool.pods)

    def deployments(self) -> dict[str, int]:
        return {each.revision: each.replicas for each in self.pool.deployments}

    def condition(self, type_: str) -> tuple[str, str]:
        found = next(each for each in self.pool.status.conditions if each.type == type_)
        return str(found.status), found.reason

    def message(self, type_: str) -> str:
        return next(each.message for each in self.pool.status.conditions if each.type == type_)

    def _carry_out(self, action: Action) -> None:
        version = str(next(self.ids))
        match action:
            case ApplyChild(kind=ChildKind.DEPLOYMENT):
                revision = action.manifest["metadata"]["labels"][LABEL_REVISION]
                made = ObservedDeployment(
                    action.name,
                    f"uid-{action.name}",
                    version,
                    True,
                    revision,
                    action.manifest["spec"]["replicas"],
                    self.now,
                    True,
                    False,
                    "",
                    "h",
                    "h",
                    injection=action.manifest["metadata"]["annotations"][ANNOTATION_INJECTION],
                )
                others = tuple(each for each in self.pool.deployments if each.name != action.name)
                self.pool = replace(self.pool, deployments=(*others, made))
            case ApplyChild(kind=ChildKind.CONFIG_MAP):
                self.pool = replace(self.pool, peers=_child(action, "data", version))
            case ApplyChild(kind=ChildKind.BUDGET):
                self.pool = replace(self.pool, budget=_child(action, "spec", version))
            case IssueCertificate():
                self.pool = replace(
                    self.pool,
                    certificate=ObservedCertificate(
                        action.name,
                        "uid",
                        version,
                        True,
                        action.identity,
                        self.now,
                        self.now + timedelta(days=30),
                        self.pool.authority_id,
                    ),
                )
            case ScaleChild():
                self._replace_deployment(action.name, replicas=action.replicas, resource_version=version)
            case ScalePool():
                assert self.pool.spec is not None
                resized = self.pool.spec.model_copy(update={"replicas": action.replicas})
                self.pool = replace(self.pool, spec=resized, generation=self.pool.generation + 1)
            case MarkPods():
                marks = {mark.uid: mark.drain_since for mark in action.marks}
                self.pool = replace(
                    self.pool,
                    pods=tuple(
                        replace(pod, drain_since=marks[pod.uid]) if pod.uid in marks else pod
                        for pod in self.pool.pods
                    ),
                )
            case DeleteChild(kind=ChildKind.DEPLOYMENT):
                kept = tuple(each for each in self.pool.deployments if each.name != action.name)
                self.pool = replace(self.pool, deployments=kept)
            case DeleteChild(kind=ChildKind.BUDGET):
                self.pool = replace(self.pool, budget=None)
            case _:
                raise AssertionError(f"not known here: {action}")

    def _replace_deployment(self, name: str, **changes: Any) -> None:
        self.pool = replace(
            self.pool,
            deployments=tuple(
                replace(each, **changes) if each.name == name else each for each in self.pool.deployments
            ),
        )


def _child(action: ApplyChild, part: str, version: str) -> ObservedChild:
    return ObservedChild(action.name, "uid", version, True, "h", "h", action.manifest[part])


def settled(**changes: Any) -> World:
    """A pool whose instances are all ready."""
    world = World(observed(spec=spec(**changes)))
    world.settle()
    return world
