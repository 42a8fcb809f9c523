"""Objects that an API server has to take or refuse: each rule of the CRDs with an example of either."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

CONTAINERS = [{"name": "engine", "image": "vllm/vllm-openai:v0.32.0"}]
TEMPLATE = {"spec": {"containers": CONTAINERS}}
POOL_SPEC: Object = {
    "model": {"name": "chat"},
    "engine": {"type": "VLLM"},
    "workload": {"template": TEMPLATE},
}
ROUTE_SPEC: Object = {"decodePoolRef": {"name": "chat"}, "prefillPoolRefs": [{"name": "long"}]}
PROFILE_SPEC: Object = {"model": {"name": "chat"}, "kvBytes": [{"tokens": 1024, "bytes": 1 << 20}]}
SPECS = {
    "PrefillPool": POOL_SPEC,
    "DecodePool": POOL_SPEC,
    "PrefillRoute": ROUTE_SPEC,
    "ModelKVProfile": PROFILE_SPEC,
    "Region": {"peer": {"address": "gw.example.org:7410"}},
    "KVLink": {"source": {"region": "eu"}, "destination": {"region": "us"}},
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
NAMES = {"KVLink": "eu-us"}
POOLS = ("PrefillPool", "DecodePool")


@dataclass(frozen=True)
class Case:
    """Changes to a minimal object, by dotted path (None removes), and what the refusal has to say, if any.

    `rule` is part of the message of the CEL rule that the case is about; cases of plain schema have none.
    """

    what: str
    kinds: tuple[str, ...]
    changes: dict[str, Any]
    refusal: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return self.what

    def objects(self) -> list[Object]:
        return [changed(minimal(kind, self.name), self.changes) for kind in self.kinds]


def minimal(kind: str, name: str | None = None) -> Object:
    return {
        "apiVersion": "prfaas.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name or NAMES.get(kind, "example")},
        "spec": copy.deepcopy(SPECS[kind]),
    }


def changed(document: Object, changes: dict[str, Any]) -> Object:
    result = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return result


def points(*pairs: tuple[int, float]) -> list[Object]:
    return [{"tokens": tokens, "seconds": seconds} for tokens, seconds in pairs]


def prefill(*pairs: tuple[int, float]) -> list[Object]:
    return [{"hardware": "H100", "points": points(*pairs)}]


def kv_bytes(*pairs: tuple[int, int]) -> list[Object]:
    return [{"tokens": tokens, "bytes": size} for tokens, size in pairs]


ROUTE = ("PrefillRoute",)
PROFILE = ("ModelKVProfile",)
LWS = {"size": 2, "workerTemplate": TEMPLATE}
LONG_NAME = "a" * 41

ACCEPTED = (
    Case(
        "a pool in two clusters",
        POOLS,
        {
            "spec.placement.clusters": [
                {"name": "eu", "replicas": 2},
                {"name": "us", "minReplicas": 1, "maxReplicas": 4},
            ]
        },
    ),
    Case("a route in one cluster", ("PrefillRoute",), {"spec.placement.clusters": [{"name": "eu"}]}),
    Case("a port of the node", POOLS, {"spec.transport": {"reach": "HostPort", "hostPort": 17400}}),
    Case("a bundle", ("Region",), {"spec.trustBundle": CERTIFICATE, "spec.clusters": ["a", "b"]}),
    Case("a peer with an IPv6 address", ("Region",), {"spec.peer.address": "[fd00::1]:7410"}),
    Case(
        "a link with capacity, budget and price",
        ("KVLink",),
        {
            "spec.capacityBitsPerSecond": 10**10,
            "spec.budgetBytesPerMonth": 10**15,
            "spec.pricePerGibibyte": 0.02,
        },
    ),
    Case("a minimal pool", POOLS, {}),
    Case("a minimal route", ROUTE, {}),
    Case("a minimal profile", PROFILE, {}),
    Case("a name of 40 characters", POOLS, {}, name="a" * 40),
    Case("no replicas at all", POOLS, {"spec.replicas": 0}),
    Case("the most replicas", POOLS, {"spec.replicas": 10_000}),
    Case("another engine, for the operator to refuse", POOLS, {"spec.engine.type": "SGLang"}),
    Case("a group of pods per instance", POOLS, {"spec.workload": {"leaderWorkerTemplate": LWS}}),
    Case("an arena as a number", POOLS, {"spec.kv.arena": 1 << 30}),
    Case("the smallest arena", POOLS, {"spec.kv.arena": "64Mi"}),
    Case("the largest arena", POOLS, {"spec.kv.arena": "4Ti"}),
    Case("bounds in mode Managed", POOLS, {"spec.scaling": {"mode": "Managed", "maxReplicas": 4}}),
    Case(
        "equal bounds in mode Managed",
        POOLS,
        {"spec.scaling": {"mode": "Managed", "minReplicas": 4, "maxReplicas": 4}},
    ),
    Case("mode External without bounds", POOLS, {"spec.scaling": {"mode": "External"}}),
    Case(
        "targets, behaviour and cost of mode Managed",
        POOLS,
        {
            "spec.scaling": {
                "mode": "Managed",
                "minReplicas": 0,
                "maxReplicas": 4,
                "targets": {"utilisationPercent": 80, "timeToFirstTokenMilliseconds": 2000},
                "behaviour": {"growWindowSeconds": 0, "convertRoles": False},
                "instance": {"pricePerHour": 2.5, "hardware": "h100"},
            }
        },
    ),
    Case("surge instead of gaps", POOLS, {"spec.rollout": {"maxUnavailable": 0, "maxSurge": 1}}),
    Case("no drain", POOLS, {"spec.drain.timeoutSeconds": 0}),
    Case(
        "resources of the sidecar, cpu as a number",
        POOLS,
        {"spec.sidecar.resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": "2"}}},
    ),
    Case(
        "fields of a pod that the schema does not know",
        POOLS,
        {"spec.workload.template.spec.schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]},
    ),
    Case("mode Canary with a percentage", ROUTE, {"spec.mode": "Canary", "spec.canary": {"percent": 100}}),
    Case("a fixed threshold of 0", ROUTE, {"spec.threshold": {"mode": "Fixed", "tokens": 0}}),
    Case(
        "sixteen weighted pools",
        ROUTE,
        {"spec.prefillPoolRefs": [{"name": f"p{number}", "weight": 0} for number in range(16)]},
    ),
    Case(
        "only times to prefill", PROFILE, {"spec.kvBytes": None, "spec.prefill": prefill((1, 0.1), (2, 0.1))}
    ),
    Case(
        "sizes that grow",
        PROFILE,
        {"spec.kvBytes": kv_bytes((1024, 1 << 20), (2048, 1 << 20), (4096, 1 << 22))},
    ),
    Case(
        "speed by batch",
        PROFILE,
        {
            "spec.decode": [
                {"hardware": "H100", "batch": batch, "tokensPerSecond": 100.5 * batch} for batch in (1, 8)
            ]
        },
    ),
)

REFUSED = (
    Case(
        "bounds of a cluster the wrong way round",
        POOLS,
        {"spec.placement.clusters": [{"name": "eu", "minReplicas": 4, "maxReplicas": 1}]},
        "minReplicas of a cluster must not exceed its maxReplicas",
    ),
    Case("a placement of nothing", POOLS, {"spec.placement.clusters": []}, "should have at least 1 items"),
    Case(
        "a port of the node without its reach",
        POOLS,
        {"spec.transport": {"hostPort": 17400}},
        "transport.hostPort is needed with transport.reach HostPort",
    ),
    Case(
        "a reach by node without its port",
        POOLS,
        {"spec.transport": {"reach": "HostPort"}},
        "transport.hostPort is needed with transport.reach HostPort",
    ),
    Case(
        "a bundle that is none",
        ("Region",),
        {"spec.trustBundle": "nothing"},
        "trustBundle must hold certificates in PEM",
    ),
    Case(
        "a bundle with a key",
        ("Region",),
        {"spec.trustBundle": CERTIFICATE + "-----BEGIN EC PRIVATE KEY-----"},
        "trustBundle must not hold a private key",
    ),
    Case("a peer without a port", ("Region",), {"spec.peer.address": "gw.example.org"}, "spec.peer.address"),
    Case("a region with a long name", ("Region",), {}, "a region's name has at most 63", name="r" * 64),
    Case("a region with dots", ("Region",), {}, "lowercase letters, digits and dashes", name="eu.west"),
    Case(
        "a link to itself",
        ("KVLink",),
        {"spec.destination.region": "eu"},
        "source and destination must be different regions",
        name="eu-eu",
    ),
    Case("a link of another name", ("KVLink",), {}, "a KVLink is named", name="example"),
    Case("a name of 41 characters", POOLS, {}, "a pool's name has at most 40 characters", name=LONG_NAME),
    Case(
        "a name with a dot",
        POOLS,
        {},
        "a pool's name has lowercase letters, digits and dashes only",
        name="a.b",
    ),
    Case("fewer replicas than none", POOLS, {"spec.replicas": -1}, "greater than or equal to 0"),
    Case("too many replicas", POOLS, {"spec.replicas": 10_001}, "less than or equal to 10000"),
    Case("no model", POOLS, {"spec.model": None}, "spec.model"),
    Case("a model without a name", POOLS, {"spec.model.name": ""}, "spec.model.name"),
    Case("no engine", POOLS, {"spec.engine": None}, "spec.engine"),
    Case("an engine that nobody knows", POOLS, {"spec.engine.type": "Llamafile"}, '"VLLM", "SGLang"'),
    Case("a port that is none", POOLS, {"spec.engine.port": 70_000}, "less than or equal to 65535"),
    Case(
        "a container name that is none", POOLS, {"spec.engine.container": "Engine"}, "spec.engine.container"
    ),
    Case(
        "arguments without end", POOLS, {"spec.engine.extraArgs": ["-v"] * 129}, "must have at most 128 items"
    ),
    Case("no workload", POOLS, {"spec.workload": {}}, "exactly one of template and leaderWorkerTemplate"),
    Case(
        "both workloads",
        POOLS,
        {"spec.workload.leaderWorkerTemplate": LWS},
        "exactly one of template and leaderWorkerTemplate",
    ),
    Case("a pod without containers", POOLS, {"spec.workload.template.spec": {}}, "template.spec.containers"),
    Case(
        "two containers of one name",
        POOLS,
        {"spec.workload.template.spec.containers": CONTAINERS * 2},
        "Duplicate value",
    ),
    Case("an arena that is no quantity", POOLS, {"spec.kv.arena": "lots"}, "spec.kv.arena"),
    Case("a negative arena", POOLS, {"spec.kv.arena": "-1Gi"}, "spec.kv.arena"),
    Case("an arena too small", POOLS, {"spec.kv.arena": "63Mi"}, "kv.arena must be between 64Mi and 4Ti"),
    Case("an arena too large", POOLS, {"spec.kv.arena": 5 << 40}, "kv.arena must be between 64Mi and 4Ti"),
    Case("no stream", POOLS, {"spec.transport.streams": 0}, "greater than or equal to 1"),
    Case("an unknown upgrade", POOLS, {"spec.sidecar.upgrade": "Never"}, '"OnNextRollout", "Rolling"'),
    Case("an unknown scaling mode", POOLS, {"spec.scaling.mode": "Auto"}, '"Static", "External", "Managed"'),
    Case(
        "bounds in mode Static",
        POOLS,
        {"spec.scaling": {"maxReplicas": 4}},
        "minReplicas and maxReplicas belong to mode Managed",
    ),
    Case(
        "bounds in mode External",
        POOLS,
        {"spec.scaling": {"mode": "External", "minReplicas": 4}},
        "minReplicas and maxReplicas belong to mode Managed",
    ),
    Case(
        "mode Managed without bounds",
        POOLS,
        {"spec.scaling": {"mode": "Managed"}},
        "mode Managed needs maxReplicas",
    ),
    Case(
        "bounds the wrong way round",
        POOLS,
        {"spec.scaling": {"mode": "Managed", "minReplicas": 5, "maxReplicas": 4}},
        "minReplicas must not exceed maxReplicas",
    ),
    Case(
        "a target beyond what an instance can do",
        POOLS,
        {"spec.scaling": {"mode": "Managed", "maxReplicas": 4, "targets": {"utilisationPercent": 101}}},
        "spec.scaling.targets.utilisationPercent",
    ),
    Case(
        "a window of more than a day",
        POOLS,
        {"spec.scaling": {"mode": "Managed", "maxReplicas": 4, "behaviour": {"shrinkWindowSeconds": 86401}}},
        "spec.scaling.behaviour.shrinkWindowSeconds",
    ),
    Case(
        "a price below nothing",
        POOLS,
        {"spec.scaling": {"mode": "Managed", "maxReplicas": 4, "instance": {"pricePerHour": -1}}},
        "spec.scaling.instance.pricePerHour",
    ),
    Case(
        "a rollout that cannot move",
        POOLS,
        {"spec.rollout.maxUnavailable": 0},
        "maxUnavailable and maxSurge must not both be 0",
    ),
    Case(
        "a drain of more than an hour",
        POOLS,
        {"spec.drain.timeoutSeconds": 3601},
        "less than or equal to 3600",
    ),
    Case("no decode pool", ROUTE, {"spec.decodePoolRef": None}, "spec.decodePoolRef"),
    Case("no prefill pool", ROUTE, {"spec.prefillPoolRefs": []}, "should have at least 1 items"),
    Case("a prefill pool twice", ROUTE, {"spec.prefillPoolRefs": [{"name": "a"}] * 2}, "Duplicate value"),
    Case(
        "seventeen prefill pools",
        ROUTE,
        {"spec.prefillPoolRefs": [{"name": f"p{number}"} for number in range(17)]},
        "must have at most 16 items",
    ),
    Case("an unknown mode", ROUTE, {"spec.mode": "Dream"}, '"Observe", "Canary", "Enforce"'),
    Case("mode Canary without a percentage", ROUTE, {"spec.mode": "Canary"}, "canary.percent is needed"),
    Case(
        "a percentage in mode Enforce",
        ROUTE,
        {"spec.mode": "Enforce", "spec.canary.percent": 1},
        "canary.percent",
    ),
    Case(
        "a percentage of 0",
        ROUTE,
        {"spec.mode": "Canary", "spec.canary": {"percent": 0}},
        "greater than or equal to 1",
    ),
    Case(
        "Fixed without a threshold",
        ROUTE,
        {"spec.threshold": {"mode": "Fixed"}},
        "threshold.tokens is needed",
    ),
    Case("Auto with a threshold", ROUTE, {"spec.threshold": {"tokens": 9}}, "threshold.tokens is needed"),
    Case(
        "a profile of nothing",
        PROFILE,
        {"spec.kvBytes": None},
        "needs at least one of kvBytes, prefill and decode",
    ),
    Case(
        "sizes out of order",
        PROFILE,
        {"spec.kvBytes": kv_bytes((2048, 1), (1024, 2))},
        "kvBytes must be sorted by tokens, ascending",
    ),
    Case(
        "sizes that shrink",
        PROFILE,
        {"spec.kvBytes": kv_bytes((1024, 2), (2048, 1))},
        "a longer prompt cannot have fewer bytes than a shorter one",
    ),
    Case("a length twice", PROFILE, {"spec.kvBytes": kv_bytes((1024, 1), (1024, 1))}, "Duplicate value"),
    Case(
        "times out of order",
        PROFILE,
        {"spec.prefill": prefill((2048, 0.1), (1024, 0.2))},
        "points must be sorted by tokens, ascending",
    ),
    Case(
        "times that shrink",
        PROFILE,
        {"spec.prefill": prefill((1024, 0.2), (2048, 0.1))},
        "a longer prompt cannot take fewer seconds than a shorter one",
    ),
    Case("a prefill in no time", PROFILE, {"spec.prefill": prefill((1024, 0))}, "greater than 0"),
    Case(
        "the same hardware and batch twice",
        PROFILE,
        {"spec.decode": [{"hardware": "H100", "batch": 1, "tokensPerSecond": 1}] * 2},
        "Duplicate value",
    ),
)


@dataclass(frozen=True)
class Update:
    """A change of an existing object."""

    what: str
    kinds: tuple[str, ...]
    changes: dict[str, Any]
    refusal: str | None = None

    def __str__(self) -> str:
        return self.what


UPDATES = (
    Update("a link's budget may change", ("KVLink",), {"spec.budgetBytesPerMonth": 5}),
    Update("a link's source may not", ("KVLink",), {"spec.source.region": "as"}, "source is immutable"),
    Update(
        "a link's destination may not",
        ("KVLink",),
        {"spec.destination.region": "as"},
        "destination is immutable",
    ),
    Update("a region's bundle may change", ("Region",), {"spec.trustBundle": CERTIFICATE}),
    Update("the model's revision may change", POOLS, {"spec.model.revision": "v2"}),
    Update("the model's name may not", POOLS, {"spec.model.name": "other"}, "model.name is immutable"),
    Update("the engine's arguments may change", POOLS, {"spec.engine.extraArgs": ["--seed=1"]}),
    Update("the engine's type may not", POOLS, {"spec.engine.type": "SGLang"}, "engine.type is immutable"),
    Update("a route may turn to another pool", ROUTE, {"spec.decodePoolRef.name": "other"}),
    Update("a profile may be about another model", PROFILE, {"spec.model.name": "other"}),
)
