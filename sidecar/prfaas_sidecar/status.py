"""What the sidecar tells of itself and its engine: `GET /status` and `GET /v1/engine`
(docs/control-plane.md, "What the sidecar tells")."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from prfaas_sidecar.access import as_json
from prfaas_sidecar.node import Node

FIELDS_TOLD_MAX = 64
FIELD_MAX_CHARACTERS = 128


def status(node: Node, active_transfers: int) -> dict[str, Any]:
    """Nothing about requests. What an engine has to say is null while it has not said it."""
    engine = node.engine if node.engine is not None and node.engine.ready else None
    facts = engine.facts if engine is not None else None
    files = facts.model_files if facts is not None else ()
    return {
        "version": 1,
        "incarnation": engine.incarnation if engine is not None else None,
        "engine_connected": engine is not None,
        "draining": node.draining,
        "fingerprint": engine.fingerprint if engine is not None else None,
        "fingerprint_fields": fields_told(engine.fingerprint_fields) if engine is not None else None,
        "role": engine.role if engine is not None else None,
        "block_tokens": facts.block_tokens if facts is not None else None,
        "max_model_tokens": facts.max_model_tokens if facts is not None else None,
        "served_models": list(facts.served_models) if facts is not None else None,
        "active_transfers": active_transfers,
        "arena_bytes": node.arena.size_bytes,
        "arena_used_bytes": node.arena.used_bytes,
        "model_files": [
            {"name": file.name, "bytes": file.size_bytes, "sha256": file.sha256} for file in files
        ],
        "model_files_error": (facts.model_files_error or None) if facts is not None else None,
        "peers": as_json(node.access),
        "links": node.links.as_json(),
        "links_epoch": node.links.epoch,
    }


def fields_told(fields: Mapping[str, str]) -> dict[str, str]:
    """What a fingerprint is made of, short enough to be asked of every pod.

    Long values are digests, which tell as well whether two engines differ there.
    """
    told = sorted(fields.items())[:FIELDS_TOLD_MAX]
    return {_short(name): _short(value) for name, value in told}


def _short(text: str) -> str:
    if len(text) <= FIELD_MAX_CHARACTERS:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
