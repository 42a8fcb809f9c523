"""What is told of an engine, from vLLM's own configuration objects. Runs inside the engine's environment."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from huggingface_hub import constants
from vllm.config.kv_events import KVEventsConfig

from prfaas_connector.local_api.messages import Facts
from prfaas_connector.local_api.model_files import folder_beside
from prfaas_connector.vllm import facts
from tests.connector import vllm_configs
from tests.connector.vllm_configs import BLOCK_TOKENS, MAX_MODEL_TOKENS
from tests.connector.vllm_engine import Engine
from tests.helpers import eventually

COMMIT = "1" * 40


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A configuration whose tokenizer is a folder of its own."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    model = copy.copy(vllm_configs.model_config())
    model.tokenizer, model.tokenizer_mode, model.skip_tokenizer_init = str(folder), "auto", False
    monkeypatch.setattr(vllm_configs, "model_config", lambda: model)
    return vllm_configs.vllm_config(vllm_configs.Settings(), tmp_path / "engine.sock")


def names(found: Facts) -> list[str]:
    return [file.name for file in found.model_files]


def test_the_facts_are_those_of_the_configuration(config: Any, tmp_path: Path) -> None:
    found = facts.gather(config, tmp_path / "engine.model", ["vllm", "serve", "x"])
    assert (found.block_tokens, found.max_model_tokens) == (BLOCK_TOKENS, MAX_MODEL_TOKENS)
    assert found.served_models == (str(config.model_config.served_model_name),)
    assert names(found) == ["tokenizer.json"]
    assert found.model_files_error == ""


def test_where_kv_events_are_published_is_told(config: Any, tmp_path: Path) -> None:
    assert facts.kv_events(config) == ()
    config.kv_events_config = KVEventsConfig(
        enable_kv_cache_events=True, endpoint="ipc://@events", replay_endpoint="ipc://@replay"
    )
    found = facts.gather(config, tmp_path / "engine.model", ["vllm", "serve", "x"])
    assert found.kv_events == ("ipc://@events", "ipc://@replay", "")
    config.kv_events_config.replay_endpoint = None
    assert facts.kv_events(config) == ("ipc://@events", "", "")
    config.kv_events_config.publisher = "null"
    assert facts.kv_events(config) == ()


def test_names_that_only_the_api_server_knows_come_from_the_command_line(config: Any, tmp_path: Path) -> None:
    arguments = ["vllm", "serve", "x", "--served-model-name", "chat", "chat-latest", "--port", "8000"]
    assert facts.gather(config, tmp_path / "m", arguments).served_models == ("chat", "chat-latest")


def test_a_chat_template_of_the_command_line_is_the_one_that_counts(config: Any, tmp_path: Path) -> None:
    (Path(config.model_config.tokenizer) / "chat_template.jinja").write_text("model's")
    own = tmp_path / "own.jinja"
    own.write_text("own")
    found = facts.gather(config, tmp_path / "m", [f"--chat-template={own}"])
    assert names(found) == ["tokenizer.json", "chat_template.jinja"]
    assert (tmp_path / "m" / "chat_template.jinja").read_text() == "own"
    broken = facts.gather(config, tmp_path / "m", ["--chat-template", "{{ messages }}"])
    assert (broken.model_files, "--chat-template" in broken.model_files_error) == ((), True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"skip_tokenizer_init": True}, "--skip-tokenizer-init"),
        ({"tokenizer_mode": "mistral"}, "--tokenizer-mode mistral"),
        ({"tokenizer": "nobody/nothing"}, "no tokenizer.json"),
    ],
)
def test_an_engine_without_such_files_is_told_all_the_same(
    config: Any, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    for name, value in changed.items():
        setattr(config.model_config, name, value)
    found = facts.gather(config, tmp_path / "m", [])
    assert found.max_model_tokens == MAX_MODEL_TOKENS
    assert (found.model_files, words in found.model_files_error) == ((), True)


def test_a_model_that_may_use_tekken_is_not_guessed_at(config: Any, tmp_path: Path) -> None:
    (Path(config.model_config.tokenizer) / "tekken.json").write_text("{}")
    assert "tekken.json" in facts.gather(config, tmp_path / "m", []).model_files_error


def test_the_hubs_cache_is_read_at_the_commit_and_never_the_network(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    for commit, text in ((COMMIT, "right"), ("2" * 40, "wrong")):
        snapshot = cache / "models--org--model" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "tokenizer.json").write_text(json.dumps(text))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    config.model_config.tokenizer, config.model_config.tokenizer_revision = "org/model", COMMIT
    assert names(facts.gather(config, tmp_path / "m", [])) == ["tokenizer.json"]
    assert (tmp_path / "m" / "tokenizer.json").read_text() == '"right"'


def test_nothing_of_this_stops_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Facts:
        raise RuntimeError("something new in the engine")

    monkeypatch.setattr(facts, "gather", broken)
    monkeypatch.setattr(logging.getLogger("prfaas"), "handlers", [caplog.handler])
    engine = Engine(vllm_configs.Settings(), tmp_path / "nobody.sock")
    eventually(lambda: "the sidecar cannot be told of this engine" in caplog.text)
    engine.close()


def test_an_engine_takes_its_copies_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "tokenizer.json"
    own.write_text("{}")
    monkeypatch.setattr(facts, "finder", lambda *_: lambda name: own if name == own.name else None)
    engine = Engine(vllm_configs.Settings(), tmp_path / "nobody.sock")
    folder = folder_beside(tmp_path / "nobody.sock")
    eventually((folder / own.name).exists)
    engine.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--chat-template", "a"], ["a"]),
        (["--chat_template=a b"], ["a b"]),
        (["--chat-template", "a", "--chat-template", "b"], ["b"]),
        (["--chat-template-content-format", "a"], []),
        (["--chat-template"], []),
        (["--chat-template", "--port"], []),
    ],
)
def test_an_option_is_found_in_either_way_of_writing_it(arguments: list[str], found: list[str]) -> None:
    assert facts.values("--chat-template", arguments) == found
