"""The fingerprint: equal where KV may be exchanged, different where it may not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vllm
from vllm.config import ModelConfig

from prfaas_connector.manifest import Group, Kind, Layout
from prfaas_connector.vllm import fingerprint
from prfaas_connector.vllm.settings import Settings
from tests.connector.vllm_configs import MODEL

SETTINGS = Settings.from_extra_config({"socket": "/run/engine.sock"})
LAYOUT = Layout(
    (
        Group(Kind.ATTENTION, 16, 0, (("a", 128), ("b", 128))),
        Group(Kind.WINDOW, 16, 32, (("w", 128),)),
        Group(Kind.STATE, 16, 0, (("s", 1000),)),
    ),
    shards=2,
)


class Engine:
    """The parts of an engine's configuration that a fingerprint reads, open to change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = SETTINGS
        self.layout = LAYOUT
        self.model: dict[str, Any] = {}
        self.cache = SimpleNamespace(cache_dtype="auto", mamba_cache_mode="align", block_size=16)
        self.parallel = SimpleNamespace(tensor_parallel_size=4)
        self.device = SimpleNamespace(device_type="cpu")
        self.attention = SimpleNamespace(backend=None)
        self.kv_cache_layout = "NHD"

    def fields(self) -> dict[str, str]:
        model = ModelConfig(model=str(self.folder), skip_tokenizer_init=True, dtype="float32")
        for name, value in self.model.items():
            object.__setattr__(model, name, value)
        config = SimpleNamespace(
            model_config=model,
            cache_config=self.cache,
            parallel_config=self.parallel,
            device_config=self.device,
            attention_config=self.attention,
        )
        caches = SimpleNamespace(kv_cache_layout=self.kv_cache_layout)
        return fingerprint.fields(config, caches, self.layout, self.settings)


def make_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MODEL | config))
    (folder / "model-1.safetensors").write_bytes(b"first" * 1000)
    (folder / "model-2.safetensors").write_bytes(b"second" * 1000)
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(make_model(tmp_path / "model"))


def change_groups(**values: Any) -> Callable[[Engine], None]:
    def change(engine: Engine) -> None:
        first = replace(engine.layout.groups[0], **values)
        engine.layout = replace(engine.layout, groups=(first, *engine.layout.groups[1:]))

    return change


def change_config(engine: Engine) -> None:
    (engine.folder / "config.json").write_text(json.dumps(MODEL | {"rope_theta": 5.0}))


def change_weights(name: str, content: bytes) -> Callable[[Engine], None]:
    return lambda engine: (engine.folder / name).write_bytes(content) and None


