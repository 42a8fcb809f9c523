"""Models for tests and the demo, made once and kept in the user's cache folder.

One has real weights. The others are tiny and random, one for each kind of KV cache that the connector
carries.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prfaas_setup import locations
from prfaas_setup.engine import engine_env, engine_key, ensure_engine
from prfaas_setup.locking import only_one
from prfaas_setup.progress import SetupError, run, step

BUILD_SECONDS = 600.0
REAL_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Model:
    """What a model is, and the arguments of `vllm serve` that it needs on a CPU."""

    description: str
    serve_arguments: tuple[str, ...]


MODELS: dict[str, Model] = {
    REAL_MODEL: Model(
        "SmolLM2-135M-Instruct with its real weights: full attention",
        ("--dtype", "float32"),
    ),
    "tiny-sliding-window": Model(
        "Gemma 3 text style: sliding window of 128 tokens beside full attention",
        ("--dtype", "float32"),
    ),
    # vLLM's Mamba2 kernel for CPUs returns no states in mid-prompt, and its prefix cache fails without them.
    "tiny-mamba2": Model(
        "Granite 4 hybrid style: Mamba2 states beside attention",
        ("--dtype", "float32", "--no-enable-prefix-caching"),
    ),
    "tiny-gated-delta-net": Model(
        "Qwen3-Next style: gated delta net states beside attention",
        ("--dtype", "bfloat16"),
    ),
    # vLLM's rotary embedding for CPUs is wrong for the shapes that latent attention passes to it.
    "tiny-mla": Model(
        "DeepSeek V3 style: multi-head latent attention",
        ("--dtype", "float32", "--compilation-config", '{"custom_ops":["-rotary_embedding"]}'),
    ),
}


def model_folder(name: str) -> Path:
    """Where a model lies, made or not.

    Raises:
        SetupError: there is no model of this name.
    """
    if name not in MODELS:
        raise SetupError(f"no model is called {name!r}; there are: {', '.join(MODELS)}")
    builder = _builder().read_bytes()
    return (
        locations.cache_folder()
        / "models"
        / f"{name}-{locations.content_key([engine_key().encode(), builder])}"
    )


def model_is_made(name: str) -> bool:
    """Whether a model is in the cache."""
    return model_folder(name).is_dir()


def ensure_model(name: str) -> Path:
    """Make a model if it is not there yet, with the engine's own libraries. Returns its folder."""
    folder = model_folder(name)
    if folder.is_dir():
        return folder
    python = ensure_engine()
    # The tiny models use the real one's tokenizer.
    tokenizer = [] if name == REAL_MODEL else [ensure_model(REAL_MODEL)]
    with only_one(folder.parent / f"{folder.name}.lock", folder.name, timeout_seconds=BUILD_SECONDS):
        if folder.is_dir():
            return folder
        with (
            step(f"model {folder.name} ({MODELS[name].description})"),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch,
        ):
            made = Path(scratch) / "model"
            run(
                [python, "-I", _builder(), name, made, *tokenizer],
                timeout_seconds=BUILD_SECONDS,
                env={**os.environ, **engine_env()},
            )
            made.rename(folder)
    return folder


def leftover_folders() -> Sequence[Path]:
    """Models in the cache that this checkout does not use."""
    used = {model_folder(name) for name in MODELS}
    return sorted(path for path in (locations.cache_folder() / "models").glob("*-*/") if path not in used)


def remove_cache() -> None:
    """Delete everything that this project keeps in the user's cache folder."""
    folder = locations.cache_folder()
    if folder.is_dir():
        with step(f"removing {folder}"):
            shutil.rmtree(folder)


def _builder() -> Path:
    return Path(__file__).with_name("model_builder.py")
