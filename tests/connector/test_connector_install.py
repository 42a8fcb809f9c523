"""The carrier's command: the package as a whole in a folder, also when it runs again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prfaas_connector import install as module
from prfaas_connector.install import PACKAGE, install, main


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_copy_is_a_package_that_imports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prfaas_connector.install", tmp_path / "new" / "prfaas"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    target = tmp_path / "new" / "prfaas"
    assert [path.name for path in target.iterdir()] == ["prfaas_connector"]
    assert tree(target / "prfaas_connector") == tree(PACKAGE)
    assert not list(target.rglob("__pycache__"))
    # Without the project on the path, and without writing beside the sources.
    shown = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            "-c",
            f"import sys; sys.path.insert(0, {str(target)!r});"
            "import prfaas_connector.client as c; print(c.__file__)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert shown.stdout.strip() == str(target / "prfaas_connector" / "client.py")


def test_again_replaces_an_older_one_and_what_was_left_half(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "prfaas_connector" / "gone_in_this_version.py").write_text("")
    (tmp_path / ".prfaas_connector.new-0").mkdir()
    install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prfaas_connector"]
    assert tree(tmp_path / "prfaas_connector") == tree(PACKAGE)


def test_other_users_can_read_it(tmp_path: Path) -> None:
    installed = install(tmp_path)
    for path in (installed, *installed.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_a_copy_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        install(tmp_path)
    assert tree(tmp_path / "prfaas_connector") == tree(PACKAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["prfaas_connector"]


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 2), (["a", "b"], 2)])
def test_bad_calls(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert "usage: " in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file" / "x")]) == 1
    said = capsys.readouterr().err
    assert "must be writable for user" in said
    assert "Traceback" not in said
