"""A hub and a cluster as values, in which the mirror's plans are carried out at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from prfaas.api import keys
from prfaas_operator.federation.mirror import MirrorPlan, plan_mirror
from prfaas_operator.federation.values import (
    Apply,
    Attempt,
    HubObject,
    HubPicture,
    LocalObject,
    MirrorMemory,
    MirrorSettings,
    ObjectKey,
    Remove,
)

SETTINGS = MirrorSettings("us", "us", frozenset({"serving"}), frozenset({"engines"}))


def pool(
    name: str, *clusters: str, kind: str = keys.PREFILL_POOL, generation: int = 1, **spec: Any
) -> HubObject:
    placement = {"placement": {"clusters": [{"name": each} for each in clusters]}} if clusters else {}
    body = {"model": {"name": "chat"}, "replicas": 2, "workload": workload(), **placement, **spec}
    return HubObject(ObjectKey(kind, spec.pop("namespace", "serving"), name), generation, body)


def workload(**pod: Any) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "engine", "image": "example.org/e:1"}], **pod}}}


def region(name: str, **spec: Any) -> HubObject:
    return HubObject(ObjectKey(keys.REGION, "", name), 1, spec)


def route(name: str, decode: str, *prefill: str, clusters: tuple[str, ...] = ()) -> HubObject:
    spec: dict[str, Any] = {
        "decodePoolRef": {"name": decode},
        "prefillPoolRefs": [{"name": each} for each in prefill],
    }
    if clusters:
        spec["placement"] = {"clusters": [{"name": each} for each in clusters]}
    return HubObject(ObjectKey(keys.PREFILL_ROUTE, "serving", name), 1, spec)


@dataclass
class World:
    """Time passes by `now`; nothing is refused by the cluster's API server but `refuses`."""

    uid: str = "hub-1"
    hub: dict[ObjectKey, HubObject] = field(default_factory=dict)
    local: dict[ObjectKey, LocalObject] = field(default_factory=dict)
    memory: MirrorMemory = field(default_factory=MirrorMemory)
    settings: MirrorSettings = SETTINGS
    now: float = 1000.0

    def put(self, *objects: HubObject) -> None:
        for each in objects:
            self.hub[each.key] = each

    def plan(self) -> MirrorPlan:
        picture = HubPicture(self.uid, tuple(self.hub.values()))
        return plan_mirror(picture, self.local.values(), self.memory, self.settings, self.now)

    def step(self, seconds: float = 0.0) -> MirrorPlan:
        """Let time pass, plan, and do it."""
        self.now += seconds
        plan = self.plan()
        self.memory = plan.memory
        for action in plan.actions:
            if isinstance(action, Apply):
                self._apply(action)
            else:
                self._remove(action)
        return plan

    def settle(self) -> MirrorPlan:
        """Until nothing is left to do."""
        for _ in range(20):
            plan = self.step(self.settings.kept_seconds + 0.1)
            if not plan.actions and (plan.look_again_seconds or 1e9) > self.settings.kept_seconds:
                return plan
        raise AssertionError("the mirror does not come to rest")

    def _apply(self, action: Apply) -> None:
        before = self.local.get(action.key)
        assert (before.uid if before else None) == action.uid
        generation = before.generation + 1 if before else 1
        metadata = action.body["metadata"]
        assert metadata["labels"] == {keys.LABEL_MIRRORED: "true"}
        self.local[action.key] = LocalObject(
            action.key,
            before.uid if before else f"uid-{len(self.local)}-{self.now}",
            generation,
            metadata["annotations"][keys.ANNOTATION_MIRRORED_FROM],
            action.body["spec"],
        )
        attempts = {**self.memory.attempts, action.key: Attempt(action.digest, self.now, generation)}
        self.memory = replace(self.memory, attempts=attempts)

    def _remove(self, action: Remove) -> None:
        assert self.local.pop(action.key).uid == action.uid
        removed = {**self.memory.removed, action.key: self.now}
        self.memory = replace(self.memory, removed=removed)
