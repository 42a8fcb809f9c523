"""Runs inside the first stage of an image: lays out what the last stage copies. Standard library only.

    python3 install.py dependencies   the hashed wheels of a lock, into /install/dependencies
    python3 install.py project NAME…  the named packages of the project's wheel, into /install/project

Wheels are installed by the pip wheel among them, so neither the base nor the image has a pip.
"""

from __future__ import annotations

import compileall
import csv
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WHEELS = Path("/build/wheels")
LOCK = Path("/build/requirements.txt")
PROJECT = Path("/build/project")
# What packages ship and no process reads: their tests, sources of compiled parts, type stubs.
UNUSED_FOLDERS = ("tests", "test", "testing", "__pycache__")
UNUSED_SUFFIXES = (".pyi", ".pyx", ".pxd", ".c", ".h", ".cpp")
# Compiling the client's 900 models would double its size, and a process imports a handful of them.
NOT_COMPILED = ("kubernetes",)


def main(arguments: Sequence[str]) -> None:
    """Install one half of an image's content."""
    what, *packages = arguments
    if what == "dependencies":
        target = Path("/install/dependencies")
        _pip("--find-links", str(WHEELS), "--require-hashes", "--requirement", str(LOCK), target=target)
    elif what == "project":
        target = Path("/install/project")
        (wheel,) = PROJECT.glob("prfaas-*.whl")
        _pip("--no-deps", str(wheel), target=target)
        _keep_only(target, packages)
    else:
        raise SystemExit(__doc__)
    _remove_unused(target)
    _compile(target)


def _pip(*arguments: str, target: Path) -> None:
    (pip,) = WHEELS.glob("pip-*.whl")
    target.mkdir(parents=True)
    if arguments[0] == "--find-links" and not LOCK.read_text().strip():
        return
    subprocess.run(
        [sys.executable, str(pip / "pip"), "install", "--quiet", "--no-index", "--no-cache-dir",
         "--no-compile", "--disable-pip-version-check", "--root-user-action", "ignore",
         "--target", str(target), *arguments],
        check=True,
        env={**os.environ, "HOME": "/tmp"},  # noqa: S108 - inside the build's own container
    )  # fmt: skip


def _keep_only(target: Path, packages: Sequence[str]) -> None:
    """Remove the project's other packages, and their lines in the list of installed files."""
    kept = set(packages)
    for folder in target.iterdir():
        if folder.name.startswith("prfaas_") and ".dist-info" not in folder.name and folder.name not in kept:
            shutil.rmtree(folder)
    if "prfaas" not in kept:
        shutil.rmtree(target / "prfaas")
        shutil.rmtree(target / "bin", ignore_errors=True)
    missing = [name for name in packages if not (target / name).is_dir()]
    if missing:
        raise SystemExit(f"the wheel has no package {', '.join(missing)}")
    _rewrite_records(target)


def _remove_unused(target: Path) -> None:
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir() and path.name in UNUSED_FOLDERS and "dist-info" not in str(path):
            shutil.rmtree(path)
        elif path.is_file() and path.suffix in UNUSED_SUFFIXES:
            path.unlink()
    _rewrite_records(target)


def _rewrite_records(target: Path) -> None:
    """An image scanner believes these lists."""
    for record in target.glob("*.dist-info/RECORD"):
        with record.open(newline="") as file:
            rows = [row for row in csv.reader(file) if (target / row[0]).exists()]
        with record.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _compile(target: Path) -> None:
    """The root is read-only at run time: without this every start would compile everything again."""
    for entry in sorted(target.iterdir()):
        if entry.is_dir() and entry.name not in NOT_COMPILED:
            done = compileall.compile_dir(
                str(entry),
                stripdir=str(target),
                prependdir="/opt/prfaas",
                quiet=1,
                workers=1,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            if not done:
                raise SystemExit(f"{entry.name} does not compile")


if __name__ == "__main__":
    main(sys.argv[1:])
