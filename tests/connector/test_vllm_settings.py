"""What the connector accepts when an engine starts, and what it refuses by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import vllm
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MLAAttentionSpec,
    SlidingWindowMLASpec,
    UniformTypeKVCacheSpecs,
)

from prfaas_connector.anytime import MAX_PATIENCE_SECONDS
from prfaas_connector.manifest import Group, Kind
from prfaas_connector.vllm.connector import PrfaasConnector
from prfaas_connector.vllm.settings import DEFAULT_SOCKET, Settings, SettingsError
from prfaas_connector.vllm.support import UnsupportedError, check, layout
from tests.connector import vllm_configs
from tests.connector.vllm_configs import BLOCK_TOKENS, WINDOW_TOKENS, attention, state, window

PLAIN = Settings.from_extra_config({"socket": "/run/engine.sock"})


# Settings.


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRFAAS_ENGINE_SOCKET", raising=False)
    assert Settings.from_extra_config({}) == Settings(
        DEFAULT_SOCKET, None, None, MAX_PATIENCE_SECONDS, "auto", False
    )


def test_the_socket_comes_from_the_setting_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRFAAS_ENGINE_SOCKET", "/from/environment")
    assert Settings.from_extra_config({}).socket == "/from/environment"
    assert Settings.from_extra_config({"socket": "/from/setting"}).socket == "/from/setting"


def test_all_settings() -> None:
    extra = {
        "socket": "/s",
        "model_identity": "m",
        "local_prefill_tokens_per_second": 7,
        "max_patience_seconds": 3,
        "device": "lazy",
        "layerwise": True,
    }
    assert Settings.from_extra_config(extra) == Settings("/s", "m", 7, 3.0, "lazy", True)


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"sokcet": "/s"}, "'sokcet' is unknown; known: device, layerwise"),
        ({"socket": 7}, "socket: a path"),
        ({"model_identity": 7}, "model_identity"),
        ({"local_prefill_tokens_per_second": 0}, "local_prefill_tokens_per_second"),
        ({"local_prefill_tokens_per_second": "fast"}, "local_prefill_tokens_per_second"),
        ({"local_prefill_tokens_per_second": True}, "local_prefill_tokens_per_second"),
        ({"local_prefill_tokens_per_second": float("nan")}, "local_prefill_tokens_per_second"),
        ({"max_patience_seconds": 0}, "max_patience_seconds"),
        ({"max_patience_seconds": None}, "max_patience_seconds"),
        ({"device": "cuda"}, "device: auto or lazy"),
        ({"layerwise": "yes"}, "layerwise: true or false"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(extra: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        Settings.from_extra_config(extra)


@pytest.mark.parametrize(("extra", "piecewise"), [({}, False), ({"layerwise": True}, True)])
def test_only_producers_that_say_so_give_up_full_graphs(extra: dict[str, Any], piecewise: bool) -> None:
    assert PrfaasConnector.requires_piecewise_for_cudagraph(extra) is piecewise


# Refusals.


@pytest.fixture
def config(tmp_path: Path) -> VllmConfig:
    return vllm_configs.vllm_config(vllm_configs.Settings(), tmp_path / "engine.sock")


def one_group(spec: KVCacheSpec | None = None, **group: Any) -> KVCacheConfig:
    made = KVCacheGroupSpec(["layer0"], spec or attention(), **group)
    return KVCacheConfig(num_blocks=10, kv_cache_tensors=[], kv_cache_groups=[made])


def test_an_ordinary_engine_is_accepted(config: VllmConfig) -> None:
    check(config, one_group(), PLAIN)


def refuse(part: str, **values: Any) -> Callable[[VllmConfig], None]:
    def change(config: VllmConfig) -> None:
        for name, value in values.items():
            # Past validation: a value that only another vLLM would let through must be refused too.
            object.__setattr__(getattr(config, part) if part else config, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (refuse("parallel_config", pipeline_parallel_size=2), "--pipeline-parallel-size above 1"),
        (refuse("parallel_config", decode_context_parallel_size=2), "--decode-context-parallel-size"),
        (refuse("parallel_config", prefill_context_parallel_size=2), "--prefill-context-parallel-size"),
        (refuse("parallel_config", enable_dbo=True), "--enable-dbo"),
        (refuse("", speculative_config=SimpleNamespace()), "--speculative-config"),
        (refuse("cache_config", kv_sharing_fast_prefill=True), "--kv-sharing-fast-prefill"),
        (refuse("cache_config", cache_dtype="fp8_e4m3"), "--kv-cache-dtype fp8_e4m3"),
        (refuse("cache_config", mamba_cache_mode="all"), "--mamba-cache-mode all"),
        (refuse("kv_transfer_config", kv_load_failure_policy="fail"), "kv_load_failure_policy"),
    ],
)
def test_an_unsupported_engine_is_refused_by_name(
    config: VllmConfig, change: Callable[[VllmConfig], None], names: str
) -> None:
    change(config)
    with pytest.raises(UnsupportedError, match=names):
        check(config, one_group(), PLAIN)


def test_an_encoder_decoder_model_is_refused(config: VllmConfig) -> None:
    whole = type(config.model_config)
    with (
        mock.patch.object(whole, "is_encoder_decoder", new_callable=mock.PropertyMock, return_value=True),
        pytest.raises(UnsupportedError, match="an encoder-decoder model"),
    ):
        check(config, one_group(), PLAIN)


def test_a_producer_alone_may_fail_loads(config: VllmConfig) -> None:
    refuse("kv_transfer_config", kv_load_failure_policy="fail", kv_role="kv_producer")(config)
    check(config, one_group(), PLAIN)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0.0", "0.3.2"])
def test_a_vllm_that_was_not_tested_is_refused(
    config: VllmConfig, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    with pytest.raises(UnsupportedError, match=f"vLLM {version}: this connector supports 0.32.x"):
        check(config, one_group(), PLAIN)


@pytest.fixture
def cuda_config(config: VllmConfig) -> Iterator[VllmConfig]:
    """As on a GPU, with full CUDA graphs."""
    config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
    object.__setattr__(config.device_config, "device_type", "cuda")
    eager = config.model_config.enforce_eager  # of an object that all tests share
    object.__setattr__(config.model_config, "enforce_eager", False)
    yield config
    object.__setattr__(config.model_config, "enforce_eager", eager)


def test_a_producer_with_full_graphs_is_refused(cuda_config: VllmConfig) -> None:
    with pytest.raises(UnsupportedError, match="layerwise to true"):
        check(cuda_config, one_group(), PLAIN)


@pytest.mark.parametrize("remedy", ["layerwise", "eager", "piecewise", "consumer"])
def test_what_a_producer_with_full_graphs_can_do(cuda_config: VllmConfig, remedy: str) -> None:
    settings = replace(PLAIN, layerwise=remedy == "layerwise")
    if remedy == "eager":
        object.__setattr__(cuda_config.model_config, "enforce_eager", True)
    if remedy == "piecewise":
        cuda_config.compilation_config.cudagraph_mode = CUDAGraphMode.PIECEWISE
    if remedy == "consumer":
        refuse("kv_transfer_config", kv_role="kv_consumer")(cuda_config)
    check(cuda_config, one_group(), settings)


@pytest.mark.parametrize("group", [{"host_resident": True}, {"enable_kv_transfer": False}])
def test_host_resident_groups_are_refused(config: VllmConfig, group: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="HiSparse"):
        check(config, one_group(**group), PLAIN)


# Layouts.

HALF = {"block_size": 16, "num_kv_heads": 2, "head_size": 64, "dtype": torch.bfloat16}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FullAttentionSpec(**HALF), Group(Kind.ATTENTION, 16, 0, (("layer0", 16 * 2 * 2 * 64 * 2),))),
        (
            MLAAttentionSpec(block_size=64, num_kv_heads=1, head_size=576, dtype=torch.bfloat16),
            Group(Kind.ATTENTION, 64, 0, (("layer0", 64 * 576 * 2),)),
        ),
        (window(), Group(Kind.WINDOW, BLOCK_TOKENS, WINDOW_TOKENS, (("layer0", BLOCK_TOKENS * 8),))),
        (state("align"), Group(Kind.STATE, BLOCK_TOKENS, 0, (("layer0", 16),))),
    ],
)
def test_groups_as_lanes_see_them(config: VllmConfig, spec: KVCacheSpec, expected: Group) -> None:
    made = layout(config, one_group(spec))
    assert made.groups == (expected,)
    assert made.shards == 1


def test_layers_of_one_group_may_differ_in_size(config: VllmConfig) -> None:
    specs: dict[str, KVCacheSpec] = {
        "a": FullAttentionSpec(**HALF),
        "b": FullAttentionSpec(**HALF | {"head_size": 32}),
    }
    uniform = UniformTypeKVCacheSpecs(block_size=16, kv_cache_specs=specs)
    caches = KVCacheConfig(10, [], [KVCacheGroupSpec(["a", "b"], uniform)])
    assert layout(config, caches).groups[0].layers == (("a", 8192), ("b", 4096))


def test_ranks_that_hold_the_same_kv_are_one_shard(config: VllmConfig) -> None:
    config.parallel_config.tensor_parallel_size = 8
    caches = one_group()
    caches.kv_tp_replicas = 4
    assert layout(config, caches).shards == 2


@pytest.mark.parametrize(
    "spec",
    [
        ChunkedLocalAttentionSpec(**HALF, attention_chunk_size=32),
        CrossAttentionSpec(**HALF),
        SlidingWindowMLASpec(**HALF | {"num_kv_heads": 1}, sliding_window=32),
        replace(state("align"), num_speculative_blocks=1),
        UniformTypeKVCacheSpecs(
            block_size=16, kv_cache_specs={"layer0": FullAttentionSpec(**HALF), "layer1": window()}
        ),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_groups_that_cannot_be_shipped_are_refused(config: VllmConfig, spec: KVCacheSpec) -> None:
    with pytest.raises(UnsupportedError, match="prfaas does not support"):
        layout(config, one_group(spec))


def test_an_unknown_kind_of_group_is_refused(config: VllmConfig) -> None:
    with pytest.raises(UnsupportedError, match="prfaas does not know KV cache groups of SimpleNamespace"):
        layout(config, one_group(SimpleNamespace(block_size=16)))  # type: ignore[arg-type]


def test_a_connector_for_an_unsupported_engine_does_not_start(config: VllmConfig) -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    config.parallel_config.enable_dbo = True
    for role in KVConnectorRole:
        with pytest.raises(UnsupportedError, match="--enable-dbo"):
            PrfaasConnector(config, role, one_group())
