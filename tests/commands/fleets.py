"""Fleets in the states that people meet, as the API server would give them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from prfaas.commands.status.judge import endpoint_view, fingerprints_of, operator_view, pool_view, route_view
from prfaas.commands.status.view import FleetView

Object = dict[str, Any]
NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=30)
ONE, OTHER = "1f" * 32, "2e" * 32


def at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def condition(type_: str, status: str, reason: str, message: str = "") -> Object:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 3,
        "lastTransitionTime": at(EARLIER),
    }


WELL = (
    condition("Ready", "True", "Serving"),
    condition("Reconciling", "False", "Settled"),
    condition("Stalled", "False", "NotStalled"),
    condition("Accepted", "True", "Accepted"),
    condition("ScalingLimited", "False", "NotLimited"),
)


def conditions(*changes: Object) -> list[Object]:
    """Those of a healthy object with some of them changed."""
    by_type = {each["type"]: each for each in (*WELL, *changes)}
    return list(by_type.values())


def thing(kind: str, name: str, spec: Object, status: Object | None) -> Object:
    return {
        "apiVersion": "prfaas.io/v1alpha1",
        "kind": kind,
        "metadata": {"namespace": "serving", "name": name, "generation": 3, "creationTimestamp": at(EARLIER)},
        "spec": spec,
        "status": copy.deepcopy(status or {}),
    }


def pool(
    kind: str, name: str, *, fingerprint: str = ONE, changes: tuple[Object, ...] = (), **status: Any
) -> Object:
    usual = {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 2,
        "updatedReplicas": 2,
        "desiredReplicas": 2,
        "currentRevision": "5c9d",
        "updateRevision": "5c9d",
        "revisions": [{"name": "5c9d", "replicas": 2, "ready": 2, "fingerprint": fingerprint}],
        "kv": {"fingerprint": fingerprint, "arenaBytes": 4 << 30, "chargedTo": "Engine"},
        "conditions": conditions(*changes),
    }
    return thing(kind, name, {"model": {"name": "chat"}}, usual | status)


def route(
    *, changes: tuple[Object, ...] = (), pairs: tuple[Object, ...] | None = None, **status: Any
) -> Object:
    pair = {"prefillPool": "long", "compatible": "True", "readyPrefill": 2, "readyDecode": 2}
    usual = {
        "observedGeneration": 3,
        "effectiveMode": "Enforce",
        "effectiveThresholdTokens": 4096,
        "pairs": list(pairs if pairs is not None else (pair,)),
        "conditions": conditions(condition("Ready", "True", "Enforcing"), *changes),
    }
    spec = {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": "long"}], "mode": "Enforce"}
    return thing("PrefillRoute", "chat", spec, usual | status)


def pod(pool_kind: str, pool_name: str, number: int, *, revision: str = "5c9d", **changes: Any) -> Object:
    status = {
        "phase": "Running",
        "podIP": f"10.0.0.{number}",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "engine", "restartCount": 0, "state": {"running": {}}}],
    }
    metadata = {
        "namespace": "serving",
        "name": f"{pool_name}-{revision}-{number}",
        "creationTimestamp": at(EARLIER),
        "labels": {
            "prfaas.io/pool": pool_name,
            "prfaas.io/pool-kind": pool_kind,
            "prfaas.io/revision": revision,
        },
    }
    return {
        "kind": "Pod",
        "metadata": metadata | changes.get("metadata", {}),
        "spec": {
            "containers": [{"name": "engine", "image": "vllm:1", "resources": {"limits": {"memory": "3Gi"}}}],
            **({"nodeName": f"gpu-{number}"} if changes.get("node", True) else {}),
        },
        "status": status | changes.get("status", {}),
    }


def lease(age_seconds: int = 3, holder: str = "prfaas-operator-7d9c-x2x4f") -> Object:
    renewed = NOW - timedelta(seconds=age_seconds)
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": 15,
        "renewTime": f"{renewed:%Y-%m-%dT%H:%M:%S}.123456Z",
    }
    return {"metadata": {"namespace": "prfaas", "name": "prfaas-operator"}, "spec": spec}


def fleet(*objects: Object, leases: list[Object] | None) -> FleetView:
    of = {
        kind: [each for each in objects if each["kind"] == kind]
        for kind in {each["kind"] for each in objects}
    }
    pools = [*of.get("DecodePool", ()), *of.get("PrefillPool", ())]
    fingerprints = fingerprints_of(pools)
    return FleetView(
        at=NOW,
        scope="namespace serving",
        operator=operator_view(leases, NOW),
        pools=tuple(pool_view(each, NOW) for each in pools),
        routes=tuple(route_view(each, NOW) for each in of.get("PrefillRoute", ())),
        endpoints=tuple(endpoint_view(each, fingerprints) for each in of.get("Pod", ())),
    )


PENDING = {
    "phase": "Pending",
    "podIP": None,
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu. preemption: 0/4 nodes are "
            "available: 4 Preemption is not helpful for scheduling.",
        }
    ],
    "containerStatuses": [],
}
OUT_OF_MEMORY = {
    "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {
            "name": "engine",
            "restartCount": 2,
            "state": {"running": {"startedAt": at(NOW)}},
            "lastState": {
                "terminated": {
                    "reason": "OOMKilled",
                    "exitCode": 137,
                    "startedAt": at(NOW - timedelta(minutes=4)),
                    "finishedAt": at(NOW - timedelta(minutes=1)),
                }
            },
        }
    ],
}
CRASHING = {
    "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {"name": "engine", "restartCount": 7, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ],
}


def healthy() -> FleetView:
    return fleet(
        pool("DecodePool", "chat"),
        pool("PrefillPool", "long"),
        route(),
        *(pod("DecodePool", "chat", number) for number in (1, 2)),
        *(pod("PrefillPool", "long", number) for number in (3, 4)),
        leases=[lease()],
    )


def progressing() -> FleetView:
    starting = {
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    }
    waiting = condition("Reconciling", "True", "WaitingForPods", "1 of 2 instances is starting")
    return fleet(
        pool("DecodePool", "chat"),
        pool("PrefillPool", "long", changes=(waiting,), readyReplicas=1),
        pod("PrefillPool", "long", 3),
        pod("PrefillPool", "long", 4, status=starting),
        leases=[lease()],
    )


def no_capacity() -> FleetView:
    limited = condition("ScalingLimited", "True", "NoCapacity", "1 pod waits for a node with nvidia.com/gpu")
    waiting = condition("Reconciling", "True", "WaitingForPods", "1 of 3 instances waits for a node")
    return fleet(
        pool(
            "PrefillPool",
            "long",
            changes=(limited, waiting),
            desiredReplicas=3,
            limitedBy="NoCapacity",
            capacity={
                "pendingReplicas": 1,
                "pendingSince": at(NOW - timedelta(minutes=12)),
                "medianPendingToReadySeconds": 95,
            },
        ),
        pod("PrefillPool", "long", 3),
        pod("PrefillPool", "long", 5, status=PENDING, node=False),
        leases=[lease()],
    )


def incompatible() -> FleetView:
    message = "long has 2e2e2e2e2e2e, chat has 1f1f1f1f1f1f: they differ in block_tokens"
    pair = {
        "prefillPool": "long",
        "compatible": "False",
        "reason": "FingerprintMismatch",
        "prefillEngines": 2,
        "decodeEngines": 2,
    }
    stalled = (
        condition("Ready", "False", "FingerprintMismatch", message),
        condition("Stalled", "True", "FingerprintMismatch", message),
        condition("KVCompatible", "False", "FingerprintMismatch", message),
    )
    return fleet(
        pool("DecodePool", "chat"),
        pool("PrefillPool", "long", fingerprint=OTHER),
        route(changes=stalled, pairs=(pair,)),
        leases=[lease()],
    )


def rolling_update() -> FleetView:
    rolling = condition("Reconciling", "True", "RollingOut", "1 of 2 instances is of revision 77aa")
    return fleet(
        pool(
            "DecodePool",
            "chat",
            changes=(rolling,),
            readyReplicas=1,
            updatedReplicas=1,
            updateRevision="77aa",
            revisions=[
                {"name": "5c9d", "replicas": 1, "ready": 1, "fingerprint": ONE},
                {"name": "77aa", "replicas": 1, "ready": 0, "fingerprint": OTHER},
            ],
        ),
        pod("DecodePool", "chat", 1, metadata={"annotations": {"prfaas.io/drain-since": at(NOW)}}),
        pod("DecodePool", "chat", 2, revision="77aa"),
        leases=[lease()],
    )


def operator_down() -> FleetView:
    held = pool("PrefillPool", "long", hold={"replicas": 8, "until": at(NOW + timedelta(minutes=72))})
    asked = pool("DecodePool", "chat")
    asked["metadata"]["annotations"] = {
        "prfaas.io/hold": f'{{"replicas": 1, "until": "{at(NOW + timedelta(hours=1))}"}}'
    }
    switched = route(
        changes=(condition("Ready", "True", "LocalOnly"),),
        effectiveMode="LocalOnly",
        localOnly={"until": at(NOW + timedelta(minutes=5))},
    )
    return fleet(held, asked, switched, pod("PrefillPool", "long", 3, status=CRASHING), leases=[lease(260)])


def out_of_memory() -> FleetView:
    message = (
        "Pod long-5c9d-3: container `engine` OOMKilled (limit 3Gi), restarted 2 times. Raise its memory "
        "limit in spec.workload.template."
    )
    stalled = (
        condition("Ready", "False", "OOMKilled", f"0 of 2 instances are ready. {message}"),
        condition("Stalled", "True", "OOMKilled", message),
        condition("WorkloadsAvailable", "False", "OOMKilled", f"0 of 2 instances are ready. {message}"),
    )
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    config = {
        "reason": "CreateContainerConfigError",
        "message": "couldn't find key token in Secret serving/hub",
    }
    kept_out = {**CRASHING, "containerStatuses": [{"name": "engine", "state": {"waiting": config}}]}
    recovered = {
        **OUT_OF_MEMORY,
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
    }
    return fleet(
        pool("PrefillPool", "long", changes=stalled, readyReplicas=0, limitedBy="OOMKilled"),
        pod("PrefillPool", "long", 3, status=OUT_OF_MEMORY),
        pod("PrefillPool", "long", 4, status=kept_out),
        pod("PrefillPool", "long", 5, status=evicted),
        pod("DecodePool", "chat", 6, status=recovered),
        leases=[lease()],
    )
