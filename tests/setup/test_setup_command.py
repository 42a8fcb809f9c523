"""The set-up as a newcomer meets it: from make and from the shell, before anything is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_setup import locations, models

ROOT = locations.checkout()
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


def setup(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the set-up as `make` does: by a Python that has nothing installed."""
    return subprocess.run(
        [BASE_PYTHON, "-S", "-m", "prfaas_setup", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "e2e", "XDG_CACHE_HOME": str(cache)},
    )


def test_doctor_needs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    result = setup("doctor", cache=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("not there yet (made on demand)") == len(models.MODELS)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_gives_one_line_and_status_1(tmp_path: Path) -> None:
    result = setup("model", "nope", cache=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"prfaas set-up: no model is called 'nope'.*\n", result.stderr)


def test_clean_cache_removes_only_the_own_folder(tmp_path: Path) -> None:
    (tmp_path / "prfaas" / "models").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert setup("clean-cache", cache=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_make_lists_its_targets() -> None:
    shown = subprocess.run(["make"], check=True, capture_output=True, text=True, timeout=20, cwd=ROOT).stdout
    listed = set(re.findall(r"^  make ([a-z-]+) ", shown, re.MULTILINE))
    wanted = {"help", "venv", "lock", "check", "test", "test-engines", "fuzz", "bench", "demo", "gpu-check"}
    assert wanted | {"clean", "clean-cache", "engine"} <= listed


def test_without_python_the_command_is_named(tmp_path: Path) -> None:
    for name in ("id", "sh"):
        (tmp_path / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    result = subprocess.run(
        [ROOT / "e2e" / "prfaas_setup" / "find-python"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": str(tmp_path), "NO_INSTALL": "1"},
    )
    assert result.returncode == 1
    assert "apt-get install" in result.stderr


def test_gpu_check_says_why_it_skips(tmp_path: Path) -> None:
    for name in ("dirname", "sh"):
        (tmp_path / name).symlink_to(
            f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}"
        )
    bare = tmp_path / "python3"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    result = subprocess.run(
        [ROOT / "e2e" / "prfaas_setup" / "gpu-check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("gpu-check: SKIPPED: ")


@pytest.mark.parametrize("script", [".ci/run", "e2e/prfaas_setup/find-python", "e2e/prfaas_setup/gpu-check"])
def test_scripts_parse_and_are_executable(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = "bash" if path.read_text().startswith("#!/usr/bin/env bash") else "sh"
    subprocess.run([shell, "-n", path], check=True, timeout=20)
