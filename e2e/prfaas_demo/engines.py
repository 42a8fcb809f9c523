"""The command line and the environment of the demo's two vLLM engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prfaas_demo import names
from prfaas_demo.layout import BLOCK_TOKENS, MAX_MODEL_TOKENS
from prfaas_demo.regions import Region

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class EngineOptions:
    """How one engine is run.

    Attributes:
        role: "prefill" or "decode".
        chunk_tokens: the most that one step computes; KV leaves a prefill engine chunk by chunk.
        threads: computing threads.
    """

    role: str
    chunk_tokens: int
    threads: int

    @property
    def kv_role(self) -> str:
        return "kv_producer" if self.role == "prefill" else "kv_consumer"


def command(
    options: EngineOptions, region: Region, model: Path, engine_socket: Path, python: Path
) -> list[str]:
    """`vllm serve` with the connector, on the CPU."""
    transfer = {
        "kv_connector": "PrfaasConnector",
        "kv_connector_module_path": "prfaas_connector.vllm",
        "kv_role": options.kv_role,
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"socket": str(engine_socket)},
    }
    events = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"ipc://{engine_socket}.events",
        "replay_endpoint": f"ipc://{engine_socket}.replay",
        "buffer_steps": 4096,
    }
    return [
        str(python.parent / "vllm"),
        "serve",
        str(model),
        "--served-model-name",
        names.MODEL,
        "--host",
        region.shell_address,
        "--port",
        str(region.ports.engine),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--block-size",
        str(BLOCK_TOKENS),
        "--max-model-len",
        str(MAX_MODEL_TOKENS),
        "--max-num-seqs",
        "4",
        "--max-num-batched-tokens",
        str(options.chunk_tokens),
        "--enable-prompt-tokens-details",
        "--kv-events-config",
        json.dumps(events),
        "--kv-transfer-config",
        json.dumps(transfer),
    ]


def kv_bytes_per_token(model: Path) -> int:
    """Size of one token's keys and values in float32, from a Llama-like model's configuration."""
    config = json.loads((model / "config.json").read_text())
    heads = config["num_key_value_heads"] * config["head_dim"]
    return int(config["num_hidden_layers"] * 2 * heads * FLOAT32_BYTES)


def environment(base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Variables beside those of `prfaas_setup.engine_env`: temporary files and sockets go to `scratch`."""
    scratch.mkdir(exist_ok=True)
    return {
        **base,
        # The demo resets the prefix cache, which vLLM offers to developers only.
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_RPC_BASE_PATH": str(scratch),
        "TMPDIR": str(scratch),
    }
