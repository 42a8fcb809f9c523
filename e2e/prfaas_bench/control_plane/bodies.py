"""The fleet as a user would write it: pairs of pools with a route, whose pods kwok's nodes take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from prfaas.api import keys
from prfaas.kube.resources import Object, Resource

NAMESPACE = "serving"
OWN_NAMESPACE = "prfaas-system"
ENGINE_PORT = 18000
PEER_POOLS = Resource("bench.prfaas.io", "v1", "peerpools", "PeerPool")
PEER_LABEL = "bench.prfaas.io/peer-pool"


def pod_template(model: str) -> dict[str, Any]:
    """A vLLM pod of a usual size."""
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": "vllm"}},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeSelector": {"type": "kwok"},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": "engine",
                    "image": "registry.example.org/vllm/vllm-openai:v0.32.0",
                    "args": [
                        "--model=/models/Qwen3-8B",
                        f"--served-model-name={model}",
                        "--block-size=32",
                        "--max-model-len=40960",
                        "--gpu-memory-utilization=0.92",
                    ],
                    "env": [
                        {"name": "HF_HUB_OFFLINE", "value": "1"},
                        {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
                    ],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "2Gi"},
                        "limits": {"memory": "2Gi"},
                    },
                    "volumeMounts": [
                        {"name": "models", "mountPath": "/models", "readOnly": True},
                        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the container's own
                    ],
                }
            ],
            "volumes": [
                {"name": "models", "hostPath": {"path": "/models", "type": "Directory"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            ],
        },
    }


def pool(kind: str, name: str, model: str, namespace: str = NAMESPACE) -> Object:
    """A pool of one instance."""
    return {
        "apiVersion": keys.API_VERSION,
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "model": {"name": model},
            "engine": {"type": "VLLM", "port": ENGINE_PORT},
            "kv": {"arena": "512Mi"},
            "workload": {"template": pod_template(model)},
        },
    }


def fleet(pools: int) -> tuple[list[Object], list[Object]]:
    """So many pools, one half of each kind, and a route for each pair, each of a model of its own."""
    pairs = pools // 2
    numbers = [f"{number:04d}" for number in range(pairs)]
    made = [pool(keys.PREFILL_POOL, f"prefill-{each}", f"model-{each}") for each in numbers]
    made += [pool(keys.DECODE_POOL, f"decode-{each}", f"model-{each}") for each in numbers]
    routes: list[Object] = [
        {
            "apiVersion": keys.API_VERSION,
            "kind": keys.PREFILL_ROUTE,
            "metadata": {"namespace": NAMESPACE, "name": f"route-{each}"},
            "spec": {
                "decodePoolRef": {"name": f"decode-{each}"},
                "prefillPoolRefs": [{"name": f"prefill-{each}"}],
                "mode": "Enforce",
                "threshold": {"mode": "Fixed", "tokens": 4096},
            },
        }
        for each in numbers
    ]
    return made, routes


def peer_pool(name: str) -> Object:
    """The same spec for the peer."""
    return {
        "apiVersion": PEER_POOLS.api_version,
        "kind": PEER_POOLS.kind,
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": pool(keys.PREFILL_POOL, name, name)["spec"],
    }


def peer_definition() -> Object:
    """A kind whose fields nobody checks."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "metadata": {"name": f"{PEER_POOLS.plural}.{PEER_POOLS.group}"},
        "spec": {
            "group": PEER_POOLS.group,
            "scope": "Namespaced",
            "names": {"plural": PEER_POOLS.plural, "singular": "peerpool", "kind": PEER_POOLS.kind},
            "versions": [
                {
                    "name": PEER_POOLS.version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": anything, "status": anything},
                        }
                    },
                }
            ],
        },
    }


def definitions(folder: Path) -> list[Object]:
    """The project's own definitions, from its folder `crds`, and the peer's."""
    documents = [
        document
        for path in sorted(folder.glob("*.prfaas.io.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    return [*documents, peer_definition()]


def readiness_patch(ready: bool, now: str) -> Object:
    """The status patch of a kubelet whose probe begins to succeed, or fails."""
    status = "True" if ready else "False"
    conditions = [
        {"type": type_, "status": value, "lastTransitionTime": now}
        for type_, value in (
            ("PodScheduled", "True"), ("Initialized", "True"), ("ContainersReady", status), ("Ready", status),
        )
    ]  # fmt: skip
    return {"status": {"conditions": conditions}}


def engine_report(fingerprint: str) -> bytes:
    """What every sidecar tells of its engine."""
    return json.dumps(
        {
            "version": 1,
            "incarnation": "1",
            "engine_connected": True,
            "draining": False,
            "fingerprint": fingerprint,
            "block_tokens": 32,
            "max_model_tokens": 40960,
            "served_models": ["chat"],
            "arena_bytes": 512 << 20,
        }
    ).encode()
