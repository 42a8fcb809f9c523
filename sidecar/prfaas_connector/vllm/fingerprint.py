"""What must be equal on two engines before they may exchange KV: the fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import vllm

from prfaas_connector.manifest import Layout
from prfaas_connector.vllm.settings import Settings

_SAMPLES = 512
_SAMPLE_BYTES = 16 << 10
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


def fields(config: Any, kv_cache_config: Any, layout: Layout, settings: Settings) -> dict[str, str]:
    """The fingerprint's fields by name; a refusal names the one that differs."""
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    # The commit that a hub's branch name stood for when the files were fetched.
    commit = getattr(model.hf_config, "_commit_hash", None)
    return {
        "engine": f"vllm {'.'.join(vllm.__version__.split('.')[:2])}",
        "model": settings.model_identity or model_identity(str(model.model), commit or model.revision),
        "config": _config_digest(model.hf_config),
        "dtype": str(model.dtype),
        "kv_cache_dtype": str(cache.cache_dtype),
        "kv_cache_layout": str(kv_cache_config.kv_cache_layout),
        "quantization": str(model.quantization),
        "mamba_cache_mode": str(cache.mamba_cache_mode) if layout.has_state else "none",
        "groups": _groups_digest(layout),
        "shards": str(layout.shards),
        "tensor_parallel_size": str(parallel.tensor_parallel_size),
        "attention": attention_format(config),
    }


def digest(named: dict[str, str]) -> str:
    """SHA-256, in hexadecimal, of the fields."""
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def model_identity(model: str, revision: str | None) -> str:
    """Equal on engines with the same weights, wherever their files lie.

    For a local folder: names, sizes and 512 evenly spaced samples of 16 KiB of each weight file, so that a
    fine-tune or a merged adapter, which changes matrices in every layer, is another model. Reading terabytes
    at start-up would be the alternative; the setting ``model_identity`` is for those who know better.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    summary = hashlib.sha256()
    for path in sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        size = path.stat().st_size
        summary.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as weights:
            for sample in range(_SAMPLES):
                weights.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                summary.update(weights.read(_SAMPLE_BYTES))
    return f"files:{summary.hexdigest()[:32]}"


def attention_format(config: Any) -> str:
    """What else decides the order of bytes inside a block: the CPU kernels lay blocks out by instruction
    set."""
    if config.device_config.device_type != "cpu":
        backend = config.attention_config.backend
        return f"{config.device_config.device_type} {backend.name if backend is not None else 'default'}"
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    isa = _get_attn_isa(
        config.model_config.dtype, config.cache_config.block_size, config.model_config.get_head_size()
    )
    return f"cpu {isa}"


def _config_digest(hf_config: Any) -> str:
    named = {
        key: value
        for key, value in hf_config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version", "_attn_implementation")
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _groups_digest(layout: Layout) -> str:
    named = [
        [group.kind.value, group.block_tokens, group.window_tokens, list(group.layers)]
        for group in layout.groups
    ]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]
