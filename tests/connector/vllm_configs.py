"""vLLM's configuration objects for engines without a model: a config.json and hand-made KV cache groups."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)

BLOCK_TOKENS = 16
WINDOW_TOKENS = 40
MAX_MODEL_TOKENS = 1024

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 1000,
    "max_position_embeddings": MAX_MODEL_TOKENS,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
}


def attention() -> FullAttentionSpec:
    return FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)


def window() -> SlidingWindowSpec:
    return SlidingWindowSpec(
        block_size=BLOCK_TOKENS,
        num_kv_heads=1,
        head_size=1,
        dtype=torch.float32,
        sliding_window=WINDOW_TOKENS,
    )


def state(mode: str) -> MambaSpec:
    return MambaSpec(
        block_size=BLOCK_TOKENS if mode == "align" else MAX_MODEL_TOKENS,
        shapes=((4,),),
        dtypes=(torch.float32,),
        mamba_cache_mode=mode,
    )


LAYOUTS: dict[str, tuple[KVCacheSpec, ...]] = {
    "attention": (attention(),),
    "window": (attention(), window()),
    "state": (attention(), state("none")),
    "aligned state": (attention(), state("align")),
    "all": (attention(), window(), state("align")),
}


@dataclass(frozen=True)
class Settings:
    """How an engine is set up; everything that a scenario may want to differ."""

    layout: str = "attention"
    asynchronous: bool = False
    v2: bool = False
    role: str = "kv_both"
    blocks: int = 200
    max_requests: int = 8
    step_tokens: int = 48
    reserve_whole_prompts: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    failure_policy: str = "recompute"


@functools.cache
def model_folder() -> str:
    """A folder with no weights. Kept until the process ends, when the system's temporary files go."""
    keep = tempfile.TemporaryDirectory(prefix="prfaas-model-")
    _kept.append(keep)
    (Path(keep.name) / "config.json").write_text(json.dumps(MODEL))
    return keep.name


_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def model_config() -> ModelConfig:
    return ModelConfig(
        model=model_folder(), skip_tokenizer_init=True, dtype="float32", max_model_len=MAX_MODEL_TOKENS
    )


def vllm_config(settings: Settings, socket: Path) -> VllmConfig:
    # Aligned states are the form in which vLLM's prefix cache keeps them.
    caching = settings.layout != "state"
    config = VllmConfig(
        model_config=model_config(),
        scheduler_config=SchedulerConfig(
            max_num_seqs=settings.max_requests,
            max_num_batched_tokens=settings.step_tokens,
            max_model_len=MAX_MODEL_TOKENS,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            scheduler_reserve_full_isl=settings.reserve_whole_prompts,
            watermark=0.0,
        ),
        cache_config=CacheConfig(block_size=BLOCK_TOKENS, enable_prefix_caching=caching),
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=KVTransferConfig(
            kv_connector="PrfaasConnector",
            kv_connector_module_path="prfaas_connector.vllm",
            kv_role=settings.role,
            kv_load_failure_policy=settings.failure_policy,
            kv_connector_extra_config={"socket": str(socket), "model_identity": "none", **settings.extra},
        ),
    )
    # On CPUs vLLM turns asynchronous scheduling off; the schedulers themselves do not care.
    config.scheduler_config.async_scheduling = settings.asynchronous
    config.cache_config.num_gpu_blocks = settings.blocks
    if any(isinstance(spec, MambaSpec) for spec in LAYOUTS[settings.layout]):
        config.cache_config.mamba_cache_mode = "align" if caching else "none"
    return config


def kv_cache_config(settings: Settings) -> KVCacheConfig:
    groups = [
        KVCacheGroupSpec([f"group{index}.layer{layer}" for layer in range(2)], spec)
        for index, spec in enumerate(LAYOUTS[settings.layout])
    ]
    return KVCacheConfig(num_blocks=settings.blocks, kv_cache_tensors=[], kv_cache_groups=groups)
