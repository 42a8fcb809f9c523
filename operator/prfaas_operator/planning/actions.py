"""What is to be done: actions, events, and the plan that holds them with the status to write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from prfaas.api.v1alpha1 import PoolStatus, PrefillRouteStatus
from prfaas_operator.planning.values import ChildKind, Manifest, PoolKey


@dataclass(frozen=True, slots=True)
class ApplyChild:
    """Server-side apply one child as `prfaas-operator`, after a dry run by the server.

    The executor adds the annotation `prfaas.io/owned-fields`: the hash over what the dry run's managedFields
    say that `prfaas-operator` owns, without `spec.replicas`.

    Attributes:
        resource_version: the version that was decided on; None: no such object was seen. What is there
            nevertheless is not the pool's and must not be touched.
        drift: somebody else took over fields that the operator had set.
    """

    kind: ChildKind
    manifest: Manifest
    resource_version: str | None
    why: str
    drift: bool = False

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Delete one child, only if uid and version are still these. Its own children go with it in the
    background.
    """

    kind: ChildKind
    name: str
    uid: str
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True)
class ScaleChild:
    """Set a Deployment's replicas through `/scale` as `prfaas-operator-scale`."""

    name: str
    uid: str
    resource_version: str
    replicas_before: int
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class ScalePool:
    """Set the pool's own replicas through `/scale` as `prfaas-operator-scale`, as an HPA would."""

    key: PoolKey
    resource_version: str
    replicas_before: int
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class PodMark:
    """`drain_since` None removes the mark: both annotations go."""

    name: str
    uid: str
    drain_since: datetime | None


@dataclass(frozen=True, slots=True)
class MarkPods:
    """Set or remove `prfaas.io/drain-since` and the deletion cost on pods. A pod that is gone is no
    failure.
    """

    marks: tuple[PodMark, ...]
    why: str


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Make a key and a certificate, and apply them as this Secret.

    Attributes:
        manifest: the Secret without data.
        identity: the URI SAN.
        resource_version: as in ApplyChild.
    """

    manifest: Manifest
    identity: str
    resource_version: str | None
    why: str

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])


Action = ApplyChild | DeleteChild | ScaleChild | ScalePool | MarkPods | IssueCertificate


@dataclass(frozen=True, slots=True)
class FailedAction:
    """An action of the pass that ends now which did not succeed.

    Attributes:
        retryable: trying again without a change may succeed (the server was busy, the object had changed).
        code: the server's reason (`Invalid`, `Forbidden`, `Conflict`, …).
        message: the server's words.
    """

    action: Action
    code: str
    message: str
    retryable: bool


class EventType(StrEnum):
    """The two types that Kubernetes knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Event:
    """An Event about the pool or route. `reason` is CamelCase and API."""

    type: EventType
    reason: str
    message: str


Status = TypeVar("Status")


@dataclass(frozen=True, slots=True)
class Plan(Generic[Status]):
    """What a pass does, in order: actions, then the status, then the events.

    Actions are in the order to carry them out; the first that fails ends them. `failure.fold` then gives the
    plan whose status and events are to be written.

    Attributes:
        status: the whole status to write, None when the one that is there stands.
        requeue_after_seconds: when to look again though nothing has changed, None: never.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    events: tuple[Event, ...] = ()
    requeue_after_seconds: float | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing is to be written."""
        return not self.actions and self.status is None and not self.events


PoolPlan = Plan[PoolStatus]
RoutePlan = Plan[PrefillRouteStatus]
