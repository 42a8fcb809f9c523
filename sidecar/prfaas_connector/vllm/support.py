"""What this adapter supports. Everything else is refused by the setting's name when the engine starts, never
at a request."""

from __future__ import annotations

from typing import Any

import vllm
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    SinkFullAttentionSpec,
    SlidingWindowMLASpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
    compute_layer_kv_cache_shape_bytes,
    is_quantized_kv_cache,
)

from prfaas_connector.manifest import Group, Kind, Layout
from prfaas_connector.vllm.settings import Settings

TESTED_VERSIONS = ("0.32.",)


class UnsupportedError(ValueError):
    """The engine is configured in a way that this connector does not support. The text names the setting and
    the remedy."""


def check(config: Any, kv_cache_config: Any, settings: Settings) -> None:
    """Refuses unsupported engines.

    Raises:
        UnsupportedError: names the setting.
    """
    if not vllm.__version__.startswith(TESTED_VERSIONS):
        raise UnsupportedError(
            f"vLLM {vllm.__version__}: this connector supports {', '.join(f'{v}x' for v in TESTED_VERSIONS)}"
        )
    parallel = config.parallel_config
    transfer = config.kv_transfer_config
    refusals = (
        (parallel.pipeline_parallel_size > 1, "--pipeline-parallel-size above 1"),
        (parallel.decode_context_parallel_size > 1, "--decode-context-parallel-size above 1"),
        (parallel.prefill_context_parallel_size > 1, "--prefill-context-parallel-size above 1"),
        (parallel.enable_dbo, "--enable-dbo"),
        (config.speculative_config is not None, "--speculative-config"),
        (config.model_config.is_encoder_decoder, "an encoder-decoder model"),
        (config.cache_config.kv_sharing_fast_prefill, "--kv-sharing-fast-prefill"),
        (
            is_quantized_kv_cache(config.cache_config.cache_dtype),
            f"--kv-cache-dtype {config.cache_config.cache_dtype}: its scales are not part of the fingerprint",
        ),
        (config.cache_config.mamba_cache_mode == "all", "--mamba-cache-mode all (use none or align)"),
        (
            transfer.is_kv_consumer and transfer.kv_load_failure_policy != "recompute",
            "kv_load_failure_policy other than recompute: a failed load would fail the request",
        ),
    )
    for refused, name in refusals:
        if refused:
            raise UnsupportedError(f"prfaas does not support {name}")
    if transfer.is_kv_producer and not settings.layerwise and _uses_full_cuda_graphs(config):
        raise UnsupportedError(
            "full CUDA graphs skip the layer hook that a producer needs: set"
            " kv_connector_extra_config.layerwise to true, or use --enforce-eager"
        )
    for group in kv_cache_config.kv_cache_groups:
        if group.host_resident or not group.enable_kv_transfer:
            raise UnsupportedError("prfaas does not support HiSparse host-resident KV cache groups")


def _uses_full_cuda_graphs(config: Any) -> bool:
    if config.device_config.device_type != "cuda" or config.model_config.enforce_eager:
        return False
    mode = config.compilation_config.cudagraph_mode
    return mode is not None and bool(mode.has_full_cudagraphs())


def layout(config: Any, kv_cache_config: Any) -> Layout:
    """The engine's KV cache groups as lanes see them; units are per shard.

    Raises:
        UnsupportedError: a group is of a kind that cannot be shipped.
    """
    groups = tuple(_group(group) for group in kv_cache_config.kv_cache_groups)
    shards = config.parallel_config.tensor_parallel_size // kv_cache_config.kv_tp_replicas
    return Layout(groups, shards)


def _group(group: Any) -> Group:
    spec = group.kv_cache_spec
    kind, window = _kind(spec)
    return Group(
        kind=kind,
        block_tokens=int(spec.block_size),
        window_tokens=window,
        layers=tuple((name, _unit_bytes(_layer_spec(spec, name))) for name in group.layer_names),
    )


def _layer_spec(spec: KVCacheSpec, name: str) -> KVCacheSpec:
    return spec.kv_cache_specs[name] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _unit_bytes(spec: KVCacheSpec) -> int:
    size = 1
    for dimension in compute_layer_kv_cache_shape_bytes(spec, 1)[1:]:
        size *= int(dimension)
    return size


def _kind(spec: KVCacheSpec) -> tuple[Kind, int]:
    specs = list(spec.kv_cache_specs.values()) if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
    kinds = {_one_kind(one) for one in specs}
    if len(kinds) != 1:
        raise UnsupportedError(
            f"prfaas does not support a KV cache group of mixed kinds: {sorted(str(kind) for kind in kinds)}"
        )
    return kinds.pop()


def _one_kind(spec: KVCacheSpec) -> tuple[Kind, int]:
    if isinstance(spec, MambaSpec):
        if spec.num_speculative_blocks:
            raise UnsupportedError("prfaas does not support speculative blocks of state groups")
        return Kind.STATE, 0
    if isinstance(
        spec, (ChunkedLocalAttentionSpec, CrossAttentionSpec, SinkFullAttentionSpec, SlidingWindowMLASpec)
    ):
        raise UnsupportedError(f"prfaas does not support KV cache groups of {type(spec).__name__}")
    if isinstance(spec, SlidingWindowSpec):
        return Kind.WINDOW, int(spec.sliding_window)
    if isinstance(spec, FullAttentionSpec):
        return Kind.ATTENTION, 0
    if isinstance(spec, AttentionSpec):
        raise UnsupportedError(f"prfaas does not support KV cache groups of {type(spec).__name__}")
    raise UnsupportedError(f"prfaas does not know KV cache groups of {type(spec).__name__}")