CHANGES: dict[str, tuple[str, Callable[[Engine], None]]] = {
    "one byte of the weights": ("model", change_weights("model-2.safetensors", b"sEcond" + b"second" * 999)),
    "the weights' size": ("model", change_weights("model-2.safetensors", b"second" * 1001)),
    "another file of weights": ("model", change_weights("model-3.safetensors", b"")),
    "the identity that was set": (
        "model",
        lambda engine: setattr(engine, "settings", replace(SETTINGS, model_identity="another")),
    ),
    "the model's configuration": ("config", change_config),
    "dtype": ("dtype", lambda engine: engine.model.update(dtype="bfloat16")),
    "quantization": ("quantization", lambda engine: engine.model.update(quantization="fp8")),
    "cache dtype": ("kv_cache_dtype", lambda engine: setattr(engine.cache, "cache_dtype", "fp8")),
    "cache layout": ("kv_cache_layout", lambda engine: setattr(engine, "kv_cache_layout", "HND")),
    "mamba cache mode": (
        "mamba_cache_mode",
        lambda engine: setattr(engine.cache, "mamba_cache_mode", "none"),
    ),
    "block size": ("groups", change_groups(block_tokens=32)),
    "window": ("groups", change_groups(window_tokens=8)),
    "kind": ("groups", change_groups(kind=Kind.WINDOW)),
    "a layer's name": ("groups", change_groups(layers=(("a", 128), ("c", 128)))),
    "a layer's size": ("groups", change_groups(layers=(("a", 128), ("b", 256)))),
    "a layer less": ("groups", change_groups(layers=(("a", 128),))),
    "the groups' order": (
        "groups",
        lambda engine: setattr(engine, "layout", replace(LAYOUT, groups=LAYOUT.groups[::-1])),
    ),
    "shards": ("shards", lambda engine: setattr(engine, "layout", replace(LAYOUT, shards=1))),
    "tensor parallel size": (
        "tensor_parallel_size",
        lambda engine: setattr(engine.parallel, "tensor_parallel_size", 2),
    ),
    "device": ("attention", lambda engine: setattr(engine.device, "device_type", "cuda")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_matters_changes_it_and_is_named(engine: Engine, what: str) -> None:
    before = engine.fields()
    field, change = CHANGES[what]
    change(engine)
    after = engine.fields()
    assert [name for name in before if before[name] != after[name]] == [field]
    assert fingerprint.digest(before) != fingerprint.digest(after)


def test_the_instruction_set_matters_on_a_cpu(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for isa in ("amx", "vec"):
        monkeypatch.setattr("vllm.v1.attention.backends.cpu_attn._get_attn_isa", lambda *_, isa=isa: isa)
        found.append(engine.fields()["attention"])
    assert found == ["cpu amx", "cpu vec"]


def test_the_attention_backend_matters_on_a_gpu(engine: Engine) -> None:
    engine.device.device_type = "cuda"
    assert engine.fields()["attention"] == "cuda default"
    engine.attention.backend = SimpleNamespace(name="FLASHINFER")
    assert engine.fields()["attention"] == "cuda FLASHINFER"


def test_only_the_minor_version_of_the_engine_matters(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for version in ("0.32.0", "0.32.7", "0.33.0"):
        monkeypatch.setattr(vllm, "__version__", version)
        found.append(engine.fields()["engine"])
    assert found == ["vllm 0.32", "vllm 0.32", "vllm 0.33"]


def test_where_the_model_lies_does_not_matter(engine: Engine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mnt" / "models" / "the-same"
    shutil.copytree(engine.folder, elsewhere)
    (elsewhere / "README.md").write_text("downloaded yesterday")
    assert Engine(elsewhere).fields() == engine.fields()


def test_what_says_nothing_about_kv_does_not_matter(engine: Engine) -> None:
    before = engine.fields()
    config = MODEL | {"transformers_version": "9.9.9", "_name_or_path": "/somewhere"}
    (engine.folder / "config.json").write_text(json.dumps(config))
    engine.settings = replace(SETTINGS, socket="/another", device="lazy", max_patience_seconds=1.0)
    assert engine.fields() == before


def test_mamba_mode_matters_only_with_state(engine: Engine) -> None:
    engine.layout = replace(LAYOUT, groups=LAYOUT.groups[:2])
    before = engine.fields()
    engine.cache.mamba_cache_mode = "none"
    assert engine.fields() == before


def test_a_model_by_name_is_known_by_name_and_revision() -> None:
    assert fingerprint.model_identity("org/model", None) == "org/model@main"
    assert fingerprint.model_identity("org/model", "abc") == "org/model@abc"


def test_the_ends_of_a_large_file_of_weights_are_read(tmp_path: Path) -> None:
    size = 5 << 20
    found = set()
    for at in (0, size - 1, None):
        weights = bytearray(size)
        if at is not None:
            weights[at] = 1
        (tmp_path / "model.safetensors").write_bytes(weights)
        found.add(fingerprint.model_identity(str(tmp_path), None))
    assert len(found) == 3


def test_a_digest_is_a_digest() -> None:
    assert fingerprint.digest({"a": "1", "b": "2"}) == fingerprint.digest({"b": "2", "a": "1"})
    assert len(fingerprint.digest({})) == 64
