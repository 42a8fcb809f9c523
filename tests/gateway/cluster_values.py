"""Snapshots, pods and reports for tests, with usual values for what is not given."""

from __future__ import annotations

import hashlib
from typing import Any

from prfaas.api.snapshot import DecodeTarget, ModelTarget, PoolTarget, RouteTarget, Snapshot
from prfaas.api.v1alpha1.route import RouteMode
from prfaas_gateway.cluster.pods import Pod
from prfaas_gateway.engine_report import EngineReport, ModelFile

TRUST = "spiffe://test"
FINGERPRINT = "ab" * 32
OTHER_FINGERPRINT = "cd" * 32
ENGINE_PORT = 8000


def identity(kind: str, name: str) -> str:
    """Identity of a pool's sidecars."""
    return f"{TRUST}/region/here/ns/llm/pool/{kind}/{name}"


def prefill_target(name: str = "long", namespace: str = "llm") -> PoolTarget:
    """A prefill pool."""
    return PoolTarget(
        namespace=namespace,
        name=name,
        identity=identity("PrefillPool", name),
        engine_port=ENGINE_PORT,
    )


def route(**fields: Any) -> RouteTarget:
    """A route to the pool `long` that is carried out."""
    given = {
        "namespace": "llm",
        "name": "chat",
        "mode": RouteMode.ENFORCE,
        "threshold_tokens": 100,
        "prefill_pools": (prefill_target(),),
        **fields,
    }
    return RouteTarget.model_validate(given)


def decode_target(name: str = "chat", namespace: str = "llm", **fields: Any) -> DecodeTarget:
    """A decode pool with that route."""
    given = {
        "namespace": namespace,
        "name": name,
        "identity": identity("DecodePool", name),
        "engine_port": ENGINE_PORT,
        "route": route(),
        **fields,
    }
    return DecodeTarget.model_validate(given)


def snapshot(*pools: DecodeTarget, model: str = "chat", more: tuple[ModelTarget, ...] = ()) -> Snapshot:
    """One model in these pools, and others."""
    models = (ModelTarget(name=model, decode_pools=pools or (decode_target(),)), *more)
    return Snapshot.sealed(region="here", trust_domain="test", models=models)


def pod(name: str, pool: str = "chat", kind: str = "DecodePool", **fields: Any) -> Pod:
    """A pod that takes requests."""
    given: dict[str, Any] = {
        "uid": f"uid-{name}",
        "namespace": "llm",
        "name": name,
        "pool": pool,
        "kind": kind,
        "ip": "192.0.2.1",
        "ready": True,
        "deleting": False,
        "draining": False,
        "restarts": 0,
        **fields,
    }
    return Pod(**given)


def report(*files: str, **fields: Any) -> EngineReport:
    """What a sidecar tells; ``files`` are contents of a tokenizer.json."""
    listed = tuple(
        ModelFile("tokenizer.json", len(content), hashlib.sha256(content.encode()).hexdigest())
        for content in files
    )
    given: dict[str, Any] = {
        "engine_connected": True,
        "fingerprint": FINGERPRINT,
        "block_tokens": 16,
        "max_model_tokens": 4096,
        "served_models": ("chat",),
        "model_files": listed,
        **fields,
    }
    return EngineReport(**given)
